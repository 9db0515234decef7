import re


def find_boxes(text: str) -> list[tuple[int, str]]:
    r"""Where each closed \boxed{...} stands and what it holds, in the order in which they close: [(start, content)].

    start: of the backslash in the text. The content goes to the brace that closes it, without whitespace around it.
    \fbox is a box, too, and whitespace may stand before the brace. One box may lie in another, or in other braces.
    A backslash belongs to the sign behind it: \{ and \} are no braces, and \\boxed{5} is a line break and a word.
    What never closes is no box, and a } that closes nothing is passed over.

    >>> find_boxes(r"\boxed{\frac{1}{2}} or \boxed{ 3 }")
    [(0, '\\frac{1}{2}'), (23, '3')]
    """
    boxes, opened = [], []                           # opened: (start of a box or None for a brace, start of content)
    for match in BOX.finditer(text):
        sign = match[0]
        if sign == "}":
            if opened:
                start, inside = opened.pop()
                if start is not None:
                    boxes.append((start, text[inside:match.start()].strip()))
        elif sign == "{":
            opened.append((None, match.end()))
        elif sign.endswith("{") and len(sign) > 2:   # not \{
            opened.append((match.start(), match.end()))
    return boxes


def extract(response: str, lenient: bool = False) -> str | None:
    """What the last closed box holds, of find_boxes in the last MAX_RESPONSE characters; None without a box.

    lenient: without a box, what find_stated_answer finds in the same characters (it follows "the answer is").
    """
    end = response[-MAX_RESPONSE:]
    boxes = find_boxes(end)
    if boxes:
        return boxes[-1][1]
    return find_stated_answer(end) if lenient else None
