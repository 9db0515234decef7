"""Is the boxed answer right? And the rewards of appendix C.2 that follow from it."""
import re

from data.answers.comparing import equivalent, parse, plain, unparsed  # noqa: F401

MAX_RESPONSE = 10_000       # characters at the end of a response in which a box is looked for


BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def extract(response, lenient=False):
    """What the last closed box holds; None without a box, or if boxes of its line hold different answers.

    lenient: where there is no box, what follows the last "####" or "answer is".
    """
    text, boxes, stack = response[-MAX_RESPONSE:], [], []
    for token in BRACE.finditer(text):
        if token[0] == "{" or len(token[0]) > 2:                    # another \x, such as \{, opens nothing
            stack.append(token)
        elif token[0] == "}" and stack and len((opening := stack.pop())[0]) > 1:
            boxes.append((opening.start(), opening.end(), token.start()))
    if boxes:
        line = text.rfind("\n", 0, boxes[-1][0])
        *others, answer = (text[first:last].strip() for start, first, last in boxes[-4:] if start > line)
        return answer if all(equivalent(answer, other) for other in others) else None
    said = re.findall(r"(?:####|answer\s*(?:is|:|=))[ :*$]*([^\n$]*)", text, re.IGNORECASE) if lenient else []
    return re.split(r"\.\s", said[-1])[0].rstrip(" .*") or None if said else None


def is_correct(response, answer, lenient=False):
    """Is the boxed answer (lenient: or what follows "answer is") equivalent to the gold answer?"""
    return (given := extract(response, lenient)) is not None and equivalent(answer, given)


def compute_reward(response, answer):
    """+1.0 correct, -0.5 wrong but boxed, -1.0 wrong and not boxed (appendix C.2, low-level agent)."""
    return 1.0 if is_correct(response, answer) else -1.0 if extract(response) is None else -0.5


def verdict(response):
    """A judge's last verdict, "A" for [A] or "B" for [B]; None if there is none or its line holds both."""
    for line in reversed(response.split("\n")):
        if found := set(re.findall(r"\[([AB])\]", line)):
            return min(found) if len(found) == 1 else None


def has_box(plan):
    """Does a plan state an answer in a box, closed or not? An empty \\boxed{} only asks for one."""
    return re.search(r"\\(?:boxed|fbox)\s*(?:\{\s*[^\s}]|\d)", plan) is not None


def plan_reward(plan_text, correct, leak=1.0):
    """Mean correctness of the answers under a plan, minus `leak` if it states one (C.2, high-level agent)."""
    return sum(correct) / max(len(correct), 1) - leak * has_box(plan_text)


def consistency_reward(plan_text, responses, leak=1.0):
    """Share of the most frequent answer, whatever the truth; 0 if most give none; the same penalty (C.2)."""
    given = [answer for answer in map(extract, responses) if answer is not None]
    largest = max((sum(equivalent(a, b) for b in given) for a in given), default=0)
    return largest / max(len(responses), 1) * (2 * len(given) >= len(responses)) - leak * has_box(plan_text)


def leaks(plan, answer):
    """Does a plan's text hold the gold answer as a whole number or word, not as a part of a longer one?"""
    decoration = r"(?<=\d),(?=\d{3}(?!\d))|[{}$\\]|\b[dt](?=frac)"
    text, gold = (re.sub(decoration, "", re.sub(r"\\(?:boxed|fbox|text)(?![a-z])", " ", one)).strip()
                  for one in (plan, answer))
    return bool(gold) and re.search(rf"(?<![\w.\-]){re.escape(gold)}(?!\w|[.,]\d)", text) is not None
