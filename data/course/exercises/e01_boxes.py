"""Exercise 1. WRITING.md in the folder above says how such a file is laid out."""
from random import Random

from data.course.exercises import Case, Mistake

TITLE = "finding the answer in a text"
MINUTES = 40
TARGETS = ["rewards.find_boxes", "rewards.extract"]
PARTS = {"braces": 3, "backslashes": 2, "the last box": 2, "long texts": 1, "lenient": 2}

TEXT = r"""
Nobody tells a model how to solve a problem. It writes, and a program reads what it wrote, finds the final answer and
compares it with the right one. All that the two agents of ReMA learn, they learn from that comparison. A reader that
stops at the wrong brace punishes right answers, and the model learns to avoid fractions; one that takes any number for
the answer is soon exploited. So the form is strict: the answer stands in `\boxed{...}`, as in LaTeX, and if there are
several boxes, the last one counts.

Write `rewards.find_boxes`, which finds all boxes of a text, and with it `rewards.extract`, which picks one. (`BOX`,
above them, is a pattern that finds everything that matters in a text; use it or not. `find_stated_answer`, further
down, and `drop_thought`, imported at the top, are there already. That a thought is dropped is not checked.)

By hand, with the places of the characters counted from 0:

    \boxed{\frac{1}{2}} or \boxed{ 3 }        [(0, "\frac{1}{2}"), (23, "3")]

The first box opens at 0. The brace behind `\frac` is the second one that is open, and the `}` behind the 1 closes it;
the same again with the 2. Only the `}` at place 18 closes the box. `extract` gives "3".

What makes it harder than it looks:

- Braces lie in one another, and so do boxes: in `\boxed{4 + \boxed{5}}` the inner box closes first, so it stands first
  in the list, and the last box is the outer one, which holds `4 + \boxed{5}`.
- `\{` and `\}` are characters that a reader sees, as in `\boxed{\{1, 2\}}`. But `\\` is a line break in LaTeX, so what
  follows its second backslash begins anew: the brace in `\\{` is a brace, and `\\boxed{5}` is no box.
- A model may be cut off in the middle of a box. That box does not count; an earlier one does, and so does one that was
  finished inside it.
- `extract` looks at the end of a response only, so that a long one costs no more. What it cuts off may be half a box.
"""

HINTS = [
    "Think of a stack: what opens goes onto it, what closes takes the last one off. For each opening you have to know "
    "later whether a box began there, and where.",
    "BOX.finditer(text) gives a match for each box that opens (it ends with a brace), each backslash with the sign "
    "behind it, and each single brace. Push the matches that open something: boxes and single braces, but not \\{. At "
    "a } take one off, if there is one; if a box began there, what it holds goes from its match's end() to this "
    "brace's start().",
    "extract: text = response[-MAX_RESPONSE:], then the content of the last entry of find_boxes(text). If the list is "
    "empty, find_stated_answer(text) if lenient, else None.",
]

WORDS = ["so x", " = 7", " is ", "\n", " or ", "$", "2", " ", "a"]
OPENINGS = ["\\boxed{", "\\fbox{", "\\boxed {", "\\boxed\n  {", "\\boxed{ "]
CURIOUS = ["\\{", "\\}", "\\\\", "\\\\{", "\\,", "\\boxed 5", "\\boxer{", "boxed{", "\\\\boxed{", "\\\\\\boxed{",
           "\\fboxed{"]


# ------------------------------------------------------------------------------------------------------------
# Inputs

