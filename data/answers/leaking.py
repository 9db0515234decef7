"""Does a plan give the answer away?"""
import re


def leaks(plan: str, answer: str) -> bool:
    """Does a plan's text hold the gold answer as a whole number or word, not as a part of a longer one?"""
    text = strip_decoration(plan)
    gold = strip_decoration(answer)
    if not gold:
        return False
    return re.search(rf"(?<![\w.\-]){re.escape(gold)}(?!\w|[.,]\d)", text) is not None


def strip_decoration(text: str) -> str:
    r"""1,234 becomes 1234, \dfrac{1}{2} frac12, \text{east} east."""
    text = re.sub(r"\\(?:boxed|fbox|text)(?![a-z])", " ", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))|[{}$\\]|\b[dt](?=frac)", "", text)
    return text.strip()
