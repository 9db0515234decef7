"""An exercise for the tests of the runner: small, and its child starts without torch."""
from random import Random

from data.course.exercises import Case, Mistake

TITLE = "the small one"
MINUTES = 1
TARGETS = ["rewards.compute_reward", "rewards.has_box"]
PARTS = {"a": 1, "b": 2, "c": 3, "d": 4}


def make_cases(random: Random) -> list[Case]:
    cases = []
    for part in PARTS:
        for response in (r"\boxed{2}", r"\boxed{3}", str(random.random())):
            cases.append(Case(part, part, {"part": part, "response": response}))
    return cases


def run(given: dict):
    import rewards

    return [rewards.compute_reward(given["response"], "2"), rewards.has_box(given["response"]), given["part"]]


def expect(given: dict):
    right = {r"\boxed{2}": 1.0, r"\boxed{3}": -0.5}
    return [right.get(given["response"], -1.0), given["response"] in right, given["part"]]


MISTAKES = [Mistake("a wrong answer costs half a point, none a whole one", "return -1.0", "return 0.0")]
