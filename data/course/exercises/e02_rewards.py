"""Exercise 2. WRITING.md in the folder above says how such a file is laid out."""
from collections import Counter
from fractions import Fraction
from random import Random

from data.course.exercises import Case, Mistake

TITLE = "what an answer and a plan earn"
MINUTES = 35
TARGETS = ["rewards.compute_reward", "rewards.plan_reward", "rewards.consistency_reward"]
PARTS = {"answer": 3, "plan": 3, "consistency": 4}

TEXT = r"""
The two agents of ReMA are paid for different things (appendix C.2 of the paper). Who solves is paid for its own words:
1 for a right answer, less for a wrong one, least where there is no answer in a box at all, so that the form is learned
first. Who plans never answers. Its plan is as good as what follows from it, so it earns the share of right answers that
were given under it.

That alone would be learned the wrong way: the best plan is then the finished answer, and the solver copies it. So a
plan that states an answer in a box pays for it. Write `rewards.compute_reward` and `rewards.plan_reward`. The third
function, `rewards.consistency_reward`, is the paper's way to pay plans without a look at the right answer: a clear plan
leads every solver to the same one.

What you need is there already, in the same script or imported by it: `is_correct(response, answer)`,
`extract(response)` (what the last closed box holds, or None), `has_box(plan)` and `equivalent(a, b)`.

By hand, the right answer being 12:

| | earns |
|---|---|
| the response `3 * 4 = \boxed{12}` | 1 |
| the response `3 + 4 = \boxed{7}` | -0.5 |
| the response `It is 12.` | -1 |
| the plan `multiply`, followed by a right, a wrong, a right and a right answer | 3/4 |
| the plan `it is \boxed{12}`, followed by the same | 3/4 - 1 = -1/4 |
| for agreement: the plan `halve it`, followed by `\boxed{1/2}`, `\boxed{0.5}`, `\boxed{2}`, `no idea` | 2/4 |

What makes it harder than it looks:

- 1/2 and 0.5 are one answer, for a solver's reward and for agreement. Comparing strings is not enough. (plan_reward is
  told what was right.)
- A solver's box counts once it is closed. A plan's counts as soon as it opens and something stands in it: cutting a
  plan off is no way around the penalty. But a plan may ask for `\boxed{}`.
- Agreement is a share of all responses. One answer and nine shrugs agree to a tenth, and earn nothing at all, since
  most say nothing.
- A box may be empty: what `extract` gives is then "", which is an answer and not None. (`equivalent("", "")` is False,
  but whether two empty boxes agree is left to you: no check asks for it.)
- A penalty is taken off what was earned. It does not replace it, and nothing stops it at 0.
"""

HINTS = [
    "Each is a few lines. compute_reward asks two questions, one after the other: is it correct? Is there an answer "
    "at all (extract gives None, or something, be it empty)? plan_reward is a mean and a subtraction; sum counts the "
    "True in a list.",
    "In consistency_reward, collect first what extract finds, leaving out None. If they are fewer than half of the "
    "responses (or none), the share is 0, but the penalty still follows.",
    "For each given answer a, count the answers b for which equivalent(a, b). The largest count, divided by the number "
    "of responses, is the share.",
]

# Each value in several spellings, and far from one another: no two of them could be taken for the same by rounding.
SPELLINGS = {r"\frac{1}{2}": Fraction(1, 2), "0.5": Fraction(1, 2), "1/2": Fraction(1, 2), "7": Fraction(7),
             "7.0": Fraction(7), "+7": Fraction(7), "-3": Fraction(-3), "-6/2": Fraction(-3), "1200": Fraction(1200),
             "1,200": Fraction(1200), "2": Fraction(2), "40": Fraction(40)}
SHRUGS = ["no idea", r"it is \boxed{7", "The answer is 7.", "7"]
# Plans, and whether they state an answer.
PLANS = {"multiply, then add": False, r"first a, then b, and \boxed{}": False, r"\boxed{ } is for the answer": False,
         r"it is \boxed{7}": True, r"it is \boxed{7": True, r"write \fbox{x}": True, "7": False}
# Responses to a question whose answer is 12 (the last one: -2, 7), and what they earn.
TWELVE = {r"3 * 4 = \boxed{12}": 1.0, r"3 + 4 = \boxed{7}": -0.5, "It is 12.": -1.0, r"\boxed{}": -0.5,
          r"It is \boxed{12": -1.0, "The answer is 12.": -1.0, r"\boxed{7}, no, \boxed{12}": 1.0,
          r"\boxed{12}, no, \boxed{7}": -0.5, r"\boxed{\frac{24}{2}}": 1.0, r"x is \boxed{-2} or \boxed{7}": 1.0}


