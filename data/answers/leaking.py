"""Does a plan give the answer away?"""
import re


def leaks(plan: str, answer: str, problem: str = "") -> bool:
    """Does a plan's text hold the gold answer as a whole number or word, not as a part of a longer one?

    Where the problem itself holds it, a plan may repeat it and give nothing away. Then it has to be stated: in a box,
    after "answer" or "result", or as what a computation comes to.

    >>> leaks("b+5", "5", "1-(1-5)"), leaks("b+5", "5", "2+3"), leaks("10-5=5", "5", "1-(1-5)")
    (False, True, True)
    """
    gold = strip_decoration(answer)
    if not gold or not find(gold, plan):
        return False
    if not find(gold, problem):
        return True
    stated = re.sub(r"\\(?:boxed|fbox)(?![a-z])", " answer ", plan)
    return find(gold, stated, r"\b(?:answer|result)\b\W{0,9}(?:(?:is|be|of)\b\W{0,9})?") or \
        find(gold, plan, r"[\w)]\s?[-+*/]\s?[\w(][\w()+*/.-]{0,40}\s?=\s?", r"(?!\s?[-+*/])")


def find(gold: str, text: str, before: str = "", after: str = "") -> bool:
    """Whether a text holds an answer, both as strip_decoration leaves them. before, after: what else has to fit."""
    pattern = rf"{before}(?<![\w.\-]){re.escape(gold)}(?!\w|[.,]\d){after}"
    return re.search(pattern, strip_decoration(text)) is not None


def strip_decoration(text: str) -> str:
    r"""1,234 becomes 1234, \dfrac{1}{2} frac12, \text{east} east."""
    text = re.sub(r"\\(?:boxed|fbox|text)(?![a-z])", " ", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))|[{}$\\]|\b[dt](?=frac)", "", text)
    return text.strip()