def make_cases(random: Random) -> list[Case]:
    cases = []
    by_hand = [
        ("two boxes", r"\boxed{\frac{1}{2}} or \boxed{ 3 }"),
        ("a box with \\fbox, one with whitespace before the brace", "\\fbox{4} and \\boxed \n{ 5\n}"),
        (r"first \boxed{4 + \boxed{5}}, a box in a box", r"first \boxed{4 + \boxed{5}}, then \boxed{6}"),
        ("a box in other braces", r"\text{so {it is \boxed{8}}} and more"),
        ("an empty box, and words that are no box", r"\boxed{} \boxed 5 \boxer{6} boxed{7} \boxed(8)"),
        ("a } that closes nothing, before a box", r"a} b}} \boxed{9} c}"),
        ("a box that never closes around one that does", r"\boxed{1 + {2} \boxed{3} + \boxed{4"),
    ]
    for says, text in by_hand:
        cases.append(Case("braces", says, {"find": text}))
    for says, text in (("a set", r"\boxed{\{1, 2\}}"),
                       (r"half of a pair, in \boxed{[0, 1\} \boxed{\{2}",
                        r"\boxed{[0, 1\} \boxed{\{2}"),
                       ("a line break before the word", "\\\\boxed{5} \\\\\\boxed{6}"),
                       ("a line break before a brace", r"\boxed{7 \\{8} 9} \boxed{\\}"),
                       ("a backslash at the end", "\\boxed{3} \\boxed{4\\")):
        cases.append(Case("backslashes", says, {"find": text}))
    for part, pieces in (("braces", WORDS), ("backslashes", WORDS + CURIOUS)):
        for _ in range(12):
            text = write_text(random, pieces)
            cases.append(Case(part, f"the text {text!r}", {"find": text}))
    return cases + make_responses(random)


def write_text(random: Random, pieces: list[str]) -> str:
    """Boxes and braces in one another, one of them open and one } too many now and then."""
    text = ""
    for _ in range(random.randint(6, 16)):
        text += random.choice([random.choice(OPENINGS), "{", "}", "}", random.choice(pieces), random.choice(pieces)])
    return text


def make_responses(random: Random) -> list[Case]:
    cases = []
    numbers = [random.randint(10, 99) for _ in range(4)]
    first, second, third, long_ago = numbers
    for says, response in (("two boxes", f"\\boxed{{{first}}}, no, \\boxed{{{second}}}."),
                           ("a box in a box", f"\\boxed{{{first} + \\boxed{{{second}}}}}"),
                           ("the last box was cut off", f"\\boxed{{{first}}}, that is \\boxed{{{second}"),
                           ("an empty box", f"\\boxed{{{first}}} \\boxed{{ }}"),
                           ("no box", f"The answer is {first}."), ("an empty response", "")):
        cases.append(Case("the last box", says, {"response": response, "lenient": False}))

    begins, ends = f"\\boxed{{{long_ago}}}", f"\\boxed{{{first}}}"
    rest = "x" * (10_000 - len(begins))
    for says, response in (
            ("a box in front of 20,000 characters, another one behind them", begins + "x" * 20_000 + ends),
            ("a box in front of 20,000 characters", begins + "x" * 20_000),
            ("a box with which the last 10,000 characters begin", "y" * 500 + begins + rest),
            ("a box that began 10,001 characters before the end", "y" * 500 + begins + rest + "x"),
            ("a box of 12,000 characters with a box in it", f"\\boxed{{{'z' * 12_000}{ends}}}")):
        cases.append(Case("long texts", says, {"response": response, "lenient": False}))

    stated = f"The answer is {third}. "
    far = "x" * 11_000
    for says, response, lenient in (
            ("no box, but an answer that is stated", stated, True),
            ("a box, then another answer that is stated", ends + stated, True),
            ("neither", "I do not know", True),
            ("an answer that is stated 11,000 characters before the end", stated + far, True),
            ("an answer that is stated behind 11,000 characters", far + stated, True),
            ("a box 11,000 characters before an answer that is stated", begins + far + stated, True),
            ("not lenient: stated, no box", stated, False),
            ("not lenient: a box, then another answer", ends + stated, False)):
        cases.append(Case("lenient", says, {"response": response, "lenient": lenient}))
    return cases


# ------------------------------------------------------------------------------------------------------------
# Outputs

def run(given: dict):
    import rewards

    if "find" in given:
        return rewards.find_boxes(given["find"])
    if not given["lenient"]:
        return rewards.extract(given["response"])
    return rewards.extract(given["response"], lenient=True)


def expect(given: dict):
    if "find" in given:
        return find_each(given["find"])
    response = given["response"][-10_000:]
    boxes = find_each(response)
    if boxes:
        return boxes[-1][1]
    if given["lenient"] and "answer is " in response:
        return response.split("answer is ")[1].split(".")[0]
    return None


