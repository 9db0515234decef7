"""Answer extraction, equivalence and rewards (a first, crude version; the real parser follows)."""
import re
from collections import namedtuple

stats = {"answers": 0, "unparsed": 0}


def boxes(text):
    found, start = [], 0
    for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", text[-100_000:]):
        depth, i, text_ = 1, match.end(), text[-100_000:]
        if i < start:
            continue
        while i < len(text_) and depth:
            depth += (text_[i] == "{") - (text_[i] == "}")
            i += 1
        start = i
        if not depth:
            found.append(text_[match.end():i - 1])
    return found


def extract(response, lenient=False):
    found = boxes(response)
    return found[-1].strip() if found else None


def equivalent(a, b):
    simple = lambda s: re.sub(r"[\s$,]|\\left|\\right|\\!", "", s).replace("dfrac", "frac").rstrip(".")
    return simple(a) == simple(b)


def is_correct(response, answer, lenient=False):
    found = extract(response, lenient)
    return found is not None and equivalent(answer, found)


def unparsed(text):
    return False


def compute_reward(response, answer):
    if is_correct(response, answer):
        return 1.0
    return -0.5 if extract(response) is not None else -1.0


def verdict(response):
    found = set(re.findall(r"\[([AB])\]", response)[-1:])
    return found.pop() if found else None


def has_box(plan):
    return bool(re.search(r"\\(boxed|fbox)\b", plan))


def plan_reward(plan_text, correct):
    return sum(correct) / max(len(correct), 1) - has_box(plan_text)


def consistency_reward(plan_text, responses):
    answers = [extract(r) for r in responses]
    given = [a for a in answers if a is not None]
    best = max((sum(equivalent(a, b) for b in given) for a in given), default=0)
    return (best / len(responses) if 2 * len(given) >= len(responses) and given else 0.0) - has_box(plan_text)


def leaks(plan, answer):
    return bool(answer) and re.search(rf"(?<![\w.]){re.escape(answer.strip())}(?![\w]|\.\d)", plan) is not None
