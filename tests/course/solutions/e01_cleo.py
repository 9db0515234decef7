import re
from data.answers.comparing import count_answers, drop_thought, equivalent
from data.answers.comparing import parse  # noqa: E402


def find_boxes(text: str) -> list[tuple[int, str]]:
    r"""Where each closed \boxed{...} stands and what it holds, in the order in which they close: [(start, content)].

    start: of the backslash in the text. The content goes to the brace that closes it, without whitespace around it.
    \fbox is a box, too, and whitespace may stand before the brace. One box may lie in another, or in other braces.
    A backslash belongs to the sign behind it: \{ and \} are no braces, and \\boxed{5} is a line break and a word.
    What never closes is no box, and a } that closes nothing is passed over.

    >>> find_boxes(r"\boxed{\frac{1}{2}} or \boxed{ 3 }")
    [(0, '\\frac{1}{2}'), (23, '3')]
    """
    return [(opening.start(), text[opening.end():closing.start()].strip())
            for opening, closing in match_braces(text) if opening[0] != "{"]


def match_braces(text: str):
    """Pairs of an opening and the brace that closes it, in the order in which they close."""
    open_ones = []
    for sign in BOX.finditer(text):
        if sign[0] == "}":
            if open_ones:
                yield open_ones.pop(), sign
        elif sign[0] == "{" or len(sign[0]) > 2:         # \. has two signs, a box at least six
            open_ones.append(sign)


def extract(response: str, lenient: bool = False) -> str | None:
    """What the last closed box holds, of find_boxes in the last MAX_RESPONSE characters; None without a box.

    lenient: without a box, what find_stated_answer finds in the same characters (it follows "the answer is").
    """
    text = response[-MAX_RESPONSE:]
    contents = [content for _, content in find_boxes(text)]
    if contents:
        return contents[-1]
    return find_stated_answer(text) if lenient else None
