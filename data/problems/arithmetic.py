"""Bracketed arithmetic such as 3+4*(2+5), and what one can SAY about an expression.

That is: plans in the right and in a wrong order, and the working that follows a plan to the letter.
data/tiny/make_tiny.py mixes these into a corpus, the tests check them, and `habit` names the kind of plan that
an agent wrote. The text of a problem is all that is needed: Python's parser reads it, nothing is executed.
"""
import ast
import json
import math
import operator
import re

SYMBOLS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
COMPUTE = {"+": operator.add, "-": operator.sub, "*": operator.mul}
LETTERS = "abcdefgh"                       # names of the steps of a plan
EMPTY = "Solve it."                        # the plan that leaves the solver alone


# ------------------------------------------------------------------------------------------------------------
# Problems

def draw_expression(rng, level: int):
    """(text, value) of an expression with level + 1 operations on the digits 1 to 9.

    Drawn again until every intermediate value lies in 0..99, in the right order as well as from left to right;
    until the two orders differ, so that a plan in the wrong order fails; and until the answer is not one of
    the operands, so that a plan, which lists operands that never touch, cannot contain it.
    """
    while True:
        text, _, answer = grow(rng, level + 1)
        if math.isnan(answer) or str(answer) in text:
            continue
        wrong = values(wrong_plan(text))
        if min(wrong) >= 0 and max(wrong) <= 99 and wrong[-1] != answer:
            return text, answer


def grow(rng, operations):
    """A random expression -> (text, how strongly its outermost operation binds, value).

    The value is nan if it, or any on the way to it, is not in 0..99: what is computed from nan is nan.
    """
    if operations == 0:
        digit = rng.randint(1, 9)
        return str(digit), 3, digit
    symbol = rng.choice("+-*")
    before = rng.randrange(operations)           # so many operations go to the left, the others to the right
    strength = 2 if symbol == "*" else 1
    left, left_strength, x = grow(rng, before)
    right, right_strength, y = grow(rng, operations - 1 - before)
    if left_strength < strength:
        left = f"({left})"
    if right_strength <= strength:               # 9-(3-1): among equals the left one would be first
        right = f"({right})"
    value = COMPUTE[symbol](x, y)
    if not 0 <= value <= 99:
        value = math.nan
    return left + symbol + right, strength, value


# ------------------------------------------------------------------------------------------------------------
# Plans

def right_plan(problem: str) -> str:
    """The steps in an order that works: "3+4*(2+5)" -> "a=2+5; b=4*a; 3+b", with letters for earlier steps."""
    steps = []
    add_steps(ast.parse(problem, mode="eval").body, steps)
    return join_steps(steps)


def add_steps(node, steps):
    """Append what has to be computed for `node` of Python's tree to steps -> how later steps call its value."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    left = add_steps(node.left, steps)
    right = add_steps(node.right, steps)
    steps.append(left + SYMBOLS[type(node.op)] + right)
    return LETTERS[len(steps) - 1]


def wrong_plan(problem: str) -> str:
    """From left to right, blind to brackets and precedence: "3+4*(2+5)" -> "a=3+4; b=a*2; b+5"."""
    before, *rest = re.findall(r"[-+*]?\d+", re.sub("[()]", "", problem))         # 3, then +4, *2, +5
    steps = []
    for letter, step in zip(LETTERS, rest):
        steps.append(before + step)
        before = letter
    return join_steps(steps)


def join_steps(steps):
    """["2+5", "4*a", "3+b"] -> "a=2+5; b=4*a; 3+b": the last step needs no name."""
    named = []
    for letter, step in zip(LETTERS, steps[:-1]):
        named.append(f"{letter}={step}")
    return "; ".join(named + steps[-1:])


def rewrite(problem: str) -> str:
    """The same expression with every bracket written out: "3+4*(2+5)" -> "3+(4*(2+5))"."""
    return bracket(ast.parse(problem, mode="eval").body)[1:-1]


def bracket(node):
    """The text of `node` with brackets around each operation."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return f"({bracket(node.left)}{SYMBOLS[type(node.op)]}{bracket(node.right)})"


# ------------------------------------------------------------------------------------------------------------
# Following a plan

def trace(plan: str, known=None) -> list:
    """Each step of a plan as (its name or "", the step with numbers put in for letters, value).

    "a=2+5; a*3" -> [("a", "2+5", 7), ("", "7*3", 21)]
    known: {letter: value} of earlier turns; is added to. ValueError for what is no plan.
    """
    if known is None:
        known = {}
    found = []
    for step in plan.split("; "):
        # Perhaps a name, then two operands, each a number or the name of an earlier step
        match = re.fullmatch(r"(?:([a-h])=)?([a-h]|\d+)([-+*])([a-h]|\d+)", step)
        if not match:
            raise ValueError(f"not a step: {step!r}")
        name, left, symbol, right = match.groups(default="")
        x = look_up(left, known)
        y = look_up(right, known)
        value = COMPUTE[symbol](x, y)
        found.append((name, f"{x}{symbol}{y}", value))
        if name:
            known[name] = value
    return found


def look_up(operand, known):
    """The value of a number or of an earlier step's name; ValueError if no step has that name."""
    if operand.isdigit():
        return int(operand)
    if operand not in known:
        raise ValueError(f"no earlier step is called {operand!r}")
    return known[operand]


def values(plan: str) -> list[int]:
    """The value of every step: "a=2+5; b=4*a; 3+b" -> [7, 28, 31]."""
    return [value for _, _, value in trace(plan)]


def working(plan: str, known=None) -> str:
    """The answer, without its box, that does what the plan says: "a=2+5; a*3" -> "a=2+5=7; 7*3=21."."""
    lines = []
    for name, step, value in trace(plan, known):
        lines.append(f"{name}={step}={value}".lstrip("="))           # a step without a name has no = before it
    return "; ".join(lines) + "."


def habit(plan: str, problem: str) -> str:
    """Which habit a plan shows: "right" (it leads to the answer), "wrong" (left to right), "rewrite" (the
    expression with all brackets), "empty" or "other". A JSON plan is judged by its output.
    """
    plan = plan.strip()
    try:
        if plan.startswith("{"):
            plan = str(json.loads(plan).get("output", "")).strip()
        if plan in ("", EMPTY):
            return "empty"
        if plan == wrong_plan(problem):
            return "wrong"
        if plan == rewrite(problem):
            return "rewrite"
        if values(plan)[-1] == values(right_plan(problem))[-1]:
            return "right"
    except ValueError:                           # neither JSON nor steps
        pass
    return "other"
