import re
from data.answers.comparing import count_answers, drop_thought, equivalent
from data.answers.comparing import parse  # noqa: E402


def compute_reward(response: str, answer: str) -> float:
    """+1.0 for a correct answer, -0.5 for a wrong one in a box, -1.0 without a box (C.2, low-level agent).

    is_correct says what is correct, extract what is in a closed box. An empty box is a wrong answer.
    """
    if is_correct(response, answer):
        return 1.0
    return -1.0 if extract(response) is None else -0.5


def plan_reward(plan_text: str, correct: list[bool], leak: float = 1.0) -> float:
    """Mean correctness of the answers under a plan, minus `leak` if it states one (C.2, high-level agent).

    Without answers the mean is 0. has_box says whether a plan states an answer.
    """
    return punish_leak(sum(correct) / len(correct) if correct else 0.0, plan_text, leak)


def punish_leak(earned: float, plan_text: str, leak: float) -> float:
    return earned - leak if has_box(plan_text) else earned


def consistency_reward(plan_text: str, responses: list[str], leak: float = 1.0) -> float:
    """Share of the most frequent answer, whatever the truth; 0 if most give none; the same penalty (C.2).

    The share is one of all responses. An answer is what extract finds, and equivalent answers are the same one.
    Where half of the responses give an answer, that is enough. Without responses the share is 0.
    """
    given = [answer for answer in map(extract, responses) if answer is not None]
    enough = given and 2 * len(given) >= len(responses)
    share = max(count_same(given)) / len(responses) if enough else 0.0
    return punish_leak(share, plan_text, leak)


def count_same(answers: list[str]) -> list[int]:
    """How many answers are the same as the first of their kind, a number a kind."""
    kinds: dict[str, int] = {}
    for answer in answers:
        kind = next((known for known in kinds if equivalent(known, answer)), answer)
        kinds[kind] = kinds.get(kind, 0) + 1
    return list(kinds.values())
