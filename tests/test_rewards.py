"""The grader: hand-worked cases, rewritings and corruptions of real answers, hostile input, random trees, rewards."""
import json
import random
import re
import time

import pytest

import rewards
from data.answers import comparing
from data.answers.leaking import leaks
from data.answers.reading import strip_text

RIGHT = r"""
-5 | -5 ;; 7425000 | 7,425,000 ;; 1000 | 1 000 ;; 1000 | 1{,}000 ;; 32348 | \$32,\!348 ;; 0.4 | .4 ;; 3.0 | 3
1/2 | 0.5
\frac12 | \dfrac{1}{2} ;; \frac{1}{3} | \tfrac13 ;; \frac13 | 0.333333 ;; 0.33 | \frac13 ;; 3.14 | \pi
\sqrt2 | 1.414214 ;; \frac{99999997}{100000000} | 1.00000
1\frac45 | 9/5 ;; 1.5 | 1 1/2 ;; -15\frac{3}{5} | -15.6 ;; 28\% | 28 percent ;; 28\% | 28 ;; 28\% | 0.28
50 | 50\%
90^\circ | 90 ;; 90^{\circ} | 90\text{ degrees} ;; 5\text{ cm} | 5 ;; 864 \mbox{ inches}^2 | 864
9\text{ values} | 9
5 | 5. ;; -3 | −3 ;; 5 | $5$ ;; \pi | π ;; \sqrt{3} | √3 ;; x^2+1 | x²+1 ;; 10^{-3} | 10⁻³ ;; 5 | \text{5}
12 | １２
\frac{\sqrt3}{3} | \frac{1}{\sqrt3} ;; 10\sqrt3+\sqrt4 | 2+10\sqrt{3} ;; \sqrt{12} | 2\sqrt3
\sqrt[3]{-8} | -2
e^{i\pi} | -1 ;; 5! | 120 ;; \binom{5}{2} | 10 ;; \frac{10!}{8!} | 90 ;; \log_2 8 | 3 ;; \ln e^2 | 2
\sin 30^\circ | \frac12
|-3| | 3 ;; \lfloor 7/2 \rfloor | 3 ;; 17 \bmod 5 | 2 ;; \infty | +\infty ;; 2^{-3} | 1/8 ;; 1+i | i+1
i(2-i) | 1+2i
(x+1)^2 | x^2+2x+1 ;; \frac{x+2}{7} | \frac{x}{7}+\frac{2}{7} ;; 2 \sin x \cos x | \sin 2x
a^x \ln a | \ln(a) a^x
x = 3 | 3 ;; 3 | x=3 ;; y = 2x+3 | f(x) = 3+2x ;; 2x - y = -3 | y = 2x+3 ;; x+y=1 | 2x+2y-2=0
2 | \sqrt4 = 2
[0,1) | [0, 1) ;; (-\infty,1)\cup(2,3] | (2,3] \cup (-\infty, 1) ;; x > 2 | (2,\infty)
-1 \le x < 3 | x \in [-1,3)
x \le 5 | 5 \ge x ;; x < 1 | -x > -1 ;; \{x | -2 \le x < 1\} | [-2,1)
x<1 \text{ or } x>3 | (-\infty,1)\cup(3,\infty)
(1,2) | \left( 1, 2 \right) ;; 1,2,3 | 3, 1, 2 ;; \{1,2\} | \{2,1\} ;; 1 \pm \sqrt2 | 1-\sqrt2, 1+\sqrt2
\pm 2 | 2 \text{ and } -2
x=1, y=2 | 1, 2 ;; x = 1 \text{ or } x = 2 | 1,2 ;; \{1\pm\sqrt{5},-2\} | -2, 1+\sqrt5, 1-\sqrt5
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{bmatrix}1&2\\3&4\end{bmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | (1,2)
\text{(C)} | C ;; C | (C) ;; \text{east} | East ;; \text{Evelyn} | Evelyn ;; A, B | \text{B and A}
yes | Yes
1011_2 | 11 ;; 52_8 | 52_{8} ;; 52_8 | 42 ;; 4210_{5} | 555 ;; x_1 + 1 | 1 + x_{1}
\frac{3}{4}\text{ hours} | 0.75 ;; 4.5e33 | 4.5 \times 10^{33} ;; 8(\sqrt[10]{2^7}) | 8 \cdot 2^{7/10}
2^{1009} | 2 \cdot 2^{1008}
\boxed{5} | 5 ;; \frac{n(n+1)}{2} | \binom{n+1}{2} ;; 3x^2 \sqrt{x} | 3 x^{5/2} ;; 6\pi | 6\pi \approx 18.85
"""
WRONG = r"""
5 | -5 ;; 5 | 6 ;; 5 | 50 ;; 17\% | 1700\% ;; 17\% | 1700 ;; 1/2 | 2 ;; 0.5 | 0.52 ;; \sqrt2 | 1.41
\frac13 | 0.33
12 | 1 2 ;; 2.23 | 2.232 ;; 2.232 | 2.23 ;; \pi | 3.1416 ;; \pi | 3.14160 ;; 5 | 5, 6 ;; 5 | 5, 5
5 | 5 \text{ or } 6 ;; 1,2 | 1
5 | \{5, 6\} ;; [0,1) | (0,1] ;; [0,1) | [0,1] ;; (1,2) | (2,1) ;; (1,2) | (1,2,3) ;; (1,2) | [1,2]
(1,3,2) | [1,2,3]
1,2,3 | 1,2 ;; 1,2,3 | 1,2,4 ;; x=1,y=2 | x=2,y=1 ;; x | y ;; 2x+1 | 2y+1 ;; x=5 | y=5 ;; |x| | x
\sqrt{x^2} | x
x > 2 | x \ge 2 ;; x > 2 | x < 2 ;; x<1 | x>-1 ;; f(2)<f(1) | f(1)<f(2) ;; a+3z=0 | 0 ;; 7 | 2x+3=7
4 | x^2 = 4
(-\infty,1)\cup(2,3] | (-\infty,1]\cup(2,3] ;; (27/8,15/8) | (0,0) ;; \{1,2\} | (1,2)
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}
(1,2) | \begin{pmatrix} 2 \\ 1 \end{pmatrix}
C | D ;; \text{east} | west ;; \text{even} | odd ;; CBAD | CABD ;; 52_8 | 52_9 ;; 1011_2 | 1011
12:00 | 1:00 ;; AC | AB
2+3 | 6 ;; 5 | 2+3=6 ;; \sqrt{10^{12}+1} | 10^6 ;; 10^{20}+\sqrt2 | 10^{20}+\sqrt3
262537412640768744 | e^{\pi\sqrt{163}}
\frac{1}{2004!} | \frac{1}{2006!} ;; \sqrt{2}^3 | \sqrt{23} ;; e^{2x} | e^x ;; x^3+2x^2+6 | x^3+2x^2+7
\sin x | \cos x
5 | 5 \text{ million} ;; 5 | 5 \text{ or more} ;; 5 | \text{not } 5 ;; 5 | 5 \text{ is not right}
30 | \text{October 30}
21 | ‮12 ;; 12 | ‮21 ;; 5 | NaN ;; 42 | 4² ;; (1,-\infty) | (1,\infty) ;; 1 - \frac1e | 1 + \frac1e
\frac{a}{b} | \frac{b}{a}
"""


