"""A debate: two solvers answer, read each other's answer and answer again; a judge reads both and decides.

    python -m data.examples.debate                the debate
    python -m data.examples.debate --arm muted    the second debater speaks, but nobody is shown what it says
    python -m data.examples.debate --arm two      planner and solver instead

Other flags go to train.py. All arms begin with the same weights, see shared.py; what came of them stands in
README.md. In speaking order a debate is a, b (who sees the question only, as a does), a2 (a again, who has read b),
b2 (b again, who has read a) and the judge. One set of weights speaks for all of them and learns from all of them at
every step (--share), in all arms alike: of five that learn in turn each would see a fifth of the steps.
"""
from dataclasses import replace

import rewards
from data.examples import shared
from data.examples.shared import choose, converse, deafen, write_answer, write_plan
from data.problems.arithmetic import right_plan, values, working
from data.views.program import run_program
from rema import HIGH, LOW, VRP, Episode, Role, Turn, reward_answer


def reward_own_answer(turn: Turn, episodes: list[Episode]) -> float:
    """A debater earns what its own words earn, whatever the judge says: +1 right, -0.5 wrong, -1 without a box."""
    return rewards.compute_reward(turn.text, episodes[0].row["answer"])


A = replace(VRP, name="a", reward=reward_own_answer)
B = replace(A, name="b")
READ = "Problem:\n{question}\n\nAnswer:\n%s\n\nAnswer:\n%s"       # the own answer first
A2 = Role("a2", VRP.system, READ % ("{a}", "{b}"), reward_own_answer)
B2 = Role("b2", VRP.system, READ % ("{b}", "{a}"), reward_own_answer)
JUDGE = Role("judge", "Put the right answer in \\boxed{}.", READ % ("{a2}", "{b2}"), reward_answer)
MUTED = [A, B, deafen(A2, "b"), B2, deafen(JUDGE, "b2")]

# name -> who speaks, in order, and how long: all arms sample about as many tokens
SHARED = "--share --switch-every 0 --eval-every 6"
ARMS = {"debate": ([A, B, A2, B2, JUDGE], f"{SHARED} --group 2 --questions 16 --steps 18"),
        "muted": (MUTED, f"{SHARED} --group 2 --questions 16 --steps 18"),
        "two": ([HIGH, LOW], f"{SHARED} --group 4 2 --steps 36")}

SECOND = {"keep": .35, "adopt": .3, "anew": .35}                 # what somebody does who has read another answer
VERDICTS = {"first": .35, "second": .35, "right": .3}            # and what a judge does with two of them


# ------------------------------------------------------------------------------------------------------------
# Lessons

def box(text: str) -> str:
    """Only the final answer that a text gives."""
    return f"\\boxed{{{rewards.extract(text)}}}"


def answer_again(rng, row: dict, own: str, other: str) -> str:
    """Hold to one's answer, take the other's, or solve the problem anew. Nothing was heard: the own one or anew."""
    habit = choose(rng, SECOND)
    if habit == "anew":
        return write_answer(rng, row, write_plan(rng, row))
    if habit == "adopt" and other != shared.NOTHING:
        return box(other)
    return box(own)


def decide(rng, row: dict, first: str, second: str) -> str:
    """One of two answers, now and then the right one on purpose, worked out if neither is."""
    habit = choose(rng, VERDICTS)
    if habit == "right":
        for answer in (first, second):
            if rewards.is_correct(answer, row["answer"]):
                return box(answer)
        plan = right_plan(row["problem"])
        return f"{working(plan)} \\boxed{{{values(plan)[-1]}}}"
    if habit == "second" and second != shared.NOTHING:
        return box(second)
    return box(first)


def write_lessons(rng, row: dict) -> list[list[dict]]:
    """What all voices of the three arms say to a problem; a and b are told the same, and so learn the same."""
    said = {"high": write_plan(rng, row)}
    for name in ("a", "b"):
        said[name] = write_answer(rng, row, write_plan(rng, row))
    said["a2"] = answer_again(rng, row, said["a"], said["b"])
    said["b2"] = answer_again(rng, row, said["b"], said["a"])
    alone = answer_again(rng, row, said["a"], shared.NOTHING)
    verdict = decide(rng, row, said["a2"], said["b2"])
    lonely = decide(rng, row, said["a2"], shared.NOTHING)
    return [converse(A, row, said, said["a"]), converse(A2, row, said, said["a2"]),
            converse(deafen(A2, "b"), row, said, alone), converse(JUDGE, row, said, verdict),
            converse(deafen(JUDGE, "b2"), row, said, lonely), converse(HIGH, row, said, said["high"]),
            converse(LOW, row, said, write_answer(rng, row, said["high"]))]


def program(argv: list[str] | None) -> None:
    shared.run("debate", __doc__, ARMS, write_lessons, argv)


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "debate")


if __name__ == "__main__":
    main()
