"""Problems without a download: bracketed arithmetic for the tiny model, word problems for real checkpoints.

    generate(3, kind="arithmetic")   expressions such as 3+4*(2+5), which `tiny` was warm-started on
    generate(3, kind="words")        one to three steps in English, about right for SmolLM2-135M-Instruct

Rows are dictionaries: {"id", "problem", "answer", "level"}. Training and held-out problems never meet: a
problem is held out when the checksum of its text is divisible by four, whatever the seed.

The first part also writes what one can SAY about an expression: plans in the right and in a wrong order, and
the working that follows a plan to the letter. data/tiny/make_tiny.py mixes these into a corpus, the tests check
them, and `habit` names the kind of plan that an agent wrote.
"""
import ast
import json
import math
import random
import re
import zlib

LEVELS = (1, 2, 3)                                    # arithmetic: level + 1 operations; words: level steps
SYMBOL = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
COMPUTE = {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y}
LETTERS = "abcdefgh"                                  # names of the steps of a plan
EMPTY = "Solve it."                                   # the plan that leaves the solver alone


def held_out(problem):
    """Whether a problem is in the held-out quarter. A checksum: `hash` changes from run to run."""
    return zlib.crc32(problem.encode()) % 4 == 0


def generate(n, seed=0, split="train", level=None, kind="arithmetic"):
    """`n` rows of one split ("train" or "heldout"), with levels in turn unless `level` is given.

    The same arguments give the same rows on every machine. Held-out rows are all different; training rows are
    independent draws. ValueError for an unknown split, level or kind, or too few held-out problems.
    """
    draws = {"arithmetic": expression, "words": story}
    if split not in ("train", "heldout") or kind not in draws or level not in (None, *LEVELS):
        raise ValueError(f"generate: no split {split!r}, level {level!r} or kind {kind!r}")
    rng, rows, seen = random.Random(f"{kind} {split} {seed}"), [], set()
    while len(rows) < n:
        this = level or LEVELS[len(rows) % len(LEVELS)]
        for _ in range(5_000):
            problem, answer = draws[kind](rng, this)
            if held_out(problem) == (split == "heldout") and problem not in seen:
                break
        else:
            raise ValueError(f"generate: there are no {n} different held-out problems at level {this}")
        if split == "heldout":
            seen.add(problem)
        rows.append({"id": f"{kind}-{zlib.crc32(problem.encode()):08x}", "problem": problem,
                     "answer": str(answer), "level": this})
    return rows


# ------------------------------------------------------------------------------------------------------------
# Arithmetic: what an expression is, and what one can say about it.
# The text of a problem is all that the functions below need: Python's parser reads it (nothing is executed).

def expression(rng, level):
    """(text, value) of an expression with level + 1 operations on the digits 1 to 9.

    Rejection sampling guarantees: every intermediate value lies in 0..99, in the right order as well as
    strictly from left to right; the two orders give different values, so a plan in the wrong order fails; the
    answer is not one of the operands, so a plan, which lists operands that never touch, cannot contain it.
    """
    def grow(operations):                             # -> text, precedence of its outermost operation, value
        if operations == 0:
            digit = rng.randint(1, 9)
            return str(digit), 3, digit
        symbol, left = rng.choice("+-*"), rng.randrange(operations)
        strength = 2 if symbol == "*" else 1
        (a, a_strength, x), (b, b_strength, y) = grow(left), grow(operations - 1 - left)
        a = f"({a})" if a_strength < strength else a
        b = f"({b})" if b_strength <= strength else b
        value = COMPUTE[symbol](x, y)
        return a + symbol + b, strength, value if 0 <= value <= 99 else math.nan    # nan spreads to the top

    while True:
        text, _, value = grow(level + 1)
        if value == value and str(value) not in text:
            wrong = values(wrong_plan(text))
            if wrong[-1] != value and all(0 <= v <= 99 for v in wrong):
                return text, value


def fold(problem, join):
    """Build something from the inside out: join(left, sign, right) stands for each operation."""
    def walk(node):
        if isinstance(node, ast.Constant):
            return str(node.value)
        return join(walk(node.left), SYMBOL[type(node.op)], walk(node.right))
    return walk(ast.parse(problem, mode="eval").body)


def right_plan(problem):
    """The steps in an order that works, with letters for what is known by then: "a=2+5; b=4*a; 3+b"."""
    steps = []

    def name(left, symbol, right):                    # -> how later steps call this operation's value
        steps.append(left + symbol + right)
        return LETTERS[len(steps) - 1]

    fold(problem, name)
    return named(steps)


def wrong_plan(problem):
    """Strictly from left to right, blind to brackets and precedence: "a=3+4; b=a*2; b+5"."""
    first, *rest = re.findall(r"[-+*]?\d+", re.sub("[()]", "", problem))
    return named([before + step for before, step in zip([first, *LETTERS], rest)])


def named(steps):
    return "; ".join([f"{name}={step}" for name, step in zip(LETTERS, steps[:-1])] + steps[-1:])


def rewrite(problem):
    """The same expression with every bracket written out: "3+(4*(2+5))"."""
    return fold(problem, "({}{}{})".format)[1:-1]


def trace(plan, known=None):
    """The steps of a plan as (name or "", step with numbers put in for letters, value).

    known: values of letters from earlier turns; is added to. ValueError for what is no plan.
    """
    known, lines = {} if known is None else known, []
    for step in plan.split("; "):
        match = re.fullmatch(r"(?:([a-h])=)?([a-h]|\d+)([-+*])([a-h]|\d+)", step)
        if not match or any(x.isalpha() and x not in known for x in match.group(2, 4)):
            raise ValueError(f"not a step: {step!r}")
        name, x, symbol, y = match.groups()
        x, y = [known[v] if v.isalpha() else int(v) for v in (x, y)]
        lines.append((name or "", f"{x}{symbol}{y}", COMPUTE[symbol](x, y)))
        if name:
            known[name] = lines[-1][2]
    return lines


