"""Pairs of random expressions, equal by their making or unequal by Python's own arithmetic, for the grader's tests.

A tree is a string (a number or a variable) or a tuple: ("+", a, b), ("floor", a), ("sign", a) for (-1)^a, ...
x and y are real, n is an integer.
"""
import math
import random

NAMES = ("x", "y", "n")
OPERATIONS = ("+", "+", "-", "-", "*", "*", "/", "square", "cube", "root", "abs", "floor", "ceil", "sign", "ln")


def make_tree(rng: random.Random, depth: int):
    if depth == 0 or rng.random() < 0.1:
        return rng.choice([str(rng.randint(1, 20)), *NAMES])
    operation = rng.choice(OPERATIONS)
    if operation == "sign":                                 # its exponent has to be an integer
        return ("sign", rng.choice(["n", ("+", "n", str(rng.randint(1, 9))), ("*", "2", "n"), ("*", "n", "n")]))
    if operation in ("floor", "ceil"):
        return (operation, ("/", make_tree(rng, depth - 1), str(rng.randint(2, 5))))
    if operation in ("+", "-", "*", "/"):
        return (operation, make_tree(rng, depth - 1), make_tree(rng, depth - 1))
    return (operation, make_tree(rng, depth - 1))


def write_tree(node) -> str:
    """LaTeX of a tree."""
    if isinstance(node, str):
        return node
    parts = [write_tree(part) for part in node[1:]]
    a, b = parts[0], parts[-1]
    if node[0] in ("+", "-"):
        return f"({a}{node[0]}{b})"
    if node[0] == "*":
        return rf"({a})\cdot ({b})"
    if node[0] == "/":
        return rf"\frac{{{a}}}{{{b}}}"
    if node[0] == "square":
        return f"({a})^2"
    if node[0] == "cube":
        return f"({a})^3"
    if node[0] == "root":
        return rf"\sqrt{{{a}}}"
    if node[0] == "abs":
        return f"|{a}|"
    if node[0] == "floor":
        return rf"\lfloor {a} \rfloor"
    if node[0] == "ceil":
        return rf"\lceil {a} \rceil"
    if node[0] == "sign":
        return f"(-1)^{{{a}}}"
    return rf"\ln({a})"


def rewrite_tree(node, rng: random.Random) -> str:
    """LaTeX of something equal."""
    if isinstance(node, str):
        return node
    parts = [rewrite_tree(part, rng) for part in node[1:]]
    a, b = parts[0], parts[-1]
    if node[0] == "+":
        return rng.choice([f"({b}+{a})", rf"\left({a} + {b}\right)", f"(-(-({a})-({b})))"])
    if node[0] == "-":
        return rng.choice([f"({a} - {b})", f"(-({b})+{a})", f"-({b}-{a})"]).join("()")
    if node[0] == "*":
        return rng.choice([f"({b})({a})", rf"({a}) \times {{({b})}}", f"({a})*({b})"])
    if node[0] == "/":
        return rng.choice([f"(({a})/({b}))", rf"\dfrac{{{a}}}{{{b}}}", f"({a})({b})^{{-1}}"])
    if node[0] == "square":
        return rng.choice([f"({a})({a})", f"(-({a}))^{{2}}"])
    if node[0] == "cube":
        return rng.choice([f"({a})^2({a})", f"(-(-({a}))^{{3}})"])
    if node[0] == "root":
        return rng.choice([f"({a})^{{1/2}}", rf"\sqrt[4]{{({a})^2}}"] if is_positive(node[1]) else [f"({a})^{{1/2}}"])
    if node[0] == "abs":
        return rng.choice([rf"\sqrt{{({a})^2}}", f"|-({a})|", rf"\max({a}, -({a}))"])
    if node[0] == "floor":
        return rf"(-\lceil -({a})\rceil)"
    if node[0] == "ceil":
        return rf"(-\lfloor -({a})\rfloor)"
    if node[0] == "sign":
        return rng.choice([f"(-1)^{{{a}+2}}", f"(-(-1)^{{{a}-1}})", f"(1-2(({a}) \\bmod 2))"])
    return rng.choice([rf"(-\ln(1/({a})))", rf"2\ln(\sqrt{{{a}}})"])


def is_positive(node) -> bool:
    return isinstance(node, str) and node.isdigit()


def change_tree(node, rng: random.Random):
    """One thing changed: a sign, a digit, an exponent, a variable, an absolute value or a floor left out."""
    if isinstance(node, str):
        return str(int(node) + 1) if node.isdigit() else rng.choice(sorted(set(NAMES) - {node}))
    here = rng.random() < 0.4
    if here and node[0] in ("+", "-"):
        return ("-" if node[0] == "+" else "+", *node[1:])
    if here and node[0] in ("square", "cube"):
        return ("cube" if node[0] == "square" else "square", node[1])
    if here and node[0] in ("abs", "floor", "ceil", "root"):
        return node[1]
    if here and node[0] == "sign":
        return rng.choice(["1", ("-", "0", "1"), ("sign", ("+", node[1], "1"))])
    side = rng.randrange(1, len(node))
    return (*node[:side], change_tree(node[side], rng), *node[side + 1:])


def calculate(node, point: dict) -> float:
    """The value, by Python; ValueError where it is not real."""
    if isinstance(node, str):
        return float(node) if node.isdigit() else point[node]
    parts = [calculate(part, point) for part in node[1:]]
    a, b = parts[0], parts[-1]
    if node[0] == "+":
        return a + b
    if node[0] == "-":
        return a - b
    if node[0] == "*":
        return a * b
    if node[0] == "/":
        return a / b
    if node[0] == "square":
        return a ** 2
    if node[0] == "cube":
        return a ** 3
    if node[0] == "root":
        return math.sqrt(a)
    if node[0] == "abs":
        return abs(a)
    if node[0] == "floor":
        return float(math.floor(a + 1e-9))
    if node[0] == "ceil":
        return float(math.ceil(a - 1e-9))
    if node[0] == "sign" and a != round(a):
        raise ValueError("complex")
    if node[0] == "sign":
        return 1.0 if a % 2 == 0 else -1.0
    return math.log(a)


def compare_trees(first, second, rng: random.Random) -> tuple[int, int]:
    """At how many random points both have a value, and at how many of these they differ."""
    defined, different = 0, 0
    for _ in range(60):
        size = rng.choice([1, 4, 30, 100])
        point = {"x": rng.uniform(-size, size), "y": rng.uniform(-size, size), "n": float(rng.randint(-int(size), int(size)))}
        try:
            a, b = calculate(first, point), calculate(second, point)
        except (ArithmeticError, ValueError):
            continue
        if max(abs(a), abs(b)) > 1e12:                      # where floats can't tell whether a root was added
            continue
        defined += 1
        if abs(a - b) > 1e-6 * max(abs(a), abs(b)):
            different += 1
    return defined, different


def make_pairs(count: int, seed: int):
    """(text, equal text, unequal text) of `count` random trees that have a value at a third of the points and more."""
    rng = random.Random(seed)
    while count:
        node = make_tree(rng, rng.randint(1, 4))
        other = change_tree(node, rng)
        defined, different = compare_trees(node, other, rng)
        if defined >= 20 and different >= 6:                # both are defined often enough, and differ at a tenth
            count -= 1
            yield write_tree(node), rewrite_tree(node, rng), write_tree(other)