# ------------------------------------------------------------------------------------------------------------
# Inputs

def make_cases(random: Random) -> list[Case]:
    cases = []
    for response in TWELVE:
        answer = "12"
        if " or " in response:
            answer = "-2, 7"
        cases.append(Case("answer", f"{response}, right is {answer}", {"response": response, "answer": answer}))
    for answer, value in SPELLINGS.items():
        same = [other for other in SPELLINGS if SPELLINGS[other] == value]
        spelling = random.choice([random.choice(same), random.choice(list(SPELLINGS))])
        response = f"it is \\boxed{{{spelling}}}"
        cases.append(Case("answer", f"{response}, right is {answer}", {"response": response, "answer": answer}))

    right = [True, False, True, True]
    for says, plan, correct in (("3 of 4 right", "multiply", right),
                                ("3 of 4 right, a box", r"it is \boxed{12}", right),
                                ("1 of 1 right", "multiply", [True]), ("1 of 2 right", "multiply", [False, True]),
                                ("no answers, a box", r"it is \boxed{12}", []), ("no answers", "multiply", [])):
        cases.append(Case("plan", says, {"plan": plan, "correct": correct}))
    for plan in PLANS:
        correct = [random.random() < 0.5 for _ in range(random.randint(2, 7))] + [True]
        leak = random.choice([0.25, 0.5, 1.5])
        says = f"{sum(correct)} of {len(correct)} right under the plan {plan!r}, leak {leak}"
        cases.append(Case("plan", says, {"plan": plan, "correct": correct, "leak": leak}))
    return cases + make_agreements(random)


def make_agreements(random: Random) -> list[Case]:
    half, other, shrug = r"\boxed{1/2}", r"\boxed{2}", "no idea"
    cases = []
    for says, plan, responses in (
            ("1/2, 0.5, 2 and no answer", "halve it", [half, r"\boxed{0.5}", other, shrug]),
            ("the most frequent is not the first", "halve it", [other, half, r"\boxed{40}", half]),
            ("half of them give an answer", "halve it", [half, shrug, half, shrug]),
            ("one of three gives an answer", "halve it", [half, shrug, shrug]),
            ("one of three gives an answer, and so does the plan", r"\boxed{1/2}", [half, shrug, shrug]),
            ("an empty box, 1/2 and no answer: two of three are given", "halve it", [r"\boxed{}", half, shrug]),
            ("all different", "halve it", [half, other, r"\boxed{40}"]),
            ("nobody gives an answer", "halve it", [shrug, shrug]),
            ("no responses", "halve it", [])):
        cases.append(Case("consistency", says, {"plan": plan, "responses": responses}))
    for plan in PLANS:
        responses = write_responses(random)
        leak = random.choice([0.25, 0.5, 1.5])
        says = f"{responses} under the plan {plan!r}, leak {leak}"
        cases.append(Case("consistency", says, {"plan": plan, "responses": responses, "leak": leak}))
    return cases


def write_responses(random: Random) -> list[str]:
    """A shrug now and then, and answers of few values in many spellings."""
    spellings = random.sample(list(SPELLINGS), 5)
    responses = []
    for _ in range(random.randint(3, 9)):
        if random.random() < 0.3:
            responses.append(random.choice(SHRUGS))
        else:
            responses.append(f"it is \\boxed{{{random.choice(spellings)}}}")
    return responses


# ------------------------------------------------------------------------------------------------------------
# Outputs

def run(given: dict) -> float:
    import rewards

    penalty = {}
    if "leak" in given:
        penalty["leak"] = given["leak"]
    if "answer" in given:
        return rewards.compute_reward(given["response"], given["answer"])
    if "correct" in given:
        return rewards.plan_reward(given["plan"], given["correct"], **penalty)
    return rewards.consistency_reward(given["plan"], given["responses"], **penalty)