def cases(table):
    lines = table.strip().split("\n")
    return [tuple(side.strip() for side in case.rsplit(" | ", 1)) for line in lines for case in line.split(" ;; ")]


def right(gold, answer):
    return rewards.is_correct("So the answer is $\\boxed{" + answer + "}$.", gold)


@pytest.mark.parametrize("gold, answer", cases(RIGHT))
def test_accepts(gold, answer):
    assert right(gold, answer)


@pytest.mark.parametrize("gold, answer", cases(WRONG))
def test_refuses(gold, answer):
    assert not right(gold, answer)


def test_extract():
    assert rewards.extract(r"so \boxed{\frac{1}{2}} it is") == r"\frac{1}{2}"
    assert rewards.extract("\\boxed{1}\nno, \\fbox{2}") == "2"
    assert rewards.extract(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert rewards.extract("\\boxed{7}\nand \\boxed{8") == "7"                       # the last closed one
    assert rewards.extract(r"\boxed{\boxed{5}}") == r"\boxed{5}"
    assert rewards.extract(r"\boxed{1} and \boxed{2}") == "2"                         # the last one counts
    assert rewards.extract("the answer is 5") is None and rewards.extract("") is None
    assert rewards.extract("The answer is $5$. Good.", lenient=True) == "5"
    assert rewards.extract("72 - 2 = 70\n#### 70", lenient=True) == "70"
    assert rewards.extract("nothing here", lenient=True) is None


def test_rewards():
    assert rewards.compute_reward(r"\boxed{5}", "5") == 1.0
    assert rewards.compute_reward(r"\boxed{6}", "5") == -0.5
    assert rewards.compute_reward("5", "5") == -1.0
    assert rewards.plan_reward("add them", [True, False, True, True]) == 0.75
    assert rewards.plan_reward(r"it is \boxed{5}", [True, False]) == -0.5
    boxed = [r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{\frac12}", r"\boxed{3}"]
    assert rewards.consistency_reward("add", boxed) == 0.75
    assert rewards.consistency_reward("add", boxed + ["?"] * 5) == 0.0               # most give no answer
    assert rewards.consistency_reward("add", boxed[:1] * 2 + ["?"] * 2) == 0.5
    assert rewards.consistency_reward(r"\boxed{5}", boxed) == -0.25
    assert rewards.consistency_reward("add", []) == 0.0


def test_plans():
    assert rewards.has_box(r"it is \boxed{5}") and rewards.has_box(r"\boxed{5")
    assert not rewards.has_box(r"put the answer into \boxed{}") and not rewards.has_box("a box")
    assert leaks("the sum is 42.", "42") and leaks("get 1,234 apples", "1234")
    assert not leaks("the sum is 142", "42") and not leaks("4.25 and 425", "42")
    assert leaks(r"it is \boxed{29}", "29") and leaks(r"\boxed5", "5")
    assert leaks("go east", r"\text{east}")
    for plan, leaking in (("a=7-4; b=8*a; b+5", False), ("let x = 5", False), ("a=2+3=5; a", True), ("2 + 3 = 5.", True),
                          (r"\boxed{5}", True), ("The answer is 5.", True), ("The answer is -5.", False)):
        assert leaks(plan, "5", "8*(7-4)+5") == leaking, plan            # a number of the problem may be repeated
        assert leaks(plan, "5", "8*(7-4)") == (plan != "The answer is -5.")
    assert leaks(r"which is \frac{1}{2}", r"\dfrac{1}{2}") and not leaks("add", "")


def test_verdict():
    assert rewards.verdict("[A]") == "A" and rewards.verdict("hm\n[[B]]") == "B"
    assert rewards.verdict("first I thought [A]\nbut [B]") == "B"
    assert rewards.verdict("[A] or [B]") is None and rewards.verdict("A") is None and rewards.verdict("") is None
    assert rewards.verdict("Verdict: [b]") == "B"                                    # a small letter, once announced


def test_unparsed():
    assert comparing.unparsed("\\foo{") and comparing.unparsed("3 4") and not comparing.unparsed(r"\frac12")
    assert rewards.equivalent("3 + * 4", "3+ *4")                                     # as text


# ---------------------------------------------------------------------------------------------------------------------
# Hostile input

NEST = 10_000
HOSTILE = [
    ("5", "\\boxed{" + "{" * NEST + "5" + "}" * NEST + "}"), ("5", "\\boxed{" * NEST + "5" + "}" * NEST),
    ("5", "\\boxed{" + "\\frac{1}{" * NEST + "5" + "}" * NEST + "}"), ("5", "\\boxed{" + "(" * NEST + "5" + ")" * NEST + "}"),
    ("5", "\\boxed{" + "\\sqrt{" * 100 + "5" + "}" * 100 + "}"), ("5", "\\boxed{" + "-" * NEST + "4}"),
    ("5", "\\boxed{" + "-" * 700 + "4}"), ("5", "\\boxed{" + "(" * 200 + "4" + ")" * 200 + "}"),
    ("5", r"\boxed{9^9^9^9}"), ("5", r"\boxed{9^{9^{9^9}}}"), ("5", r"\boxed{((9!)!)!}"), ("5", r"\boxed{2500!^{2500!}}"),
    ("5", "\\boxed{" + "!".join(["2499"] * 100) + "}"), ("5", "\\boxed{" + "+".join(["2400!"] * 150) + "}"),
    ("5", "\\boxed{" + "*".join(["9^{6000}"] * 120) + "}"), ("x", "\\boxed{" + "+".join(["1/x^{999}"] * 100) + "}"),
    ("5", "\\boxed{" + "9" * 10 ** 6 + "}"), ("5", "\\boxed{0." + "3" * 1100 + "}"), ("5", "\\boxed{" + "9" * 1190 + "}"),
    ("5", "\\boxed{5}" + "9" * 10 ** 6 + "\\boxed{6}"), ("5", "".join(f"\\boxed{{{k}}}" for k in range(NEST))),
    ("5", "\\boxed{" * NEST), ("5", "}" * 10 ** 5), ("5", "{" * 10 ** 6), ("5", "\\" * 10 ** 6), ("5", "\\boxed{4" + " " * 10 ** 5),
    ("5", r"\boxed{NaN}"), ("5", r"\boxed{nan}"), ("NaN", r"\boxed{5}"), ("5", r"\boxed{inf}"), ("5", r"\boxed{\infty-\infty}"),
    ("5", r"\boxed{0/0}"), ("5", r"\boxed{1/0}"), ("0", r"\boxed{0^{-1}}"), ("5", r"\boxed{1e999999999}"), ("5", r"\boxed{1e999}"),
    ("5", r"\boxed{__import__('os').system('id')}"), ("5", "\\boxed{5\x006}"), ("5", "\\boxed{‮6}"), ("5", "\\boxed{²}"),
    ("5", "\\boxed{٥٥}"), ("5", "\\boxed{①}"), ("5", "\\boxed{𝟞}"), ("5", "\\boxed{" + "x_{" * 300 + "}" * 300 + "}"),
    ("1,2", "\\boxed{" + ",".join(map(str, range(300))) + "}"), ("5", "\\boxed{" + ",".join(["5"] * 400) + "}"),
    (",".join(map(str, range(300))), "\\boxed{" + ",".join(map(str, range(1, 301))) + "}"),
    ("5", "\\boxed{" + "\\pm".join(["1"] * 200) + "}"), ("5", "\\boxed{" + "|" * 500 + "}"), ("5", "\\boxed{" + "a" * 1100 + "}"),
    ("5", "\\boxed{" + "\\text{" * 150 + "5" + "}" * 100 + "}"), ("5", "\\boxed{" + "=".join(["4"] * 300) + "}"),
    ("5", "\\boxed{" + "x=" * 300 + "4}"), ("5", "\\boxed{" + "\\frac" * 200 + "}"), ("5", "\\boxed{" + "^" * 900 + "}"),
    ("5", "\\boxed{" + "\\sin" * 200 + " x}"), ("5", "\\boxed{" + " " * 1100 + "}"), ("5", "\\boxed{" + "1 " * 550 + "}"),
    ("5", "\\boxed{" + "1:1" * 380 + "}"), ("5", "\\boxed{" + "\\begin{pmatrix}" * 70 + "}"), ("5", "\\boxed{" + "{,}" * 390 + "}"),
    ("5", "\\boxed{" + "12_" * 390 + "}"), ("5", "\\boxed{" + "1,000" * 230 + "}"), ("5", "\\boxed{" + "A" * 1150 + "_2}"),
    ("5", "\\boxed{" + "1 000 " * 190 + "}"), ("5", "\\boxed{" + "\\\\" * 590 + "}"), ("5", "\\boxed{" + ", " * 590 + "}"),
    ("5", "\\boxed{" + "." * 1190 + "6}"), ("5", "\\boxed{" + "½" * 1100 + "}"), ("5", "\\boxed{" + "²" * 1100 + "}"),
    ("5", "\\boxed{5" + "\\text{ no }" * 90 + "}"), ("5", "\\boxed{" + "f(" * 300 + "}"), ("5", "\\boxed{\\frac{5}{}}"),
    ("5", "\\boxed{" + "\\left(" * 190 + "}"), ("5", "\\boxed{" + "x^{x^{" * 12 + "x" + "}}" * 12 + "}"),
    ("5", "\\boxed{3, 4, 5}"), ("5", "\\boxed{5 \\text{ or } 6 \\text{ or } 7}"), ("5", "\\boxed{5}, \\boxed{6}"), ("5", "\\boxed{}"),
    ("5", "\\boxed{1=2=3=4=5=6}"), ("5", "\\boxed{6=5}"), ("5", "\\boxed{5=6}"), ("5", "\\boxed{x=5, x=6}"), ("5", "\\boxed{4\\approx5}"),
    ("x", "\\boxed{" + "(x+1)" * 200 + "}"), ("x", "\\boxed{(x+y)^{5000}}"), ("x", "\\boxed{x^{x^{x}}}"), ("x", "\\boxed{x!!!!}"),
    ("5", "\\boxed{5\\\\6}"), ("5", "\\boxed{5\n6}"), ("5", "\\boxed{5;6}"), ("5", "\\boxed{5 6}"), ("5", "\\boxed{5-0.1}"),
    ("5", "\\boxed{" + "\\binom{2000}{1000}" * 60 + "}"), ("5", "\\boxed{" + "2^{19999}+" * 110 + "1}"), ("x>1", "\\boxed{" + "x>" * 500 + "1}"),
    ("5", "\\boxed{" + "\\cup".join(["(1,2)"] * 100) + "}"), ("(1,2)\\cup(3,4)", "\\boxed{" + "\\cup".join(["(1,2)"] * 100) + "}"),
]


@pytest.mark.parametrize("k", range(len(HOSTILE)))
def test_hostile(k):
    gold, response = HOSTILE[k]
    best = 1.0
    for _ in range(10):                                                               # the best of ten: others share this machine
        comparing.parse.cache_clear()
        start = time.process_time()
        verdict = rewards.is_correct(response, gold)
        best = min(best, time.process_time() - start)
        if best < 0.02:
            break
    assert not verdict
    assert best < 0.02
    rewards.extract(response, lenient=True), leaks(response, gold), rewards.verdict(response), rewards.has_box(response)


def test_noise():
    rng = random.Random(1)
    pieces = ["\\frac", "{", "}", "(", ")", "[", "]", "^", "_", "\\sqrt", "1", "2", "x", "=", "<", ",", "|", "\\pm", "!", "%", "°", "'",
              "\\text{", "\\left", "\\cup", " and ", "-", "+", "\\log", "\\sin", "e", "i", ".", "5", "\\infty", '"', "\\begin{pmatrix}",
              "&", "\\\\", "\\end{pmatrix}", "\\{", "\\}", "\\in", "\\approx", "∞", "²", "\x00", "/", "\\circ", "\\boxed{", "0"]
    for _ in range(3000):
        a, b = ("".join(rng.choices(pieces, k=rng.randint(1, 14))) for _ in range(2))
        rewards.equivalent(a, b), rewards.equivalent(a, a), rewards.extract(a), comparing.unparsed(b)
        assert rewards.equivalent(a, a) or not strip_text(a)


# ---------------------------------------------------------------------------------------------------------------------
# Random trees: an expression equals its own rewriting and not its perturbation

def tree(rng, depth):
    if depth == 0 or rng.random() < 0.15:
        return rng.choice([str(rng.randint(1, 20)), rng.choice("xyz"), rng.choice("xyz")])
    return rng.choice("++-**/^r"), tree(rng, depth - 1), tree(rng, depth - 1)


def show(node, rng, rewrite):
    """LaTeX of a tree; rewrite swaps terms and factors, and changes how fractions, products and brackets are written."""
    if isinstance(node, str):
        return node
    op, left, right = node
    swap = rewrite and op in "+*" and rng.random() < 0.5
    a, b = (show(child, rng, rewrite) for child in ((right, left) if swap else (left, right)))
    if op in "+-":
        return rng.choice(["({} {} {})", "\\left({}{}{}\\right)"]).format(a, op, b) if rewrite else f"({a}{op}{b})"
    if op == "*":
        return rng.choice(["({})({})", "({}) \\cdot {{{}}}", "({})*({})"]).format(a, b) if rewrite else f"({a})({b})"
    if op == "/":
        return rng.choice(["\\dfrac{{{}}}{{{}}}", "(({})/({}))"]).format(a, b) if rewrite else f"\\frac{{{a}}}{{{b}}}"
    if op == "r":
        return f"\\sqrt{{{a}}}" if not rewrite else f"({a})^{{1/2}}"
    return f"({a})^{{2}}" if not rewrite else f"({a})({a})"


def perturb(node, rng):
    """One leaf changed: a number by one, a variable to another."""
    if isinstance(node, str):
        return str(int(node) + 1) if node.isdigit() else rng.choice(sorted(set("xyz") - {node}))
    side = 1 if node[0] in "r^" or rng.random() < 0.5 else 2
    return tuple(perturb(child, rng) if k == side else child for k, child in enumerate(node))


def number(node, point):
    """Its value, by Python."""
    if isinstance(node, str):
        return float(node) if node.isdigit() else point[node]
    a, b = number(node[1], point), number(node[2], point)
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b, "^": lambda: a ** 2,
            "r": lambda: complex(a) ** 0.5}[node[0]]()


def test_random_trees():
    rng, told = random.Random(7), 0
    for _ in range(400):
        node = tree(rng, rng.randint(1, 4))
        other, point = perturb(node, rng), {name: rng.uniform(1, 3) for name in "xyz"}
        try:
            a, b = number(node, point), number(other, point)
        except (ZeroDivisionError, OverflowError):
            continue
        if abs(a) > 1e8:
            continue
        text, rewritten = show(node, rng, False), show(node, rng, True)
        assert rewards.equivalent(text, rewritten), (text, rewritten)
        assert rewards.equivalent(rewritten, text)
        if abs(a - b) > 1e-6 * abs(a):
            told += 1
            assert not rewards.equivalent(text, show(other, rng, True)), (text, other)
    assert told > 200


# ---------------------------------------------------------------------------------------------------------------------
# Rewritings and corruptions of real answers

def rewritings(gold):
    """Other ways to write an answer."""
    yield f"{gold}."
    yield f"${gold}$"
    yield f" {gold} "
    if "frac" in gold:
        yield re.sub(r"\\[dt]?frac", r"\\dfrac", gold)
        yield re.sub(r"\\[dt]?frac", r"\\tfrac", gold)
    yield re.sub(r"\\[dt]?frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", gold)
    if "\\text" not in gold and "\\mbox" not in gold:
        if not re.search(r"\d,\D{0,3}\d{3}|\{,", gold):
            yield re.sub(r"(?<=[-+=,()])(?=[^ }])", " ", gold) if "\\" not in gold else gold.replace(",", ", ")
        yield gold.replace("-", "−")
        if not re.search(r"\\left|[\[\]]", gold):
            yield gold.replace("(", "\\left(").replace(")", "\\right)")
    if "matrix" in gold:
        yield gold.replace("pmatrix", "bmatrix")
    if fraction := re.fullmatch(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}", gold):
        yield fraction[1] + fraction[2] + "/" + fraction[3]
        yield f"{fraction[1]}{int(fraction[2]) / int(fraction[3]):.9f}"
    if re.fullmatch(r"-?\d+", gold):
        yield from (f"{int(gold):,}", f"{int(gold)}.0", f"{gold}^\\circ", f"x = {gold}", f"{gold}\\text{{ units}}",
                    f"\\text{{{gold}}}", f"{int(gold):,}".replace(",", ",\\!"))
        if len(gold.strip("-")) > 3:
            yield f"{int(gold):,}".replace(",", "{,}")
            yield f"{int(gold):,}".replace(",", "\\,")
    terms = re.findall(r"[+-]?[^-+]+", gold)
    if re.fullmatch(r"[-+ \w^]+", gold) and len(terms) > 1 and "".join(terms) == gold:
        yield "".join(t if t.strip()[0] in "+-" else "+" + t for t in reversed(terms))
    if re.fullmatch(r"-?[\d/]+(, ?-?[\d/]+)+", gold) and not re.search(r",\d{3}", gold):
        yield ", ".join(reversed(gold.replace(" ", "").split(",")))
        yield gold.replace(",", " \\text{ and }")
        yield "\\{" + gold + "\\}"


def corruptions(gold):
    """Wrong answers that look like the right one."""
    if re.fullmatch(r"-?\d+", gold):
        n = int(gold)
        yield from (str(n + 1), str(n - 1), f"{gold}, {n + 1}", f"{gold} \\text{{ or }} {n + 2}", f"{n}.5", f"{gold} + 1")
        if n:
            yield from (str(-n), str(n * 10), str(n * 100), f"\\frac{{1}}{{{n * 7}}}")
    elif "text" not in gold and "mbox" not in gold:
        for m in list(re.finditer(r"(?<![\d.{_])\d+(?![\d.])", gold))[:3]:
            yield gold[:m.start()] + str(int(m[0]) + 1) + gold[m.end():]
        if re.fullmatch(r"-?\\[dt]?frac\{\d+\}\{\d+\}", gold):
            yield from (gold[1:] if gold[0] == "-" else "-" + gold, re.sub(r"\{(\d+)\}\{(\d+)\}", r"{\2}{\1}", gold))
        if re.fullmatch(r"(\\left)?[\[(][^()\[\]]*[\])]", gold) and re.search(r"[\[\]]|infty", gold):
            yield gold.translate(str.maketrans("[]()", "()[]"))                       # the other kind of interval
        if m := re.fullmatch(r"\((-?\d+), ?(-?\d+)\)", gold):
            yield f"({m[2]},{m[1]})"
            yield f"({m[1]},{m[2]},0)"
        if m := re.fullmatch(r"[-+ \d^]*([a-z])[-+ \d^()]*", gold):
            yield gold.replace(m[1], "y" if m[1] != "y" else "z")
        if re.fullmatch(r"-?\d+(, ?-?\d+)+", gold):
            yield gold.rsplit(",", 1)[0]


def same(gold, answer):
    """Do a corruption and its gold happen to be equal? (1/1, (3,3), ...)"""
    return answer.replace(" ", "") == gold.replace(" ", "") or re.fullmatch(r"-?\\[dt]?frac\{(\d+)\}\{\1\}", gold) is not None


def math_answers(shared_data, names=("math500", "math-train")):
    found = {}
    for name in names:
        for line in open(shared_data / f"{name}.jsonl", encoding="utf-8"):
            found[str(json.loads(line)["answer"])] = None
    return list(found)


def judged(shared_data, every=1):
    """((accepted, all) rewritings, (accepted, all) corruptions, wrong verdicts)."""
    accepted, refused, wrong = [0, 0], [0, 0], []
    for gold in math_answers(shared_data)[::every]:
        for kind, texts, counts in ((True, rewritings(gold), accepted), (False, corruptions(gold), refused)):
            for text in dict.fromkeys(texts):
                if not kind and same(gold, text):
                    continue
                got = right(gold, text)
                counts[0] += got
                counts[1] += 1
                if got != kind:
                    wrong.append((kind, gold, text))
    return accepted, refused, wrong


def test_rewritings(shared_data):
    accepted, refused, wrong = judged(shared_data, every=4)
    assert accepted[0] >= 0.99 * accepted[1], wrong[:20]
    assert refused[0] <= 0.001 * refused[1], wrong[:20]


def test_gold_answers_accept_themselves(shared_data):
    for name in ("math500", "gsm8k", "aime24", "amc23", "gaokao2023en", "minerva", "olympiadbench"):
        for gold in math_answers(shared_data, [name]):
            assert right(gold, gold), (name, gold)


def test_labelled_suite(shared_data):
    rows = [json.loads(line) for line in open(shared_data / "grader_dev.jsonl", encoding="utf-8")]
    rows = [row for row in rows if row["boxed"] and "disputed" not in row]
    verdicts = [(rewards.is_correct(row["prediction"], row["gold"]), row["expected"]) for row in rows]
    assert sum(got == expected for got, expected in verdicts) >= 0.97 * len(rows)
    assert sum(got and not expected for got, expected in verdicts) <= 2
    for row, (got, _) in zip(rows, verdicts):               # symmetric, apart from decimals and from lists that repeat an entry
        given = rewards.extract(row["prediction"])
        if given and given.count("(3,17,3,7)") + given.count("(3, 17, 3, 7)") < 2 and (not re.search(r"\d\.\d|\.\d", given + row["gold"])):
            assert rewards.equivalent(given, row["gold"]) == rewards.equivalent(row["gold"], given), row
