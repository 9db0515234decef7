r"""Do two answers say the same?

    >>> equivalent(r"\frac12", "0.5"), equivalent("(-1)^n", "-1"), equivalent("x > 2", r"(2, \infty)")
    (True, False, True)

Both are read (reading.py) and their trees compared: lists and sets entry by entry, intervals and inequalities as
sets of real numbers, everything else by its value. Numbers are compared exactly as long as they are rational, else as
floats; expressions in variables by their values at points of both signs and both parities. The first answer is the
reference: where it is a rounded decimal, what rounds to it is right. Work is bounded by counting: there is no timer
and no child process, nothing is executed, and no input raises.
"""
import cmath
import functools
import math
import zlib
from collections.abc import Iterator
from fractions import Fraction

from data.answers.reading import (ANGULAR, FAILURES, MAX_TEXT, Tree, Unsure, drop_thought,  # noqa: F401
                                  is_known_unit, normalise, parse, read_tree, split_label, strip_text, unparsed)

MAX_WORK = 4_000            # steps of one comparison, two to three microseconds each
MAX_BITS = 20_000           # of a power: 2^2008 passes, 9^9^9^9 does not
MIN_POINTS = 3              # at which two expressions have a value; x!!!! is x at 1 and 2, and too large elsewhere
MAX_FACTORIAL = 2_500       # 2500! has 25,000 bits

Number = int | Fraction | float | complex


class OutOfWork(Exception):
    """A comparison costs too much: then the two are not equal."""


class Budget:
    """What one comparison may cost."""

    def __init__(self, steps: int):
        self.steps = steps
        self.half = steps // 2

    def spend(self, cost: int = 1) -> None:
        self.steps -= cost
        if self.steps < 0:
            raise OutOfWork

    def is_half_spent(self) -> bool:
        return self.steps < self.half


# ------------------------------------------------------------------------------------------------------------
# The value of a tree: int or Fraction where it is rational, else float or complex

class Point:
    """Values for the variables of two trees, and whether complex numbers may occur on the way."""

    def __init__(self, values: dict[str, Number], real: bool, budget: Budget):
        self.values = values
        self.real = real
        self.budget = budget


def is_exact(x: Number) -> bool:
    return isinstance(x, (int, Fraction))


def require(truth: bool, reason: str) -> None:
    if not truth:
        raise Unsure(reason)


def evaluate(tree: Tree, point: Point, scaled: bool = False) -> Number:
    """The value at a point. scaled: 50 % is 1/2 and 180° is pi, as always inside sin; else they are 50 and 180."""
    kind = tree[0]
    if kind == "num" or kind == "const":
        require(tree[1] != math.inf, "infinity is no number")
        return tree[1]
    if kind == "sym":
        return point.values[tree[1]]
    if kind == "unit" or (kind in ("%", "°") and not scaled):
        return evaluate(tree[1], point, scaled)
    point.budget.spend()
    values = []
    for part in tree[1:]:
        if isinstance(part, tuple):
            values.append(evaluate(part, point, scaled or kind in ANGULAR))
    if kind == "call":
        return call_unknown(tree[1], values)
    return simplify(calculate(kind, values, point.budget), point)


