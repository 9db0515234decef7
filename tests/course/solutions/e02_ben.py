import numpy as np

from data.answers.comparing import count_answers, equivalent


def penalise(earned: float, plan: str, leak: float) -> float:
    """What was earned, less what it costs that a plan states an answer."""
    return float(earned - leak * has_box(plan))


def count_equivalent(answers: list[str]) -> np.ndarray:
    """How often each different answer was given."""
    different, counts = [], []
    for answer in answers:
        for i, known in enumerate(different):
            if equivalent(known, answer):
                counts[i] += 1
                break
        else:
            different.append(answer)
            counts.append(1)
    return np.array(counts)


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
    return penalise(np.mean(correct) if correct else 0.0, plan_text, leak)


def consistency_reward(plan_text: str, responses: list[str], leak: float = 1.0) -> float:
    """Share of the most frequent answer, whatever the truth; 0 if most give none; the same penalty (C.2).

    The share is one of all responses. An answer is what extract finds, and equivalent answers are the same one.
    Where half of the responses give an answer, that is enough. Without responses the share is 0.
    """
    found = [extract(response) for response in responses]
    answers = [answer for answer in found if answer is not None]
    share = 0.0
    if answers and 2 * len(answers) >= len(responses):
        share = count_equivalent(answers).max() / len(responses)
    return penalise(share, plan_text, leak)