def expect(given: dict) -> float:
    """By the tables above: who wrote the inputs knows what they say."""
    if "answer" in given:
        if given["response"] in TWELVE:
            return TWELVE[given["response"]]
        if read_value(given["response"]) == SPELLINGS[given["answer"]]:
            return 1.0
        return -0.5
    penalty = 0.0
    if PLANS.get(given["plan"], "boxed" in given["plan"]):
        penalty = given.get("leak", 1.0)
    if "correct" in given:
        shown = given["correct"]
        often = shown.count(True)
    else:
        shown = given["responses"]
        values = Counter(read_value(response) for response in shown)
        silent = values.pop(None, 0) - shown.count(r"\boxed{}")
        often = max(values.values(), default=0)
        if silent > len(shown) - silent:
            often = 0
    if not shown:
        return -penalty
    return often / len(shown) - penalty


def read_value(response: str) -> Fraction | None:
    for spelling, value in SPELLINGS.items():
        if response.endswith(f"\\boxed{{{spelling}}}"):
            return value
    return None


MISTAKES = [
    Mistake("-1 is for a response without a box, and a wrong answer in a box costs half of that",
            "extract(response) is None", "extract(response) is not None"),
    Mistake("a response without a box earns less than a wrong answer in one",
            "        return -1.0", "        return -0.5"),
    Mistake("an empty box is a box with a wrong answer",
            "extract(response) is None", "not extract(response)"),
    Mistake("a box has to be closed: extract knows, has_box does not ask",
            "extract(response) is None", "not has_box(response) and extract(response) != ''"),
    Mistake("an answer that is stated without a box earns nothing: is_correct is asked without lenient",
            "is_correct(response, answer)", "is_correct(response, answer, True)"),
    Mistake("these are the rewards of a comparison of strings: 1/2 and 0.5 are one answer",
            "is_correct(response, answer)", "extract(response) == answer"),
    Mistake("the first or any box was compared: the last one counts",
            "is_correct(response, answer)", 'any(equivalent(answer, box) for _, box in find_boxes(response)) or '
            "is_correct(response, answer)"),
    Mistake("each entry of a list may have a box of its own: is_correct knows, equivalent sees one box",
            "is_correct(response, answer)", "extract(response) and equivalent(answer, extract(response))"),
    Mistake("the plan's penalty depends on has_box: a box that is not closed states an answer, an empty one does not",
            "max(len(correct), 1)\n    if has_box(plan_text):",
            "max(len(correct), 1)\n    if extract(plan_text) is not None:"),
    Mistake("a plan that states an answer loses leak: what it earned is still there",
            "max(len(correct), 1)\n    if has_box(plan_text):\n        reward -= leak",
            "max(len(correct), 1)\n    if has_box(plan_text):\n        reward = -leak"),
    Mistake("the penalty is leak, which is not always 1",
            "max(len(correct), 1)\n    if has_box(plan_text):\n        reward -= leak",
            "max(len(correct), 1)\n    if has_box(plan_text):\n        reward -= 1"),
    Mistake("a plan's reward may be negative",
            "max(len(correct), 1)\n    if has_box(plan_text):\n        reward -= leak",
            "max(len(correct), 1)\n    if has_box(plan_text):\n        reward = max(0.0, reward - leak)"),
    Mistake("there is no penalty here for a plan that states an answer",
            "max(len(correct), 1)\n    if has_box(plan_text):", "max(len(correct), 1)\n    if False:"),
    Mistake("this is the number of right answers: their share is due",
            "sum(correct) / max(len(correct), 1)", "sum(correct) / 1"),
    Mistake("this is 1 if any answer was right: the share of right answers is due",
            "sum(correct) / max(len(correct), 1)", "float(any(correct))"),
    Mistake("this is a share of the responses that give an answer: it is one of all responses",
            "largest / len(responses)", "largest / len(given)"),
    Mistake("answers were compared as strings: 1/2 and 0.5 are one answer",
            "equivalent(a, b)", "(a == b)"),
    Mistake("an empty box is an answer that was given, so it counts where most have to give one",
            "if answer is not None:", "if answer:"),
    Mistake("where exactly half of the responses give an answer, that is enough",
            "2 * len(given) >= len(responses)", "2 * len(given) > len(responses)"),
    Mistake("where most responses give no answer, the share is 0",
            "given and 2 * len(given) >= len(responses)", "given"),
    Mistake("this is the first answer's share: the most frequent one's is due",
            "for a in given)", "for a in given[:1])"),
    Mistake("where most give no answer, the penalty for a plan that states one still follows",
            "    reward = 0.0\n", "    if 2 * len(given) < len(responses):\n        return 0.0\n    reward = 0.0\n"),
    Mistake("agreement does not spare a plan that states an answer: the penalty is missing",
            "largest / len(responses)\n    if has_box(plan_text):", "largest / len(responses)\n    if False:"),
]