def simplify(value: Number, point: Point) -> Number:
    """A complex number that is real up to rounding becomes real; where all have to be real, another has no value."""
    if is_exact(value):
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        point.budget.spend(bits // 64)                                  # long numbers cost more
        return value
    if isinstance(value, complex) and abs(value.imag) <= max(1e-12 * abs(value.real), 1e-14):
        value = value.real
    require(not (point.real and isinstance(value, complex)), "not real")
    require(abs(value) < 1e300, "too large, or not a number")
    return value


def calculate(kind: str, values: list[Number], budget: Budget) -> Number:
    """An operation or a function of one or more values."""
    a = values[0]
    b = values[-1]
    if kind == "+":
        return add(a, b)
    if kind == "-":
        return add(a, -b)
    if kind == "neg":
        return -a
    if kind == "*":
        return a * b
    if kind == "/":
        return divide(a, b)
    if kind == "^":
        return raise_power(a, b)
    if kind == "root":
        return raise_power(b, divide(1, a))
    if kind == "!":
        return factorial(a, budget)
    if kind == "binom":
        return divide(factorial(a, budget), factorial(b, budget) * factorial(a - b, budget))
    if kind == "%":
        return divide(a, 100)
    if kind == "°":
        return a * math.pi / 180
    if kind in ("||", "abs"):
        return abs(a)
    if kind in ("⌊⌋", "floor"):
        return math.floor(snap(a))
    if kind in ("⌈⌉", "ceil"):
        return math.ceil(snap(a))
    if kind == "\\bmod":
        return a % b
    if kind == "max":
        return max(values)
    if kind == "min":
        return min(values)
    if kind == "gcd":
        return math.gcd(*[whole(value) for value in values])
    if kind == "lcm":
        return math.lcm(*[whole(value) for value in values])
    return calculate_function(kind, values)


def calculate_function(kind: str, values: list[Number]) -> Number:
    x = values[0]
    if kind == "exp":
        return cmath.exp(x)
    if kind in ("ln", "log") and len(values) == 1:
        return cmath.log(x)
    if kind == "log":
        return cmath.log(x) / cmath.log(values[1])
    if kind == "lg":
        return cmath.log(x) / math.log(10)
    if kind == "sin":
        return drop_dust(cmath.sin(x))
    if kind == "cos":
        return drop_dust(cmath.cos(x))
    if kind == "tan":
        return drop_dust(cmath.sin(x)) / drop_dust(cmath.cos(x))
    if kind == "csc":
        return 1 / drop_dust(cmath.sin(x))
    if kind == "sec":
        return 1 / drop_dust(cmath.cos(x))
    if kind == "cot":
        return drop_dust(cmath.cos(x)) / drop_dust(cmath.sin(x))
    if kind == "arcsin":
        return cmath.asin(x)
    if kind == "arccos":
        return cmath.acos(x)
    if kind == "arctan":
        return cmath.atan(x)
    if kind == "sinh":
        return cmath.sinh(x)
    if kind == "cosh":
        return cmath.cosh(x)
    if kind == "tanh":
        return cmath.tanh(x)
    raise Unsure(kind)                                                  # a relation, a list, words: not a number


def drop_dust(value: complex) -> complex:
    """sin(pi) is 0 and not 1e-16, so that tan(pi/2) has no value."""
    if abs(value) < 1e-13:
        return 0
    return value


def add(a: Number, b: Number) -> Number:
    total = a + b
    if is_exact(total):
        return total
    small, large = sorted((abs(a), abs(b)))
    require(small == 0 or small > 1e-9 * large, "lost by rounding, as in 10^20 + sqrt 2")
    if abs(total) < 1e-13 * large:
        return 0.0
    return total


def divide(a: Number, b: Number) -> Number:
    if is_exact(a) and is_exact(b):
        return Fraction(a, b)
    return a / b


def raise_power(base: Number, exponent: Number) -> Number:
    """Exact as long as it can be: 2^10, (4/9)^(3/2), also (-8)^(1/3), which is -2."""
    if not (is_exact(base) and is_exact(exponent)):
        return complex(base) ** complex(exponent)
    top, bottom = exponent.numerator, exponent.denominator
    size = max(abs(base.numerator), base.denominator).bit_length()
    require(size == 1 or abs(top) * size <= MAX_BITS, "too large")
    if bottom == 1:
        return Fraction(base) ** top
    if base < 0 and bottom % 2 == 1:
        return (-1) ** (top % 2) * raise_power(-base, exponent)
    if base >= 0 and bottom < 65:
        root = Fraction(round(base.numerator ** (1 / bottom)), round(base.denominator ** (1 / bottom)))
        if root ** bottom == base:
            return root ** top
    return complex(base) ** complex(exponent)


def whole(x: Number) -> int:
    """An integer, or it has no value."""
    require(is_exact(x) and x.denominator == 1, "not an integer")
    return int(x)


def factorial(x: Number, budget: Budget) -> int:
    n = whole(x)
    require(0 <= n <= MAX_FACTORIAL, "negative, or too large")
    budget.spend(n // 4)
    return math.factorial(n)


def snap(x: Number) -> Number:
    """A float that is an integer up to rounding becomes that integer: log_2 8 before its floor."""
    if not is_exact(x) and abs(x - round(x)) < 1e-9:
        return round(x)
    return x


def call_unknown(name: str, values: list[Number]) -> Number:
    """f(a, b) of an f that nobody knows: any number, but the same one for equal arguments."""
    key = name
    for value in values:
        key += f" {complex(value):.9g}"
    return Fraction(zlib.crc32(key.encode()) % 9973 + 27, 101)


# ------------------------------------------------------------------------------------------------------------
# Points: each variable is positive and negative, odd and even, large and small, and a fraction

INTEGER_NAMES = set("ijklmnMN")             # these are integers by custom: ceil(n/2) is floor((n+1)/2)
# How large they are, once or twice this: large for sqrt(x - 50), small for 2^(2^x), less than 1 for arcsin.
SIGNED_SIZES = (2, 20, 150, 5, 40, 3, 8, 90)
POSITIVE_SIZES = (1, 2, 12, 140)
SIGNED_FRACTION_SIZES = (1, 3, 30, 6, 1, 2, 12, 1)
POSITIVE_FRACTION_SIZES = (1, 1, 1, 3, 30)
# Where one of these is, two expressions may differ at a few points only.
# A function that jumps or bends belongs here, too: nothing fails without, but then too few points may tell it apart.
STEPS = {"⌊⌋", "⌈⌉", "||", "floor", "ceil", "abs", "\\bmod", "max", "min"}
# Seven ways to halve eight points, as masks; no two of them go together.
HALVES = (1, 2, 4, 7, 3, 5, 6)


def split(index: int, k: int) -> int:
    """0 or 1: on which side of a halving the k-th point is.

    >>> [split(0, k) for k in range(8)], [split(1, k) for k in range(8)]
    ([0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 0, 0, 1, 1])
    """
    mask = HALVES[index % len(HALVES)]
    return bin(mask & k).count("1") % 2


def choose_size(size: int, random: int) -> int:
    """From half the size up to it."""
    half = size // 2
    return half + random % (size - half)


def choose_integer(seed: str, index: int, k: int, size: int) -> int:
    """For the index-th variable at the k-th point: odd at half of the points."""
    random = zlib.crc32(f"{seed} {k} {size}".encode())
    return 2 * choose_size(size, random) + split(2 * index, k)


def choose_fraction(seed: str, index: int, k: int, size: int) -> Number:
    """No integer; but the variables that are integers by custom are."""
    if seed[0] in INTEGER_NAMES:
        return choose_integer(seed, index, k, size)
    random = zlib.crc32(f"{seed} {k} {size}".encode())
    return choose_size(size, random) + Fraction(1 + random % 13, 14)


def choose_sign(index: int, k: int) -> int:
    """Negative at half of the points, and at half of those where it is odd."""
    return 1 - 2 * split(2 * index + 1, k)


@functools.lru_cache(maxsize=1024)
def choose_points(name: str, index: int, turn: int) -> list[Number]:
    """The values of the index-th variable, at one point after the other. Each turn is another set of points."""
    seed = f"{name} {turn}"
    shift = index * turn                    # in the first turn all variables are large together, later not
    values = []
    for k in range(8):
        size = SIGNED_SIZES[(k + shift) % 8]
        values.append(choose_sign(index, k) * choose_integer(seed, index, k, size))
    for k in range(8):
        size = SIGNED_FRACTION_SIZES[(k + shift) % 8]
        values.append(choose_sign(index, k) * choose_fraction(seed, index, k, size))
    for k, size in enumerate(POSITIVE_SIZES):
        values.append(choose_integer(seed, index, k, size))
    for k, size in enumerate(POSITIVE_FRACTION_SIZES):
        values.append(choose_fraction(seed, index, k, size))
    return values


def walk(tree: Tree) -> Iterator[Tree]:
    """A tree and all trees in it."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        yield part
        for child in part[1:]:
            if isinstance(child, tuple):
                waiting.append(child)


def find_names(tree: Tree) -> set[str]:
    """The variables of a tree."""
    return {part[1] for part in walk(tree) if part[0] == "sym"}


def find_kinds(tree: Tree) -> set[str]:
    """The operations, functions ... of a tree."""
    return {part[0] for part in walk(tree)}


def has_i(tree: Tree) -> bool:
    """Are complex numbers meant?"""
    return any(part == ("const", 1j) for part in walk(tree))


def make_points(first: Tree, second: Tree, real: bool, budget: Budget) -> Iterator[Point]:
    """One point where there are no variables, else 25; more where a difference may show at a few only."""
    names = sorted(find_names(first) | find_names(second))
    if not names:
        yield Point({}, False, budget)
        return
    turns = 1
    if not STEPS.isdisjoint(find_kinds(first) | find_kinds(second)):
        turns = 5
    for turn in range(turns):
        if turn > 0 and budget.is_half_spent():
            return                                                      # long expressions make do with 25
        columns = []
        for index, name in enumerate(names):
            columns.append(choose_points(name, index, turn))
        for row in dict.fromkeys(zip(*columns)):                        # each row once
            yield Point(dict(zip(names, row)), real, budget)


def sample_values(first: Tree, second: Tree, budget: Budget, scaled: bool, real: bool) -> Iterator[tuple]:
    """Pairs of values, at the points where both have one."""
    for point in make_points(first, second, real, budget):
        try:
            pair = evaluate(first, point, scaled), evaluate(second, point, scaled)
        except RecursionError:
            raise OutOfWork                                             # it would fail at every other point too
        except FAILURES:
            continue
        yield pair


# ------------------------------------------------------------------------------------------------------------
# Equal values

def is_close(a: Number, b: Number) -> bool:
    """Equal: exactly if both are rational, else up to rounding."""
    if is_exact(a) and is_exact(b):
        return a == b
    return abs(a - b) <= 1e-11 * max(abs(a), abs(b))


def is_close_constant(a: Number, b: Number) -> bool:
    """The same for numbers without variables, where an irrational one may come close to an integer: e^(pi sqrt 163)."""
    if is_exact(a) != is_exact(b) and max(abs(a), abs(b)) > 1e7:
        return False
    return is_close(a, b) and (is_exact(a) == is_exact(b) or abs(a - b) <= 1e-13 * abs(a))


def find_last_digit(tree: Tree, scaled: bool) -> Fraction | int:
    """The unit of a decimal's last digit, 1/100 for 2.50; 0 for anything else. scaled: 1/10,000 for 2.50 %."""
    if tree[0] == "%" and scaled:
        return find_last_digit(tree[1], scaled) / 100
    if tree[0] == "°" and scaled:
        return find_last_digit(tree[1], scaled) * Fraction(math.pi / 180)
    if tree[0] in ("neg", "%", "°"):
        return find_last_digit(tree[1], scaled)
    if tree[0] == "num":
        return tree[2]
    return 0


def is_rounded(gold: Tree, answer: Tree, a: Number, b: Number, scaled: bool = False) -> bool:
    """Is one value the other, rounded? A rounded reference, 3.14 or 0.33 but not 4.2, is met by what rounds to it.

    A decimal answer to an exact reference needs six digits, the last one rounded or cut off: 0.333333 for 1/3.
    """
    gold_digit = find_last_digit(gold, scaled)
    answer_digit = find_last_digit(answer, scaled)
    if isinstance(a, complex) or isinstance(b, complex) or a * b <= 0:
        return False
    off = abs(Fraction(a)) - abs(Fraction(b))
    if gold_digit and answer_digit:                                     # 2.500 for 2.5, but neither 2.49 nor 2.52
        return abs(a) >= 100 * gold_digit and gold_digit >= max(2 * abs(off), 100 * answer_digit)
    if gold_digit:
        digits = abs(a) / gold_digit
        return (digits >= 100 or digits >= 10 and gold_digit <= Fraction(1, 100)) and gold_digit >= 2 * abs(off)
    if answer_digit:
        sixth_digit = Fraction(10) ** (math.floor(math.log10(abs(b))) - 5)
        digit = max(answer_digit, sixth_digit / 10 ** 6)                # nobody is asked for more than twelve
        an_integer = is_exact(a) and a.denominator == 1
        return not an_integer and digit <= sixth_digit and -digit / 2 <= off < digit
    return False


NOT_NUMBERS = {"list", "and", "or", "rel", "named", "text", "reals", "{}", "()", "(]", "[)", "[]", "∪", "∩", "∖"}


def match_at_points(gold: Tree, answer: Tree, budget: Budget, scaled: bool, real: bool) -> bool | None:
    """Are the values equal wherever both have one? None if there are not enough such points."""
    points = 0
    for a, b in sample_values(gold, answer, budget, scaled, real):
        if not is_close(a, b):
            return False
        points += 1
    if points < MIN_POINTS:
        return None
    return True


MARKS = {"%", "°"}


def match_values(gold: Tree, answer: Tree, budget: Budget) -> bool:
    """Equal numbers, or equal expressions; 50 % is 50, and 1/2."""
    kinds = find_kinds(gold) | find_kinds(answer)
    if not kinds.isdisjoint(NOT_NUMBERS):
        return False
    gold_marks = find_kinds(gold) & MARKS
    answer_marks = find_kinds(answer) & MARKS
    scales = [False]
    if gold_marks and answer_marks and gold_marks != answer_marks:
        scales = [True]                                                 # 30 % is not 30 degrees
    elif gold_marks or answer_marks:
        scales.append(True)
    for scaled in scales:
        if "sym" not in kinds:
            for a, b in sample_values(gold, answer, budget, scaled, real=False):
                if is_close_constant(a, b) or is_rounded(gold, answer, a, b, scaled):
                    return True
            continue
        matched = None
        if not (has_i(gold) or has_i(answer)):
            matched = match_at_points(gold, answer, budget, scaled, real=True)
        if matched is None:                                             # with i, or complex everywhere: sqrt(-1 - x^2)
            matched = match_at_points(gold, answer, budget, scaled, real=False)
        if matched:
            return True
    return False


# ------------------------------------------------------------------------------------------------------------
# Sets of real numbers: sorted disjoint intervals
#
# An interval is a pair of cuts. A cut (x, 0) lies just before the number x and (x, 1) just behind it, so that
# [1, 2) is ((1, 0), (2, 0)) and {3} is ((3, 0), (3, 1)); cuts compare as Python compares pairs.

Cut = tuple[Number, int]
Region = list[tuple[Cut, Cut]]

START: Cut = (-math.inf, 1)
END: Cut = (math.inf, 0)


def unite(first: Region, second: Region) -> Region:
    """The union, sorted, with what touches made one.

    >>> unite([((1, 0), (2, 0))], [((2, 0), (2, 1)), ((5, 1), (6, 0))])
    [((1, 0), (2, 1)), ((5, 1), (6, 0))]
    """
    merged = []
    for start, end in sorted(first + second):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            start, previous_end = merged.pop()
            end = max(end, previous_end)
        merged.append((start, end))
    return merged


def complement(region: Region) -> Region:
    """What is not in it."""
    gaps = []
    start = START
    for left, right in region:
        if start < left:
            gaps.append((start, left))
        start = right
    if start < END:
        gaps.append((start, END))
    return gaps


def intersect(first: Region, second: Region) -> Region:
    return complement(unite(complement(first), complement(second)))


def find_value(tree: Tree, budget: Budget) -> Number:
    """The value of a real number, also infinity."""
    if tree == ("const", math.inf):
        return math.inf
    if tree == ("neg", ("const", math.inf)):
        return -math.inf
    value = evaluate(tree, Point({}, True, budget))
    require(not isinstance(value, complex), "not real")
    return value


def find_region(tree: Tree, budget: Budget) -> Region:
    """The set of real numbers that a tree says; Unsure if it says something else."""
    kind = tree[0]
    budget.spend(20)
    if kind == "reals":
        return [(START, END)]
    if kind == "named" and tree[2][0] in ("num", "neg", "/"):           # x = 1 or x > 3
        return find_points((tree,), budget)
    if kind == "named":
        return find_region(tree[2], budget)
    if kind in ("()", "[]", "(]", "[)") and len(tree) == 3:
        left, right = find_value(tree[1], budget), find_value(tree[2], budget)
        require(left < right or left == right and kind == "[]", "not an interval")
        start = (left, int(kind[0] == "("))
        end = (right, int(kind[1] == "]"))
        return unite([(max(start, START), min(end, END))], [])
    if kind == "{}":
        return find_points(tree[1:], budget)
    if kind in ("∪", "∩", "∖"):
        return combine_regions(kind, find_region(tree[1], budget), find_region(tree[2], budget))
    if kind == "rel":
        return find_solutions(tree, budget)
    if kind in ("list", "and", "or"):
        return find_joint_region(tree, budget)
    raise Unsure("not a set of real numbers")


def combine_regions(kind: str, first: Region, second: Region) -> Region:
    if kind == "∪":
        return unite(first, second)
    if kind == "∩":
        return intersect(first, second)
    return intersect(first, complement(second))


def find_points(trees: Tree, budget: Budget) -> Region:
    """Single numbers, perhaps named: x = -4."""
    region = []
    for tree in trees:
        budget.spend(5)
        if tree[0] == "named":
            tree = tree[2]
        value = find_value(tree, budget)
        region = unite(region, [((value, 0), (value, 1))])
    return region


def find_joint_region(tree: Tree, budget: Budget) -> Region:
    """Several conditions: x > 1 and x < 3; x < 1 or x > 3; x != 1, 2. A comma is "and", or "or" if nothing is left."""
    kind, first, *rest = tree
    require(any(part[0] == "rel" for part in tree[1:]), "a list, not a set")
    region = find_region(first, budget)
    for part in rest:
        if first[0] == "rel" and first[1] == ("!=",) and part[0] not in ("rel", "named"):
            part = ("rel", ("!=",), first[2], part)
        other = find_region(part, budget)
        common = intersect(region, other)
        if kind == "or" or (kind == "list" and not common):
            region = unite(region, other)
        else:
            region = common
    return region


def find_solutions(tree: Tree, budget: Budget) -> Region:
    """What solves linear inequalities in one variable: 2x < 4, -1 <= x < 3, x != 2."""
    signs, sides = tree[1], tree[2:]
    require(len(find_names(tree)) == 1, "one variable")
    region = [(START, END)]
    for sign, left, right in zip(signs, sides, sides[1:]):
        region = intersect(region, solve_linear(sign, ("-", left, right), budget))
    return region


def solve_linear(sign: str, tree: Tree, budget: Budget) -> Region:
    """Where is a x + b < 0 (or <=, !=)? It is linear if its values at 0, 1, 2, 5 say so."""
    name = find_names(tree).pop()
    values = []
    for x in (0, 1, 2, 5):
        values.append(evaluate(tree, Point({name: x}, True, budget)))
    b, slope = values[0], values[1] - values[0]
    require(is_close(values[2] - b, 2 * slope) and is_close(values[3] - b, 5 * slope) and slope != 0, "not linear")
    root = divide(-b, slope)
    before, behind = (root, 0), (root, 1)
    if sign == "!=":
        return [(START, before), (behind, END)]
    if sign == "<" and slope > 0:
        return [(START, before)]
    if sign == "<":
        return [(behind, END)]
    if sign == "<=" and slope > 0:
        return [(START, behind)]
    if sign == "<=":
        return [(before, END)]
    raise Unsure("an equation")


def match_regions(gold: Tree, answer: Tree, budget: Budget) -> bool:
    """The same set of real numbers, of the same variable if both name one. Two pairs (1, 2) are points, not sets."""
    if gold[0] == answer[0] == "()" or len(find_names(gold) | find_names(answer)) > 1:
        return False
    try:
        first, second = find_region(gold, budget), find_region(answer, budget)
    except FAILURES:
        return False
    if len(first) != len(second):
        return False
    for (left, right), (other_left, other_right) in zip(first, second):
        if not (same_cut(left, other_left) and same_cut(right, other_right)):
            return False
    return True


def same_cut(first: Cut, second: Cut) -> bool:
    if math.isinf(first[0]) or math.isinf(second[0]):
        return first == second
    return first[1] == second[1] and is_close(first[0], second[0])


# ------------------------------------------------------------------------------------------------------------
# Comparison. The first tree is always the reference.

LISTS = ("list", "and", "or")
UNORDERED = (*LISTS, "{}", "∪")
BRACKETS = ("()", "(]", "[)", "[]")


def match(gold: Tree, answer: Tree, budget: Budget) -> bool:
    """Do two trees say the same?"""
    budget.spend(5)
    if gold == answer:
        return True
    if "time" in (gold[0], answer[0]):
        return match_times(gold, answer, budget)
    if "unit" in (gold[0], answer[0]):
        return match_units(gold, answer, budget)
    if gold[0] in ("rel", "named") and answer[0] in ("rel", "named") and match_relations(gold, answer, budget):
        return True
    if match_structure(gold, answer, budget):
        return True
    return needs_region(gold, answer) and match_regions(gold, answer, budget)


def needs_region(gold: Tree, answer: Tree) -> bool:
    """Is there a set of real numbers that can be written in several ways?"""
    for tree in (gold, answer):
        if tree[0] in ("rel", "and", "or", "∪", "∩", "∖", "reals"):
            return True
        if tree[0] == "list" and any(part[0] == "rel" for part in tree[1:]):
            return True
    return False


def match_structure(gold: Tree, answer: Tree, budget: Budget) -> bool:
    """Part by part."""
    gold, answer = reduce_chain(gold, budget), reduce_chain(answer, budget)
    gold, answer = name_interval(gold), name_interval(answer)
    kinds = (gold[0], answer[0])
    if "named" in kinds:
        return match_named(gold, answer, budget)
    if gold[0] == answer[0] and gold[0] in BRACKETS:
        return match_in_order(gold[1:], answer[1:], budget)
    if set(kinds) == {"()", "list"}:                                    # 1, 2 may stand for (1, 2), in this order
        return match_in_order(gold[1:], answer[1:], budget)
    if kinds[0] != kinds[1] and ("and" in kinds or "or" in kinds) and set(kinds) != {"or", "∪"}:
        return False                                                    # x < 1 and x > 3 is not x < 1 or x > 3
    if gold[0] in UNORDERED or answer[0] in UNORDERED:
        return match_in_any_order(list_entries(gold), list_entries(answer), budget)
    return match_values(gold, answer, budget)


def match_in_order(first: Tree, second: Tree, budget: Budget) -> bool:
    if len(first) != len(second):
        return False
    return all(match(a, b, budget) for a, b in zip(first, second))


def match_in_any_order(first: list[Tree], second: list[Tree], budget: Budget) -> bool:
    """Each of the first is among the second and the other way round.

    5 is no list, so that it is not 5, 5; and where the reference has 1, 2, 2, 1, 2 is too short.
    """
    if (len(first) == 1) != (len(second) == 1) or len(first) > len(second):
        return False
    for a in first:
        if not any(match(a, b, budget) for b in second):
            return False
    for b in second:
        if not any(match(a, b, budget) for a in first):
            return False
    return True


def list_entries(tree: Tree) -> list[Tree]:
    """The entries of a list, set or union; anything else is one entry."""
    if tree[0] not in UNORDERED:
        return [tree]
    entries = []
    for part in tree[1:]:
        entries.extend(list_entries(part))
    return entries


def match_named(gold: Tree, answer: Tree, budget: Budget) -> bool:
    """x = 3 is 3, but not y = 3; y = 2x is f(x) = 2x."""
    names = []
    values = []
    for tree in (gold, answer):
        if tree[0] == "named":
            names.append(tree[1])
            tree = tree[2]
        values.append(tree)
    if len(names) == 2 and names[0] != names[1]:
        if ("sym", "y") not in names or not any(name[0] == "call" and len(name) == 3 for name in names):
            return False
    return match(*values, budget)


def reduce_chain(tree: Tree, budget: Budget) -> Tree:
    """The last side of 2 + 3 = 5, and of a longer chain if its sides without variables agree; else the tree itself.

    2x = 10 stays an equation.
    """
    if tree[0] != "rel" or set(tree[1]) != {"="}:
        return tree
    *others, last = tree[2:]
    constant = [side for side in others if not find_names(side)]
    if len(others) == 1 or not constant or find_names(last):
        constant = others                                               # then all have to agree
    for side in constant:
        if not match_values(last, side, budget):
            return tree
    return last


def name_interval(tree: Tree) -> Tree:
    """x > a and a < x <= b as intervals with a name, also where a and b hold variables; anything else as it is."""
    if tree[0] != "rel" or not set(tree[1]) <= {"<", "<="}:
        return tree
    signs, sides = tree[1], tree[2:]
    lowest, highest = ("neg", ("const", math.inf)), ("const", math.inf)
    if len(sides) == 2 and sides[0][0] == "sym" and sides[1] != ("sym", "x"):       # x < b
        return ("named", sides[0], (close_interval("<", signs[0]), lowest, sides[1]))
    if len(sides) == 2 and sides[1][0] == "sym":                                    # a < x
        return ("named", sides[1], (close_interval(signs[0], "<"), sides[0], highest))
    if len(sides) == 3 and sides[1][0] == "sym":                                    # a < x < b
        return ("named", sides[1], (close_interval(*signs), sides[0], sides[2]))
    return tree


def close_interval(left: str, right: str) -> str:
    """The brackets for two signs: "<" and "<=" make "(]"."""
    opening = "[" if left == "<=" else "("
    closing = "]" if right == "<=" else ")"
    return opening + closing


def match_relations(gold: Tree, answer: Tree, budget: Budget) -> bool:
    """Equations and inequalities: side by side, or left - right as a multiple of the other's."""
    signs, first = split_relation(gold)
    others, second = split_relation(answer)
    if not signs or signs != others:
        return False
    if match_in_order(first, second, budget):
        return True
    if len(signs) > 1:
        return False
    ratios = []
    for a, b in sample_values(("-", *first), ("-", *second), budget, False, real=True):
        if (a == 0) != (b == 0):
            return False
        if a != 0:
            ratios.append(divide(a, b))
    if len(ratios) < 2 or signs[0] not in ("=", "!=") and min(ratios) < 0:
        return False
    return all(is_close(ratios[0], ratio) for ratio in ratios)


def split_relation(tree: Tree) -> tuple[tuple, tuple]:
    """Signs and sides of a relation; x = 3 is one too."""
    if tree[0] == "rel":
        return tree[1], tree[2:]
    if tree[0] == "named":
        return ("=",), tree[1:]
    return (), ()


def match_units(gold: Tree, answer: Tree, budget: Budget) -> bool:
    """5 cm is 5, but not 5 km. A word that is no unit, as in "5 is wrong", has to stand behind the reference too."""
    units = []
    values = []
    for tree in (gold, answer):
        unit = ""
        if tree[0] == "unit":
            unit = tree[2]
            tree = tree[1]
        elif tree[0] in ("°", "%"):
            unit = tree[0]                                              # no other unit stands for it
        units.append(unit)
        values.append(tree)
    gold_unit, answer_unit = units
    allowed = gold_unit == "" and is_known_unit(answer_unit)
    if allowed or set(answer_unit.split()) <= set(gold_unit.split()):
        return match(*values, budget)
    return False


def match_times(gold: Tree, answer: Tree, budget: Budget) -> bool:
    """3 pm is 15:00 and not 3 am. Beside something that is no time, 12:30 is a ratio and 3 pm is 3."""
    if gold[0] == answer[0]:
        same_minute = gold[2:4] == answer[2:4]
        halves = (gold[4], answer[4])
        if "" in halves and halves != ("", ""):                         # 8:34 may mean 8:34 pm
            late = max(gold[1], answer[1]) > 12
            return same_minute and (count_hours(gold) == count_hours(answer) or not late and gold[1] == answer[1])
        return same_minute and count_hours(gold) == count_hours(answer)
    if "unit" in (gold[0], answer[0]):
        return False                                                    # 5 cents are not 5 am
    return match(read_ratio(gold), read_ratio(answer), budget)


def count_hours(time: Tree) -> int:
    """Hours since midnight."""
    hour, half = time[1], time[4]
    if half == "":
        return hour
    return hour % 12 + 12 * (half == "p")


def read_ratio(tree: Tree) -> Tree:
    if tree[0] != "time":
        return tree
    hour, minute = ("num", tree[1], 0), ("num", tree[2], 0)
    if tree[4] == "":
        return ("/", hour, minute)
    require(tree[2] == 0, "a time is no number")
    return hour


# ------------------------------------------------------------------------------------------------------------
# What the rest of the project calls

def equivalent(a: str, b: str) -> bool:
    """Do two answers say the same? `a` is the reference; an empty one is never met."""
    if a.strip() == b.strip():
        return len(a) > MAX_TEXT or strip_text(a) != ""
    gold, answer = parse(a), parse(b)
    if match_trees(gold, answer):
        return True
    text = strip_text(a)
    if text != "" and text == strip_text(b):
        return True
    letter, rest = split_label(normalise(b))
    if letter == "" or gold is None:
        return False
    if gold[0] == "sym" and gold[1] in "ABCDEFGHIJ":
        return letter == gold[1]                                        # (B) 17 for B
    return match_trees(gold, read_tree(rest))                           # and for 17


def count_answers(answer: str) -> int:
    """How many answers a list or set holds; 1 for anything else."""
    tree = parse(answer)
    if tree is None:
        return 1
    if tree[0] == "named":
        tree = tree[2]
    return len(list_entries(tree))


def match_trees(gold: Tree | None, answer: Tree | None) -> bool:
    if gold is None or answer is None:
        return False
    try:
        return match(gold, answer, Budget(MAX_WORK))
    except (*FAILURES, OutOfWork):
        return False
