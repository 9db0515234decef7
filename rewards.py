r"""What an answer, a plan and a verdict earn: the rewards of appendix C.2.

    >>> compute_reward(r"The sum is \boxed{0.5}.", r"\frac{1}{2}")
    1.0

The mathematics, whether 0.5 is \frac12, is in data/answers.
"""
import re

from data.answers.comparing import count_answers, drop_thought, equivalent

MAX_RESPONSE = 10_000       # characters at the end of a response in which a box is looked for

# What matters in a text, left to right: \boxed{ or \fbox{; any other backslash with the sign behind it; a single brace.
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def find_boxes(text: str) -> list[tuple[int, str]]:
    r"""Where each closed \boxed{...} stands and what it holds, in the order in which they close: [(start, content)].

    start: of the backslash in the text. The content goes to the brace that closes it, without whitespace around it.
    \fbox is a box, too, and whitespace may stand before the brace. One box may lie in another, or in other braces.
    A backslash belongs to the sign behind it: \{ and \} are no braces, and \\boxed{5} is a line break and a word.
    What never closes is no box, and a } that closes nothing is passed over.

    >>> find_boxes(r"\boxed{\frac{1}{2}} or \boxed{ 3 }")
    [(0, '\\frac{1}{2}'), (23, '3')]
    """
    boxes = []
    opened = []                          # a stack of what is still open: boxes and single braces
    for token in BOX.finditer(text):
        if token[0] == "}" and opened:
            opening = opened.pop()
            if opening[0] != "{":        # so it was a box
                content = text[opening.end():token.start()]
                boxes.append((opening.start(), content.strip()))
        elif token[0].endswith("{") and token[0] != "\\{":    # a box or a single brace; \{ is a sign
            opened.append(token)
    return boxes


def extract(response: str, lenient: bool = False) -> str | None:
    """What the last closed box holds, of find_boxes in the last MAX_RESPONSE characters; None without a box.

    lenient: without a box, what find_stated_answer finds in the same characters (it follows "the answer is").
    If a model thinks first, only what it says behind </think> counts: a box in its thoughts is no answer yet.
    """
    response = drop_thought(response)                # extension
    text = response[-MAX_RESPONSE:]
    boxes = find_boxes(text)
    if boxes:
        return boxes[-1][1]
    if lenient:                                      # extension
        return find_stated_answer(text)
    return None


def is_correct(response: str, answer: str, lenient: bool = False) -> bool:
    """Is the boxed answer the gold answer?"""
    given = extract(response, lenient)
    if given is None:
        return False
    if equivalent(answer, given):
        return True
    if count_answers(answer) > 1:                    # extension: a list, spread over several boxes
        return is_spread_over_boxes(response, answer)
    return False


def compute_reward(response: str, answer: str) -> float:
    """+1.0 for a correct answer, -0.5 for a wrong one in a box, -1.0 without a box (C.2, low-level agent).

    is_correct says what is correct, extract what is in a closed box. An empty box is a wrong answer.
    """
    if is_correct(response, answer):
        return 1.0
    if extract(response) is None:
        return -1.0
    return -0.5


def has_box(plan: str) -> bool:
    r"""Does a plan state an answer in a box, closed or not? An empty \boxed{} only asks for one."""
    return re.search(r"\\(?:boxed|fbox)\s*(?:\{\s*[^\s}]|\d)", plan) is not None


def plan_reward(plan_text: str, correct: list[bool], leak: float = 1.0) -> float:
    """Mean correctness of the answers under a plan, minus `leak` if it states one (C.2, high-level agent).

    Without answers the mean is 0. has_box says whether a plan states an answer.
    """
    reward = sum(correct) / max(len(correct), 1)
    if has_box(plan_text):
        reward -= leak
    return reward


# --- extensions -------------------------------------------------------------------------------------------------
# A reader may stop here. What follows: lists of answers, answers without a box, the consistency reward, judges.

from data.answers.comparing import parse  # noqa: E402


def is_spread_over_boxes(response: str, answer: str) -> bool:
    r"""Do the boxes of the last line with a box hold just the gold answers? "\boxed{-2} and \boxed{7}"."""
    text = drop_thought(response)[-MAX_RESPONSE:]
    boxes = find_boxes(text)
    if not boxes:                        # lenient: the answer was only stated
        return False
    line_start = text.rfind("\n", 0, boxes[-1][0])
    given = [content for start, content in boxes if start > line_start]
    return len(given) == count_answers(answer) and equivalent(answer, ", ".join(given))


