from data.answers.comparing import count_answers, equivalent


def compute_reward(response: str, answer: str) -> float:
    """+1.0 for a correct answer, -0.5 for a wrong one in a box, -1.0 without a box (C.2, low-level agent).

    is_correct says what is correct, extract what is in a closed box. An empty box is a wrong answer.
    """
    if is_correct(response, answer):
        return 1.0
    if extract(response) is None:
        return -1.0
    return -0.5


def plan_reward(plan_text: str, correct: list[bool], leak: float = 1.0) -> float:
    """Mean correctness of the answers under a plan, minus `leak` if it states one (C.2, high-level agent).

    Without answers the mean is 0. has_box says whether a plan states an answer.
    """
    earned = 0.0
    for right in correct:
        if right:
            earned += 1.0
    if correct:
        earned /= len(correct)
    if has_box(plan_text):
        earned -= leak
    return earned


def consistency_reward(plan_text: str, responses: list[str], leak: float = 1.0) -> float:
    """Share of the most frequent answer, whatever the truth; 0 if most give none; the same penalty (C.2).

    The share is one of all responses. An answer is what extract finds, and equivalent answers are the same one.
    Where half of the responses give an answer, that is enough. Without responses the share is 0.
    """
    counts = {}                          # the first way in which an answer was written -> how often it was given
    given = 0
    for response in responses:
        answer = extract(response)
        if answer is None:
            continue
        given += 1
        for known in counts:
            if equivalent(known, answer):
                counts[known] += 1
                break
        else:
            counts[answer] = 1
    earned = 0.0
    if given > 0 and 2 * given >= len(responses):
        earned = max(counts.values()) / len(responses)
    if has_box(plan_text):
        earned -= leak
    return earned