def values(plan):
    """The value of every step: "a=2+5; b=4*a; 3+b" -> [7, 28, 31]."""
    return [value for _, _, value in trace(plan)]


def working(plan, known=None):
    """The answer, without its box, that does what the plan says: "a=2+5=7; b=4*7=28; 3+28=31."."""
    return "; ".join(f"{name}={step}={value}".lstrip("=") for name, step, value in trace(plan, known)) + "."


def habit(plan, problem):
    """Which habit a plan shows: "right" (it leads to the answer), "wrong" (left to right), "rewrite" (the
    expression with all brackets), "empty" or "other". A JSON plan is judged by its output.
    """
    plan = plan.strip()
    try:
        if plan.startswith("{"):
            plan = str(json.loads(plan).get("output", "")).strip()
        known = {"": "empty", EMPTY: "empty", rewrite(problem): "rewrite", wrong_plan(problem): "wrong"}
        right = plan not in known and values(plan)[-1] == values(right_plan(problem))[-1]
        return known.get(plan, "right" if right else "other")
    except ValueError:                                # neither JSON nor steps
        return "other"


# ------------------------------------------------------------------------------------------------------------
# Word problems, for models that read English. {A}, {B}: names; {s}, {t}: things; {x}, {y}, {z}: numbers.
# A template is (steps, lowest and highest x, y and z, text, the answer as an expression).

NAMES = "Anna Ben David Emma Felix Grace Henry Jack Kate Leo Maria Noah Olivia Paul Rosa Sam".split()
THINGS = "apples books pencils marbles stickers coins cards cookies shells balloons flowers stamps".split()
TEMPLATES = (
    (1, "2-6 2-4", "{A} has {x} {s}. {B} gives {A} {y} more {s}. How many {s} does {A} have now?", "{x}+{y}"),
    (1, "2-6 2-4", "{A} has {x} red {s} and {y} blue {s}. How many {s} does {A} have in total?", "{x}+{y}"),
    (1, "2-5 2-5", "There are {x} boxes with {y} {s} each. How many {s} are there in total?", "{x}*{y}"),
    (1, "2-5 2-5", "{A} buys {x} {s} for {y} dollars each. How many dollars does {A} pay?", "{x}*{y}"),
    (1, "5-9 2-3", "{A} has {x} {s}. {A} gives {y} of them to {B}. How many {s} are left?", "{x}-{y}"),
    (1, "5-9 2-3", "{A} has {x} {s}. {A} loses {y} of them. How many {s} are left?", "{x}-{y}"),
    (1, "3-9 2-4", "{A} makes {x} {s} a day. How many {s} does {A} make in {y} days?", "{x}*{y}"),
    (2, "2-5 2-4 2-3", "{A} has {x} bags with {y} {s} each. {A} gives away {z} {s}. How many {s} are left?",
     "{x}*{y}-{z}"),
    (2, "2-5 2-4 2-3", "{A} has {x} bags with {y} {s} each. {A} finds {z} more {s}. "
     "How many {s} does {A} have in total?", "{x}*{y}+{z}"),
    (2, "2-5 2-4 2-3", "There are {x} shelves with {y} {s} each. {A} takes {z} {s}. How many {s} are left?",
     "{x}*{y}-{z}"),
    (2, "7-9 2-3 2-3", "{A} has {x} {s}. {A} loses {y} {s} and then loses {z} more. How many {s} are left?",
     "{x}-{y}-{z}"),
    (2, "2-5 2-4 2-3", "{A} has {x} {s}. {A} buys {y} {s} and then buys {z} more. "
     "How many {s} does {A} have now?", "{x}+{y}+{z}"),
    (2, "2-6 2-4", "{A} has {x} {s}. {B} has {y} more {s} than {A}. How many {s} do they have together?",
     "{x}+{x}+{y}"),
    (3, "2-4 2-3 2-3", "{A} has {x} boxes with {y} {s} each. {A} finds {z} more {s} and loses 2. "
     "How many {s} are left?", "{x}*{y}+{z}-2"),
    (3, "2-4 2-3 2-4", "There are {x} bags with {y} {s} each and {z} boxes with 2 {s} each. "
     "How many {s} are there in total?", "{x}*{y}+{z}*2"),
    (3, "2-5 2-4 2-5", "{A} buys {x} {s} for {y} dollars each and {z} {t} for 2 dollars each. "
     "How many dollars does {A} pay?", "{x}*{y}+{z}*2"),
    (3, "2-4 2-3 2-4", "{A} has {x} {s}. {B} has {y} times as many {s} as {A}. {B} buys {z} more. "
     "How many {s} do they have together?", "{x}+{x}*{y}+{z}"),
)


def story(rng, level):
    """(text, answer) of a word problem that takes `level` steps."""
    _, ranges, text, formula = rng.choice([template for template in TEMPLATES if template[0] == level])
    x, y, z = [rng.randint(*map(int, r.split("-"))) for r in (ranges + " 0-0").split()[:3]]
    (a, b), (s, t) = rng.sample(NAMES, 2), rng.sample(THINGS, 2)
    answer = values(right_plan(formula.format(x=x, y=y, z=z)))[-1]
    return text.format(A=a, B=b, s=s, t=t, x=x, y=y, z=z), answer
