"""The planner reads how similar problems were solved: the K nearest training problems, with their plans.

    python -m data.examples.retrieval                   the nearest ones, by their character n-grams
    python -m data.examples.retrieval --arm shuffled    those of another problem instead
    python -m data.examples.retrieval --arm two         no store: the usual planner and solver

Other flags go to train.py. All arms begin with the same weights, see shared.py; what came of them stands in
README.md. The store holds training problems only, and a problem never finds itself.
"""
import functools
import random
import re
from dataclasses import dataclass

import numpy as np

from data.examples import shared
from data.examples.shared import converse, write_answer, write_plan
from data.problems.arithmetic import right_plan
from data.problems.generate import generate
from data.views.program import run_program
from rema import HIGH, LOW, Role, reward_plan

STORED = 1500                            # training problems in the store
K = 2                                    # of them are shown
N = 4                                    # n-grams of up to so many signs
IMITATED = .5                            # of plans in the lessons: written after the nearest neighbour's


# ------------------------------------------------------------------------------------------------------------
# The store: a vector of n-gram counts for each solved problem

def count_grams(text: str) -> dict[str, int]:
    """The n-grams of a problem, n from 1 to N, with how often each occurs.

    All digits read alike: how a problem is solved lies in its signs and brackets. ^ and $ mark its ends.
    """
    text = "^" + re.sub(r"\d", "0", text) + "$"
    counts = {}
    for n in range(1, N + 1):
        for i in range(len(text) - n + 1):
            gram = text[i:i + n]
            counts[gram] = counts.get(gram, 0) + 1
    return counts


class Store:
    """Solved problems, and the nearest of them to a new one by the cosine of their n-gram counts."""

    def __init__(self, rows: list[dict]):
        self.solved = {row["problem"]: right_plan(row["problem"]) for row in rows}     # each text once
        self.problems = list(self.solved)
        self.columns = {}                            # n-gram -> its column
        for problem in self.problems:
            for gram in count_grams(problem):
                self.columns.setdefault(gram, len(self.columns))
        self.vectors = np.stack([self.embed(problem) for problem in self.problems])

    def embed(self, problem: str) -> np.ndarray:
        """Its vector (n-grams that occur in the store,), of length 1."""
        vector = np.zeros(len(self.columns), dtype=np.float32)
        for gram, count in count_grams(problem).items():
            if gram in self.columns:
                vector[self.columns[gram]] = count
        return vector / max(1e-9, np.linalg.norm(vector))

    def find(self, problem: str, k: int = K) -> list[str]:
        """The k nearest problems, the nearest first, without the problem itself; of equals the first stored."""
        likeness = self.vectors @ self.embed(problem)
        nearest = np.argsort(-likeness, kind="stable")
        found = [self.problems[i] for i in nearest[:k + 1]]
        return [other for other in found if other != problem][:k]


@functools.cache
def open_store() -> Store:
    return Store(generate(STORED, seed="store"))


@functools.cache
def find_neighbours(problem: str) -> tuple[str, ...]:
    return tuple(open_store().find(problem))


@functools.cache
def find_strangers(problem: str) -> tuple[str, ...]:
    """What another problem's neighbours are: always the same ones for this problem."""
    others = open_store().problems
    return find_neighbours(random.Random(problem).choice(others))


# ------------------------------------------------------------------------------------------------------------
# Who speaks

@dataclass(frozen=True)
class Reader(Role):
    """A planner that is shown solved problems: similar ones, or with `shuffled` those of another problem."""
    shuffled: bool = False

    def prompt(self, row: dict, said: dict[str, str]) -> list[dict]:
        shown = find_neighbours(row["problem"])
        if self.shuffled:
            shown = find_strangers(row["problem"])
        lines = []
        for problem in reversed(shown):              # the nearest one last, where it is nearest
            lines.append(f"Problem:\n{problem}\n\nPlan:\n{open_store().solved[problem]}\n\n")
        return super().prompt({**row, "problem": "".join(lines) + f"Problem:\n{row['problem']}\n\nPlan:"}, said)


READER = Reader("high", HIGH.system, "{question}", reward_plan)
STRANGER = Reader("high", HIGH.system, "{question}", reward_plan, shuffled=True)

# name -> who speaks, in order, and how long: all arms sample about as many tokens
ARMS = {"retrieval": ([READER, LOW], "--steps 40"),
        "shuffled": ([STRANGER, LOW], "--steps 40"),
        "two": ([HIGH, LOW], "--steps 40")}


# ------------------------------------------------------------------------------------------------------------
# Lessons

def imitate(problem: str, neighbour: str) -> str | None:
    """The neighbour's plan with this problem's numbers in it: right if the two are alike but for their numbers.

    None where they have not as many numbers. "9-(2+3)" after "8-(1+4)", a=1+4; 8-a: a=2+3; 9-a
    """
    numbers, others = re.findall(r"\d+", problem), re.findall(r"\d+", neighbour)
    if len(numbers) != len(others):
        return None
    lettered = neighbour                             # its numbers as places: 8-(1+4) -> 100-(101+102)
    places = iter(range(len(others)))
    lettered = re.sub(r"\d+", lambda _: f"10{next(places)}", lettered)
    plan = right_plan(lettered)
    return re.sub(r"10(\d)", lambda match: numbers[int(match[1])], plan)


def write_read_plan(rng, row: dict, neighbours: tuple[str, ...]) -> str:
    """A plan of somebody who may have looked at the neighbours."""
    imitation = imitate(row["problem"], neighbours[0])
    if imitation is not None and rng.random() < IMITATED:
        return imitation
    return write_plan(rng, row)


def write_lessons(rng, row: dict) -> list[list[dict]]:
    """What a planner says who sees neighbours, strangers or nothing, and what the solver answers to two of them."""
    conversations = []
    for role, shown in ((READER, find_neighbours(row["problem"])), (STRANGER, find_strangers(row["problem"]))):
        plan = write_read_plan(rng, row, shown)
        conversations.append(converse(role, row, {}, plan))
    plan = write_plan(rng, row)
    conversations.append(converse(HIGH, row, {}, plan))
    conversations.append(converse(LOW, row, {"high": plan}, write_answer(rng, row, plan)))
    return conversations


def program(argv: list[str] | None) -> None:
    shared.run("retrieval", __doc__, ARMS, write_lessons, argv)


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "retrieval")


if __name__ == "__main__":
    main()