def find_each(text: str) -> list[tuple[int, str]]:
    """Each box by itself: from every place where one could begin, count braces until it closes."""
    found = []
    for start in range(len(text)):
        for name in ("\\boxed", "\\fbox"):
            if text.startswith(name, start) and not is_escaped(text, start):
                behind = text[start + len(name):]
                opening = len(text) - len(behind.lstrip())
                if text[opening:opening + 1] == "{":
                    closing = find_closing(text, opening)
                    if closing:
                        found.append((closing, start, text[opening + 1:closing].strip()))
    return [(start, content) for _, start, content in sorted(found)]


def find_closing(text: str, opening: int) -> int | None:
    depth = 0
    for place in range(opening, len(text)):
        if text[place] in "{}" and not is_escaped(text, place):
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return place
    return None


def is_escaped(text: str, place: int) -> bool:
    """An odd number of backslashes before it: the last one belongs to this sign."""
    before = text[:place]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


MISTAKES = [
    Mistake("these are boxes that end at their first }: braces lie in one another",
            'elif token[0].endswith("{") and', 'elif token[0].endswith("{") and len(token[0]) > 1 and'),
    Mistake("these are boxes where \\{ and \\} were counted as braces",
            "BOX.finditer(text)", r're.finditer(r"\\(?:boxed|fbox)\s*\{|\\[^{}]|[{}]", text)'),
    Mistake("these are boxes where \\\\ was not read as a pair: behind a line break, boxed{5} is a word",
            "BOX.finditer(text)", r're.finditer(r"\\(?:boxed|fbox)\s*\{|\\[^\\]|[{}]", text)'),
    Mistake("\\fbox is missing: it is a box, too",
            "BOX.finditer(text)", r're.finditer(r"\\boxed\s*\{|\\.|[{}]", text, re.DOTALL)'),
    Mistake("whitespace between \\boxed and its brace is allowed",
            "BOX.finditer(text)", r're.finditer(r"\\(?:boxed|fbox)\{|\\.|[{}]", text, re.DOTALL)'),
    Mistake("this is the box that begins last: the one that closes last counts",
            "boxes[-1][1]", "max(boxes)[1]"),
    Mistake("these are boxes in the order in which they open: the order in which they close is due",
            "    return boxes\n", "    return sorted(boxes)\n"),
    Mistake("the whitespace around what a box holds is still there",
            "content.strip()", "content"),
    Mistake("each start is the place behind the opening brace: that of the backslash is due",
            "opening.start()", "opening.end()"),
    Mistake("a } that closes nothing ends the search here: pass over it",
            'if token[0] == "}" and opened:',
            'if token[0] == "}" and not opened:\n            break\n        elif token[0] == "}":'),
    Mistake("a box that never closes was taken for one that goes to the end of the text",
            "    return boxes\n",
            '    for token in opened:\n        if token[0] != "{":\n'
            "            boxes.append((token.start(), text[token.end():].strip()))\n    return boxes\n"),
    Mistake("these are the contents of the first box: the last one counts",
            "boxes[-1][1]", "boxes[0][1]"),
    Mistake("an empty box is a box that holds nothing, no missing box",
            "    if boxes:", "    if boxes and boxes[-1][1]:"),
    Mistake("the whole response was searched, not its last MAX_RESPONSE characters",
            "    text = response[-MAX_RESPONSE:]", "    text = response"),
    Mistake("the first MAX_RESPONSE characters were searched, not the last ones",
            "response[-MAX_RESPONSE:]", "response[:MAX_RESPONSE]"),
    Mistake("lenient: the first MAX_RESPONSE characters were searched for a stated answer, not the last ones",
            "find_stated_answer(text)", "find_stated_answer(response[:MAX_RESPONSE])"),
    Mistake("a stated answer was taken although there is a box",
            "    if boxes:", "    if boxes and not (lenient and find_stated_answer(text)):"),
    Mistake("a stated answer was taken without lenient",
            "    if lenient:", "    if True:"),
    Mistake("lenient: the whole response was searched for a stated answer, not its last MAX_RESPONSE characters",
            "find_stated_answer(text)", "find_stated_answer(response)"),
]
