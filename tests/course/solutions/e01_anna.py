import re

from data.answers.comparing import count_answers, equivalent

MAX_RESPONSE = 10_000       # of rewards.py
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)     # of rewards.py


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
    opened = []                          # what is open: (start of a box or None, where its content begins)
    for sign in BOX.finditer(text):
        if sign[0] == "{":
            opened.append((None, sign.end()))
            continue
        if sign[0] == "}":
            if not opened:
                continue
            start, inside = opened.pop()
            if start is not None:
                boxes.append((start, text[inside:sign.start()].strip()))
            continue
        if sign[0].endswith("{") and len(sign[0]) > 2:
            opened.append((sign.start(), sign.end()))
    return boxes


def extract(response: str, lenient: bool = False) -> str | None:
    """What the last closed box holds, of find_boxes in the last MAX_RESPONSE characters; None without a box.

    lenient: without a box, what find_stated_answer finds in the same characters (it follows "the answer is").
    """
    text = response[-MAX_RESPONSE:]
    boxes = find_boxes(text)
    if boxes:
        return boxes[-1][1]
    if lenient:
        return find_stated_answer(text)
    return None