def consistency_reward(plan_text: str, responses: list[str], leak: float = 1.0) -> float:
    """Share of the most frequent answer, whatever the truth; minus the same penalty as plan_reward (C.2).

    The share is one of all responses, those without an answer included. It is 0 if fewer than half of them give an
    answer, and without responses. An answer is what extract finds, and equivalent answers are the same one.
    """
    given = []
    for response in responses:
        answer = extract(response)
        if answer is not None:
            given.append(answer)
    reward = 0.0
    if given and 2 * len(given) >= len(responses):
        largest = max(sum(equivalent(a, b) for b in given) for a in given)
        reward = largest / len(responses)
    if has_box(plan_text):
        reward -= leak
    return reward


TAG = re.compile(r"\[([A-Z])\]")            # also inside [[A]]
# "Verdict: [A]", "my choice is [[B]]"
LAST_WORD = re.compile(r"""
    \b(?: verdict | decision | winner | choose | pick | prefer | conclusion | therefore | overall
        | (?:final|my)\s(?:answer|choice) )\b
    [^\[\]]{0,200}                          # anything but brackets
    \[+([A-Z])\]                            # the tag
    """, re.IGNORECASE | re.VERBOSE)


def verdict(response: str) -> str | None:
    """A judge's last verdict: "A" for [A] or [[A]], "B" for [B].

    None if the last line with a tag names both, unless one of them follows "verdict" or the like; or if it says [C].
    """
    for line in reversed(drop_thought(response)[-MAX_RESPONSE:].split("\n")):
        named = TAG.findall(line)
        last_words = LAST_WORD.findall(line)
        if last_words:
            named = [last_words[-1].upper()]
        if named:
            if len(set(named)) == 1 and named[0] in "AB":
                return named[0]
            return None
    return None


def box_verdict(response: str) -> str:
    """The text that is graded of a judge: its verdict [A] counts as a boxed A, and no verdict as no box."""
    found = verdict(response)
    if found is None:
        return ""
    return f"\\boxed{{{found}}}"


# What says that an answer follows, and the rest of the line.
STATED = re.compile(r"""
    (?: \#\#\#\#                            # as in GSM8K
      | \banswer\b [^.:=#\n]{0,60}? (?: \bis\b | \bbe\b | : | = )     # "the answer to the first part would be"
    )
    [\s:*$]* ([^\n]*)
    """, re.IGNORECASE | re.VERBOSE)
# What may still stand before the answer.
OPENING = re.compile(r"""
    (?: [\s:*$,]
      | \\[(\[]                             # \( and \[
      | \b(?: therefore | thus | hence | so | then | simply | just | now | clearly )\b
    )*""", re.IGNORECASE | re.VERBOSE)
# Where an answer ends and prose begins.
PROSE = re.compile(r"""
    \$ | \*\* | \\[)\]]                     # mathematics or bold ends
  | [.!?;]\s                                # a sentence ends
  | \s(?: because | since | so | as | which | in\ total | and\ not )\b
  | \s\( (?=[a-z]{2})                       # "12 (one dozen)"
  | (?<=\d),\s (?! and\b | or\b ) (?=[a-z]{2})      # "72, in total", but not "5, 6, and 7"
    """, re.IGNORECASE | re.VERBOSE)
# "5 apples" -> 5, apples
COUNT = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)\s([a-z]+s)\b")


def find_stated_answer(text: str) -> str | None:
    """What follows the last "####" or "answer is", without the prose behind it.

    >>> find_stated_answer("The answer is therefore 72, in total."), find_stated_answer("**Answer:** 5 apples")
    ('72', '5')
    """
    stated = STATED.findall(text)
    if not stated:
        return None
    answer = stated[-1]
    answer = answer[OPENING.match(answer).end():]
    answer = PROSE.split(answer)[0].rstrip(" .,*")
    counted = COUNT.match(answer)
    # Outside of a box people say what they have counted. To the grader "5 apples" is a number with a unit.
    if counted and parse(counted[0])[0] == "unit" and counted[2] not in ("is", "was", "has", "times", "less"):
        answer = counted[1]
    return answer or None
