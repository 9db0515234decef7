"""Is the boxed answer right? And the rewards of appendix C.2 that follow from it.

    response --extract--> answer --normalise--> text --Parser--> tree --match--> bool --> reward

A tree is a tuple whose first entry is its kind: ("+", ("sym", "x"), ("num", 1, None)) for x + 1, ("(]", a, b) for an interval.
Numbers are compared exactly (int and fractions.Fraction) as long as they are rational, else as floats; expressions in
variables by their values at a few fixed pseudo-random points; sets of real numbers by what they contain. What can't be
parsed is compared as text. Work is bounded by the constants below: there is no timer and no child process, nothing is
executed, and no input raises an exception.
"""
import cmath
import functools
import math
import operator
import re
import unicodedata
import zlib
from fractions import Fraction

MAX_RESPONSE = 50_000       # characters at the end of a response in which a box is looked for
MAX_TEXT = 1_200            # characters of an answer that is parsed; the longest gold answer has about 400
MAX_DEPTH = 30              # nested brackets, fractions, exponents
MAX_BITS = 20_000           # of any number on the way: 2^2008 and 1/2004! pass, 9^9^9^9 does not
MAX_WORK = 20_000           # steps of one comparison, about a microsecond each


class Unsure(Exception):
    """This can't be parsed, has no value, or costs too much."""


# ---------------------------------------------------------------------------------------------------------------------
# Extraction

BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def extract(response, lenient=False):
    """What the last closed box holds; None without a box, or if boxes of the same line hold different answers.

    lenient: where there is no box, what follows the last "####" or "answer is".
    """
    text, found, stack = response[-MAX_RESPONSE:], [], []
    for token in BRACE.finditer(text):
        if token[0] == "}":
            opening = stack.pop() if stack else token
            if len(opening[0]) > 1:                                     # a box closes; those inside it don't count
                while found and found[-1][0] > opening.start():
                    found.pop()
                found.append((opening.start(), text[opening.end():token.start()].strip()))
        elif token[0] == "{" or len(token[0]) > 2:                      # another \x, such as \{, opens nothing
            stack.append(token)
    if found:
        line = text.rfind("\n", 0, found[-1][0])
        others = {answer for start, answer in found if start > line} - {found[-1][1]}
        return found[-1][1] if len(others) < 5 and all(equivalent(found[-1][1], other) for other in others) else None
    said = re.findall(r"(?:####|answer\s*(?:is|:|=))[ :*]*([^\n]*)", text, re.IGNORECASE) if lenient else []
    if not said:
        return None
    formula = re.match(r"\$([^$]+)\$|\\\((.+?)\\\)", said[-1])
    return formula[1] or formula[2] if formula else re.split(r"\.(?:\s|$)", said[-1])[0].strip(" *") or None


# ---------------------------------------------------------------------------------------------------------------------
# Normalisation: many spellings become one

SPELLINGS = str.maketrans({char: ascii for ascii, chars in {
    "-": "−–—‐‑", "*": "×·∙⋅", "/": "÷∕⁄", "'": "′’", ",": "，", "(": "（", ")": "）", ":": "：", ".": "。", "": "€£\u200b"
    "\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad", r"\pi ": "π", r"\sqrt ": "√", r"\infty ": "∞", r"\le ": "≤⩽", r"\ge ": "≥⩾",
    r"\ne ": "≠", r"\approx ": "≈", r"\pm ": "±", r"\cup ": "∪", r"\cap ": "∩", r"\in ": "∈", r"\degree ": "°º",
    r"\theta ": "θ", r"\alpha ": "α", r"\beta ": "β", r"\mathbb{R}": "ℝ", r"\emptyset ": "∅"}.items() for char in chars})
RAISED, LOWERED = (dict(zip(map(ord, chars), "0123456789-n")) for chars in ("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉"))
NUMBER_WORDS = {word: n for n, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve".split())}
SCALE_WORDS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}


def in_base(match):
    """1011_2 -> 11: a number with its base becomes its value."""
    try:
        return str(int(match[1][:100], int(NUMBER_WORDS.get(match[2], match[2]))))
    except ValueError:
        return match[0]


def clock(match):
    """8:34 p.m. -> "20:34", a word."""
    hour = int(match[1]) % 12 + 12 * (match[4] in "pP") if match[4] else int(match[1])
    return f'"{hour}:{match[2]}{match[3]}"'


MATRIX = r"(?:[pbB]?matrix|smallmatrix|array)\}"
REWRITES = [(key, re.compile(pattern), replacement) for key, pattern, replacement in [      # in this order
    ("\\\\", r"\\\\(?=[A-Za-z])(?!.*\\end)", r"\\"),                    # \\pi, escaped twice
    ("\\", r"\\(?:begin|end)\{(?:align|equation|gather|math)\w*\*?\}|(?<!\\)\\[()\[\]]", ""),
    ("$", r"\\?\$", ""),
    ("\\", r",\\!\s*(?=\d{3})|\\!\s*|\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lr]?|displaystyle|boxed|fbox)"
           r"(?![A-Za-z])", ""),
    ("\\", r"\\[,;:> ]|\\q?quad(?![A-Za-z])|\\phantom\s*(?:\{[^{}]*\}|.)", " "),
    ("{,}", r"\{,\}", ""),
    ("\\", r"\\[dtc](frac|binom)(?![A-Za-z])", r"\\\1"),
    ("", r"\\?%|\b(?:percent(?:age)?|pct)\b", "%"),
    ("eg", r"\\degree|\bdegrees?\b", "°"),
    ("^", r"\^\s*\{?\s*(?:\\circ|°)\s*\}?", "°"),
    ("\\prime", r"\^\s*\{?\s*\\prime\s*\}?", "'"),
    ("\\begin", r"\\begin\{" + MATRIX + r"(?:\s*\{[lcr|\s]*\})?", r"\\mat "),
    ("\\end", r"\\end\{" + MATRIX, r"\\tam "),
    (":", r"(\d\d?)\s*:\s*(\d\d)((?::\d\d)?)\s*(?:\\\w+\{)?\s*(?:([aApP])\.?\s*[mM]\b\.?)?\}?(?![\d:])", clock),
    ("_", r"\(([0-9A-Z]+)\)\s*_|\\text\{([0-9A-Z]+)\}\s*_", r"\1\2_"),
    ("_", r"(?<![\w\\])([0-9A-Z]*\d[0-9A-Z]*)\s*_\s*\{?(?:\\text\{)?\s*([a-z]+|\d{1,3})\s*\}{0,2}", in_base),
    ("\\math", r"\\math(?:rm|bf|it|sf)\s*\{\s*([a-zA-Z])\s*\}", lambda m: m[1] if m[1] in "eid" else f'"{m[1]}"'),
    ("\\", r"\\(?:math(?:rm|bf|it|sf)|operatorname\*?|boldsymbol|bm)\s*\{([^{}]*)\}", r" \1 "),
    ("\\", r"\\(?:text\w*|mbox|hbox|emph)\s*\{([^{}]*)\}",
     lambda m: " " + re.sub(r"[A-Za-z]+(?:\.[A-Za-z]+)*\.?", r'"\g<0>"', m[1]) + " "),
    ("", r'"?\b(?:and|or)\b"?|;', " , "),
    (",", r",\s*(?=,|$)", ""),
    (" ", r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.,]*\d)", lambda m: m[0].replace(" ", "")),          # 7 425 000
    ("/", r"(\d+)\s+(\d+)\s*/\s*(\d+)(?!\d)", r"\1\\frac{\2}{\3}"),                                 # 1 1/2
    ("\\{", r"^\s*\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||\\mid(?![a-z])|:)(.*)\\\}\s*$", r"\2"),  # {x | x < 3}
    ("answer", r"(?i)^\W*(?:the |final |correct )*answer(?: is|:|\s*=)", ""),
    ("", r"^\s*\(?([A-Z])\s*[.):]+\s*$", r"\1"),                                                    # choices: (A) A. A)
    ("", r"^\s*(?:\\approx|\\sim|=|:|,)|[\s.,:\\]+$", ""),
]]
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")


def normalise(text):
    """ASCII and LaTeX without decoration; words of text stand in double quotes."""
    if not text.isascii():
        text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ]+", lambda m: "^{" + m[0].translate(RAISED) + "}", text)
        text = re.sub("[₀-₉]+", lambda m: "_{" + m[0].translate(LOWERED) + "}", text)
        text = re.sub("[¼-¾⅐-⅞]", r" \g<0>", text).translate(SPELLINGS)
        text = unicodedata.normalize("NFKC", text).translate(SPELLINGS)
        text = re.sub(r"[^\x00-\x7f]", lambda m: str(unicodedata.decimal(m[0], m[0])), text)
    text = re.sub(r'[\0-\x1f"~]', " ", text)
    for key, pattern, replacement in REWRITES:
        if key in text:
            text = pattern.sub(replacement, text)
    if "," in text and (", " in text or not re.search(r"[(\[]|\\\{", text)):                        # (1,234) is a pair
        text = THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return text


def plain(text):
    """What is compared if nothing can be parsed; words ignore case."""
    text = re.sub(r'[\s"{}]|\\(?=[{}])', "", normalise(text) if len(text) <= MAX_TEXT else text)
    return text.lower() if text.isalpha() and (len(text) > 2 or text.lower() == "no") else text


# ---------------------------------------------------------------------------------------------------------------------
# The value of a tree: int or Fraction where it is rational, else float or complex

work = [0]                  # what is left of MAX_WORK for this comparison


def spend(steps):
    work[0] -= steps
    if work[0] < 0:
        raise Unsure


def exact(x):
    return isinstance(x, (int, Fraction))


def tidy(x):
    """Bound the size of rationals; take the noise of rounding from complex numbers."""
    if exact(x):
        bits = x.numerator.bit_length() + x.denominator.bit_length()
        spend(bits // 64)
        if bits > 2 * MAX_BITS:
            raise Unsure
        return x
    if isinstance(x, complex) and abs(x.imag) <= max(1e-12 * abs(x.real), 1e-14):
        x = x.real
    if x != x:
        raise Unsure
    return x


def add(a, b):
    total = a + b
    small, large = sorted((abs(a), abs(b)))
    if exact(total) or small == 0 or large == math.inf:
        return total
    if small < 1e-9 * large:                                            # would vanish: no verdict on 10^20 + sqrt 2
        raise Unsure
    return 0 if abs(total) < 1e-13 * large else total


def divide(a, b):
    return Fraction(a) / b if exact(a) and exact(b) else a / b


def power(base, exponent):
    if exact(base) and exact(exponent):
        if exponent < 0:
            return power(divide(1, base), -exponent)
        p, q = exponent.numerator, exponent.denominator
        if base < 0 and q % 2:                                          # also the real cube root of -8
            return (-1) ** (p % 2) * power(-base, exponent)
        roots = [root(n, q) for n in (base.numerator, base.denominator)] if base >= 0 else [None]
        if None not in roots:
            if max(roots) > 1 and max(roots).bit_length() * p > MAX_BITS:
                raise Unsure
            return divide(roots[0] ** p, roots[1] ** p)
    if exact(exponent) and exponent.denominator == 1:
        return tidy(complex(base)) ** int(exponent)
    return tidy(complex(base)) ** tidy(complex(exponent))


def root(n, q):
    """The integer r with r**q = n, or None."""
    if q == 1 or n < 2:
        return n
    if q > 64 or n.bit_length() > 900 and q > 2:
        return None
    guess = math.isqrt(n) if q == 2 else round(n ** (1 / q))
    return guess if guess ** q == n else None


def factorial(n):
    if exact(n) and n.denominator == 1:
        if not 0 <= n <= 2500:
            raise Unsure
        spend(int(n))
        return math.factorial(int(n))
    return math.gamma(n + 1)


def binomial(n, k):
    if exact(n) and exact(k) and n.denominator == k.denominator == 1 and 0 <= k <= n <= 2500:
        return math.comb(int(n), int(k))
    return factorial(n) / (factorial(k) * factorial(n - k))


ANGULAR = dict(sin=cmath.sin, cos=cmath.cos, tan=cmath.tan, sec=lambda x: 1 / cmath.cos(x), csc=lambda x: 1 / cmath.sin(x),
               cot=lambda x: 1 / cmath.tan(x))
FUNCTIONS = ANGULAR | dict(
    arcsin=cmath.asin, arccos=cmath.acos, arctan=cmath.atan, sinh=cmath.sinh, cosh=cmath.cosh, tanh=cmath.tanh,
    exp=cmath.exp, ln=cmath.log, log=cmath.log, lg=cmath.log10)
OPERATIONS = FUNCTIONS | {
    "+": add, "-": lambda a, b: add(a, -b), "neg": operator.neg, "*": operator.mul, "/": divide, "frac": divide, "^": power,
    "mod": operator.mod, "!": factorial, "binom": binomial, "abs": abs, "floor": math.floor, "ceil": math.ceil}
SCALES = {"%": Fraction(1, 100), "°": math.pi / 180}


def evaluate(tree, variable, scaled=False):
    """The value with variable(name) for the variables. scaled: 50 % is 1/2 and 180° is π (always so inside sin)."""
    spend(1)
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "sym":
        return variable(tree[1])
    if kind == "unit":
        return tidy(evaluate(tree[1], variable, scaled) * (SCALES.get(tree[2], 1) if scaled else 1))
    if kind not in OPERATIONS:
        raise Unsure
    values = [evaluate(child, variable, scaled or kind in ANGULAR) for child in tree[1:]]
    return tidy(OPERATIONS[kind](*values))


def no_variable(name):
    raise Unsure


def value(tree, variable=no_variable, scaled=False):
    """The same, None where there is none: 1/0, overflow, too much work."""
    try:
        return evaluate(tree, variable, scaled)
    except (ArithmeticError, ValueError, TypeError, Unsure):
        return None


def at_point(k):
    """The variables at point k: integers at points 0 to 2, for exact values, then small decimals."""
    def variable(name):
        seed = zlib.crc32(f"{name} {k}".encode())
        number = (seed % 900 + 101) * (-1) ** (seed >> 20)
        return number if k < 3 else number / 337
    return variable


def close(a, b):
    """Equal: exactly if both are rational, else up to rounding; an irrational is no large integer."""
    if exact(a) and exact(b) or a == b:
        return a == b and (exact(a) == exact(b) or abs(a) < 1e7)
    size = max(abs(a), abs(b))
    return abs(a - b) <= (1e-13 if exact(a) or exact(b) else 1e-12) * size and (size < 1e7 or not (exact(a) or exact(b)))


def find(tree, kind):
    """Does a node of this kind occur in the tree?"""
    return tree[0] == kind or any(find(child, kind) for child in tree[1:] if isinstance(child, tuple) and child)


# ---------------------------------------------------------------------------------------------------------------------
# The parser: text -> tree, by recursive descent with a table of precedences
#
#   answer     := item ("," item)*                         several items are a list
#   item       := words | expression units (relation expression units)*
#   expression := ["-"] atom (operator expression | "!" | "°" | "%")*          no operator at all is a product
#   atom       := number | name | function | \frac atom atom | \sqrt atom | brackets | |expression| | matrix

TOKEN = re.compile(r'(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+(?![\w^]))?|\\[A-Za-z]+|\\.|"[^"]*"|[A-Za-z]+|[<>]=|!=(?!\d)|\*\*|\S')
RELATIONS = {sign: names.split()[0] for names in ("=", "< \\lt", "> \\gt", "<= \\le \\leq \\leqslant", ">= \\ge \\geq "
             "\\geqslant", "!= \\ne \\neq", "in \\in", "~ \\approx", "mod \\equiv") for sign in names.split() if sign != "in"}
OPERATORS = {sign: (level, names.split()[0]) for level, names in (
    (1, "cup \\cup"), (1, "cap \\cap"), (1, "setminus \\setminus"), (2, "+"), (2, "-"), (2, "± \\pm"), (2, "∓ \\mp"),
    (3, "* \\cdot \\times"), (3, "/ : \\div"), (3, "mod \\bmod \\mod"), (5, "^ **")) for sign in names.split()}
PRODUCT, ARGUMENT, POWER = 3, 4, 5          # levels; an argument is what follows sin without brackets: sin 2x + 1
CLOSING = {"(": ")]", "[": "])", "{": "}", "\\{": "\\}", "\\langle": "\\rangle", "|": "|", "\\lfloor": "\\rfloor",
           "\\lceil": "\\rceil", "\\lvert": "\\rvert"}
NO_FACTOR = {"", ",", ")", "]", "}", "&", "+", "-", "!", "%", "°", "'", "_", "\\\\", "\\tam", "\\to", "\\mid", *RELATIONS,
             *OPERATORS, *CLOSING.values()} - {"|"}
CONSTANTS = {"\\pi": math.pi, "e": math.e, "i": 1j, "\\infty": math.inf}
SPELLED = {"infinity": "\\infty", "inf": "\\infty", "pi": "\\pi", "sqrt": "\\sqrt", "infty": "\\infty"}
UNITS = {name + plural: group.split()[0] for plural in ("", "s", "es") for group in (
    "cm centimeter centimetre;mm millimeter;km kilometer kilometre;m meter metre;ft foot feet;in inch;mi mile;yd yard;"
    "kg kilogram;g gram;lb pound;oz ounce;s sec second;min minute;h hr hour;day;week;month;yr year;mph;L liter litre;"
    "ml mL;cent;dollar;unit;gal gallon;USD;euro;sq;cup;ton;rad radian;mol;Hz").split(";") for name in group.split()}
LABEL = re.compile(r"[^-+*^!\d|]*|[A-Zfghpq]'*(?:\^\{-1\})?\(.*\)|\\(?:lim|sum|int|prod|max|min)[^A-Za-z].*")


class Parser:
    def __init__(self, text):
        self.tokens, self.at, self.depth, self.bars = [], 0, 0, 0
        for token in TOKEN.findall(text):
            if not token.isalpha() or len(token) == 1:
                self.tokens.append(token)
            elif token in SPELLED or token in FUNCTIONS:
                self.tokens.append(SPELLED.get(token, "\\" + token))
            elif token in UNITS or len(token) > 4 or token in NUMBER_WORDS:
                self.tokens.append(f'"{token}"')
            else:
                self.tokens.extend(token)                               # xy is x times y
        self.tokens += ["", ""]                                         # the end, and one more to look ahead

    @property
    def next(self):
        return self.tokens[self.at]

    def take(self, *wanted):
        """The next token, if it is one of these, and step over it."""
        if self.next in wanted:
            self.at += 1
            return self.tokens[self.at - 1]

    def answer(self):
        items = [self.item()]
        while self.take(","):
            items.append(self.item())
        return items[0] if len(items) == 1 else ("list", *items)

    def item(self):
        end = next(k for k in range(self.at, len(self.tokens)) if not (self.tokens[k][:1] == '"' or self.tokens[k].isalpha()))
        words = [word.strip('".') for word in self.tokens[self.at:end]]
        quoted = any(word[0] == '"' for word in self.tokens[self.at:end])
        if words and self.tokens[end] in NO_FACTOR - set(OPERATORS) - {"=", "_", "'"} \
                and (quoted or len(words) > 1 and "".join(words).isupper()):
            self.at = end
            if len(words) == 1 and words[0].lower() in NUMBER_WORDS:
                return ("num", NUMBER_WORDS[words[0].lower()], None)
            return ("sym", words[0]) if len("".join(words)) == 1 else ("text", "".join(words).lower())
        sides, signs = [self.side()], []
        while self.next in RELATIONS:
            signs.append(RELATIONS[self.take(self.next)])
            sides.append(self.side())
        return relation(signs, sides)

    def side(self):
        """(its text, its tree); what stands before = may be a label that is no expression, its tree is None then."""
        start = self.at
        try:
            tree = self.units(self.expression(1))
        except Unsure:
            if self.depth > 1 or "=" not in self.tokens[start:]:
                raise
            self.at, self.depth, self.bars, tree = self.tokens.index("=", start), 0, 0, None
        return "".join(self.tokens[start:self.at]), tree

    def units(self, tree):
        """5 cm^2 -> ("unit", 5, "cm"), 3 million -> 3000000; other words after a value (9 values) are dropped."""
        words = []
        while self.next[:1] == '"' or words and self.next in ("/", "^"):
            word = self.take(self.next).strip('".')
            if word == "^":
                self.atom()
            elif word in SCALE_WORDS:
                tree = ("*", tree, ("num", SCALE_WORDS[word], None))
            elif word not in ("square", "cubic", "sq", ""):
                words.append(word)
        if len(words) > 5 or {"not", "less", "more", "than", "no"} & set(words):
            raise Unsure
        return ("unit", tree, UNITS[words[0]]) if len(words) == 1 and words[0] in UNITS else tree

    def expression(self, level):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unsure
        sign = self.take("-", "+", "\\pm", "\\mp")
        if sign and sign != "+":
            tree = ({"-": "neg"}.get(sign) or OPERATORS[sign][1], self.expression(max(level, PRODUCT)))
        else:
            tree = self.atom()
        while True:
            token, before = self.next, self.tokens[self.at - 1]
            rank, kind = OPERATORS.get(token, (None, None))
            if token in ("!", "%", "°") and level <= POWER:
                tree = (self.take(token), tree) if token == "!" else ("unit", tree, self.take(token))
            elif rank is not None and rank >= level:
                self.at += 1
                right = self.expression(rank + (rank != POWER))
                tree = ("+", tree, (kind, right)) if kind in "±∓" else (kind, tree, right)
            elif token in NO_FACTOR or token[0] == '"' or token == "|" and self.bars or level > ARGUMENT \
                    or level == ARGUMENT and (token[1:] in FUNCTIONS or token[0].isdigit()):
                break
            elif before[-1:].isdigit() and token[0].isdigit():
                raise Unsure                                            # 3 4 is no product
            else:
                right = self.expression(POWER)
                mixed = tree[0] == "num" and tree[1] == int(abs(tree[1])) and before != "}" and right[0] == "frac" and \
                    right[1][0] == right[2][0] == "num" and 0 < right[1][1] < right[2][1]
                tree = ("+" if mixed else "*", tree, right)             # 1 3/4, or a product
        self.depth -= 1
        return tree

    def argument(self):
        """What a command takes: {...} or one token, of a number its first digit, as in \\frac12."""
        if self.next[:1].isdigit() and len(self.next) > 1:
            digit, self.tokens[self.at] = self.next[0], self.next[1:]
            return ("num", int(digit), None)
        return self.atom()

    def atom(self):
        token = self.next
        if token in NO_FACTOR:
            raise Unsure
        self.at += 1
        if token[0].isdigit() or token[0] == "." and len(token) > 1:
            return self.number(token)
        if token in CLOSING:
            return self.brackets(token)
        if token == "\\frac" or token == "\\binom":
            return (token[1:], self.argument(), self.argument())
        if token == "\\sqrt":
            degree = self.brackets(self.take("[")) if self.next == "[" else ("num", 2, None)
            return ("^", self.atom(), ("/", ("num", 1, None), degree))
        if token == "\\mat":
            rows = [["row"]]
            while not self.take("\\tam"):
                rows[-1].append(self.item())
                if not self.take("&") and self.take("\\\\") and self.next != "\\tam":
                    rows.append(["row"])
            return ("matrix", *map(tuple, rows))
        if token in ("\\emptyset", "\\varnothing"):
            return ("set",)
        if token[1:] in FUNCTIONS:
            return self.function(token[1:])
        if token in CONSTANTS:
            return ("num", CONSTANTS[token], None)
        if not token.lstrip("\\").isalpha():
            raise Unsure
        name = token + (self.raw() if token[1:] in ("overline", "overrightarrow", "vec", "dot", "hat", "bar", "mathbb") else "")
        while self.next in ("_", "'"):
            name += self.take("'") or self.take("_") + self.raw()
        if token in "fghpqFGHPQN" and self.next == "(" and self.tokens[self.at + 1].isalpha() and self.tokens[self.at + 2] == ")":
            name, self.at = name + "".join(self.tokens[self.at:self.at + 3]), self.at + 3       # f(x) as a whole
        return ("sym", name)

    def raw(self):
        """The next argument as text: of a subscript, of an accent."""
        start, depth = self.at, 0
        while True:
            depth += (self.next == "{") - (self.next == "}")
            self.at += 1
            if not depth or self.at == len(self.tokens):
                return "".join(self.tokens[start:self.at]).strip("{}")

    def number(self, token):
        mantissa, _, power = token.lower().partition("e")
        digits = len(mantissa.partition(".")[2])
        if len(token) > 1000 or len(power) > 4:
            raise Unsure
        value = Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(power or 0)
        if self.next in ("\\overline", "\\bar") and "." in token:       # 0.1\overline{6}
            self.at += 1
            period = self.raw()
            if not re.fullmatch(r"\d{1,50}", period):
                raise Unsure
            return ("num", value + Fraction(int(period), (10 ** len(period) - 1) * 10 ** digits), None)
        ulp = Fraction(10) ** (int(power or 0) - digits) if digits else None
        return ("num", value.numerator if value.denominator == 1 else value, ulp)

    def brackets(self, opening):
        if opening == "\\{" and self.take("\\}"):
            return ("set",)
        outside, self.bars = self.bars, opening == "|"
        self.depth += 1
        tree = self.answer()
        closing = self.take(*(CLOSING[opening] if opening in "([" else [CLOSING[opening]]))
        if closing is None or self.depth > MAX_DEPTH:
            raise Unsure
        self.bars, self.depth = outside, self.depth - 1
        items = tree[1:] if tree[0] == "list" else (tree,)
        if opening in ("|", "\\lvert", "\\lfloor", "\\lceil"):
            return ({"f": "floor", "c": "ceil"}.get(opening[2:3], "abs"), tree)
        if opening == "\\{":
            return ("set", *items)
        if opening == "[" and all(item[0] == "[]" for item in items):
            return ("matrix", *(("row", *item[1:]) for item in items))  # [[1, 2], [3, 4]]
        return tree if opening == "{" or len(items) == 1 else ("()" if opening[0] == "\\" else opening + closing, *items)

    def function(self, name):
        """sin x, sin(x), sin^2 x, sin^{-1} x, log_2 x; sin 2x cos x is (sin 2x)(cos x)."""
        base = self.argument() if self.take("_") else None
        power = self.argument() if self.take("^") else None
        if power == ("neg", ("num", 1, None)):
            name, power = "arc" + name, None
        tree = (name, self.atom() if self.next in CLOSING else self.expression(ARGUMENT))
        if base:
            tree = ("/", tree, ("ln", base))
        return ("^", tree, power) if power else tree


def relation(signs, sides):
    """x = 3 -> ("named", "x", 3); 2 + 3 = 5 -> 5; other chains of sides -> ("rel", signs, *sides)."""
    trees = [tree for _, tree in sides]
    named = [tree is None or find(tree, "sym") and LABEL.fullmatch(text) is not None for text, tree in sides]
    if "~" in signs:                                                    # what is only approximate is left out
        cut = signs.index("~") + (signs[0] == "~" and named[0])
        signs, trees = ["=" if sign == "~" else sign for sign in signs[:cut]], trees[:cut + 1]
    if signs and set(signs) <= {"=", "in"}:
        if not named[0] and trees[-1] and trees[-1][0] == "sym" and len(signs) == 1:            # 3 = x
            sides, trees, named = sides[::-1], trees[::-1], named[::-1]
        first = next((k for k, name in enumerate(named[:len(trees) - 1]) if not name), len(trees) - 1)
        if all(tree and match(trees[-1], tree) for tree in trees[first:]):
            return ("named", sides[0][0], trees[-1]) if first else trees[-1]
    if None in trees:
        raise Unsure
    return ("rel", tuple(signs), *trees) if signs else trees[0]


# ---------------------------------------------------------------------------------------------------------------------
# Comparison. The first tree is the reference: a decimal is judged by its digits.

BRACKETS = {"()", "(]", "[)", "[]"}
FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


def match(gold, answer):
    """Do two trees say the same?"""
    spend(1)
    kinds = {gold[0], answer[0]}
    if gold == answer or "text" in kinds:
        return gold == answer
    if kinds & {"()", "matrix"} and kinds <= {"()", "matrix", "list"} and len(kinds) == 2:
        first, second = vector(gold), vector(answer)                    # a column, a row, (1, 2) and a bare 1, 2
        return first is not None and second is not None and match_all(first, second)
    if kinds & {"list", "set"} or find(gold, "±") or find(answer, "±"):
        return match_unordered(gold, answer) or same_set(gold, answer)
    if "named" in kinds and not (kinds == {"named"} and different(gold[1], answer[1])):
        gold, answer = (tree[2] if tree[0] == "named" else tree for tree in (gold, answer))
        return match(gold, answer)
    if kinds & {"rel", "named"}:
        return kinds <= {"rel", "named"} and match_equations(gold, answer) or same_set(gold, answer)
    if len(kinds) == 1 and kinds <= BRACKETS | {"matrix", "row"}:
        return match_all(gold[1:], answer[1:])
    if kinds & (BRACKETS | {"cup", "cap", "setminus"}):
        return same_set(gold, answer) or len(kinds) == 1 and match_all(gold[1:], answer[1:])
    return match_values(gold, answer)


def match_all(first, second):
    return len(first) == len(second) and all(map(match, first, second))


def different(name, other):
    """Are these names of different things? y and f(x) are not."""
    return name != other and not ("y" in (name, other) and re.search(r"\w\(\w\)$", max(name, other, key=len)))


def vector(tree):
    if tree[0] == "list":
        return [entry[2] if entry[0] == "named" else entry for entry in entries(tree)]
    if tree[0] == "matrix" and len(tree) > 2:
        return [row[1] for row in tree[1:]] if all(len(row) == 2 for row in tree[1:]) else None
    return tree[1][1:] if tree[0] == "matrix" else tree[1:]


def entries(tree):
    """The entries of a list or set, ± written out as two; anything else is one entry."""
    if tree[0] in ("list", "set"):
        return [entry for item in tree[1:] for entry in (entries(item) if item[0] != "set" else [item])]
    if tree[0] == "named":
        return [("named", tree[1], entry) for entry in entries(tree[2])]
    return [choose(tree, "±"), choose(tree, "∓")] if find(tree, "±") else [tree]


def choose(tree, plus):
    """The tree with + for one and - for the other of ± and ∓."""
    if not isinstance(tree, tuple):
        return tree
    if tree[0] in ("±", "∓"):
        return choose(tree[1] if tree[0] == plus else ("neg", tree[1]), plus)
    return tuple(choose(child, plus) for child in tree)


def match_unordered(gold, answer):
    """Each entry of the one is in the other; names count only if both lists have several (x = 1, y = 2)."""
    first, second = entries(gold), entries(answer)
    names = [{entry[1] for entry in side if entry[0] == "named"} for side in (first, second)]
    if len(names[0]) == len(names[1]) == 1 and names[0] != names[1] or (len(first) == 1) != (len(second) == 1):
        return False
    if len(names[0]) < 2 or len(names[1]) < 2:
        first, second = ([entry[2] if entry[0] == "named" else entry for entry in side] for side in (first, second))
    return all(any(match(a, b) for b in second) for a in first) and all(any(match(a, b) for a in first) for b in second)


def match_values(gold, answer):
    """Two expressions; 50 % is 50 and also 1/2, 180° is 180 and also π, but 5 cm is not 5 km."""
    units = [next((node[2] for node in nodes(tree) if node[0] == "unit"), None) for tree in (gold, answer)]
    if None not in units and units[0] != units[1]:
        return False
    return same_value(gold, answer, False) or units[0] != units[1] and same_value(gold, answer, True)


def same_value(gold, answer, scaled):
    """Exactly, or by rounding where one is a decimal; with variables by the values at three points or more."""
    if not find(gold, "sym") and not find(answer, "sym"):
        a, b = value(gold, scaled=scaled), value(answer, scaled=scaled)
        return None not in (a, b) and (close(a, b) or rounds(decimals(gold), decimals(answer), a, b))
    imaginary = any(isinstance(node[1], complex) for tree in (gold, answer) for node in nodes(tree) if node[0] == "num")
    real, unreal = 0, []
    for k in range(8):
        a, b = value(gold, at_point(k), scaled), value(answer, at_point(k), scaled)
        if a is None or b is None or k < 3 and not (exact(a) and exact(b)):
            continue                                                    # integer points are for exact values
        if (isinstance(a, complex) or isinstance(b, complex)) and not imaginary:
            unreal.append(close(a, b))                                  # such as sqrt(x) at x = -2: the last resort
        elif not close(a, b):
            return False
        else:
            real += 1
            if real == 3:
                return True
    return real > 0 or len(unreal) > 1 and all(unreal)


def decimals(tree):
    """The last digit's unit of a decimal, 1/100 for 2.50; None for anything else."""
    if tree[0] == "*" and tree[1][0] == "num" and tree[2][:2] == ("^", ("num", 10, None)):
        power = value(tree[2])                                          # 4.5 * 10^33
        return tree[1][2] * power if tree[1][2] and exact(power) else None
    return decimals(tree[1]) if tree[0] in ("neg", "unit") else tree[2] if tree[0] == "num" else None


def rounds(digits, given, a, b):
    """A rounded reference is met by what rounds to it; a decimal answer to an exact one needs six digits."""
    if digits is None and given is None or isinstance(a, complex) or isinstance(b, complex) or a * b <= 0 \
            or not 1e-300 < min(abs(a), abs(b)) <= max(abs(a), abs(b)) < 1e300:
        return False
    off = abs(Fraction(a)) - abs(Fraction(b))
    if digits:                                                          # two digits or more; three against a decimal
        return abs(a) >= (100 if given else 10) * digits and (not given or given <= digits / 100) and abs(off) <= digits / 2
    sixth = Fraction(10) ** (math.floor(math.log10(abs(a))) - 5)
    return given <= sixth and -sixth / 2 <= off < sixth                 # rounded or cut off


def match_equations(gold, answer):
    """Equations and inequalities: side by side, also read backwards, or left - right as a multiple of the other's."""
    (signs, *first), (others, *second) = (
        (("=",), ("sym", tree[1]), tree[2]) if tree[0] == "named" else tree[1:] for tree in (gold, answer))
    if signs == others and match_all(first, second):
        return True
    if not {*signs, *others} <= set(FLIP) or len(first) != len(second):
        return False
    if signs == tuple(FLIP[sign] for sign in others[::-1]) and match_all(first, second[::-1]):
        return True
    if len(signs) > 1:
        return False
    f, g = (("-", *sides) for sides in (first, second))
    pairs = [(value(f, at_point(k)), value(g, at_point(k))) for k in range(8)]
    pairs = [(a, b) for k, (a, b) in enumerate(pairs) if a and b and (k > 2 or exact(a) and exact(b))]
    ratios = [divide(a, b) for a, b in pairs if not isinstance(a, complex) and not isinstance(b, complex)]
    if len(ratios) < 3 or not all(close(ratios[0], ratio) for ratio in ratios):
        return False
    return others[0] == (signs[0] if ratios[0] > 0 else FLIP[signs[0]])


def nodes(tree):
    yield tree
    for child in tree[1:]:
        if isinstance(child, tuple) and child and isinstance(child[0], str):
            yield from nodes(child)


def same_set(gold, answer):
    """Two sets of real numbers (intervals, unions, inequalities): do they hold the same points?

    The points are all numbers that occur, their neighbours, and what lies between. That decides if one of the two sets
    shows its bounds, so one must have no inequality such as 2x < 3, whose bound occurs nowhere.
    """
    names = [{node[1] for node in nodes(tree) if node[0] in ("sym", "named")} - {"\\mathbbR"} for tree in (gold, answer)]
    if len(names[0] | names[1]) > 1 or not (shows_bounds(gold) or shows_bounds(answer)):
        return False
    marks = {value(node) for tree in (gold, answer) for node in nodes(tree) if node[0] in OPERATIONS or node[0] == "num"}
    marks = sorted(mark for mark in marks if mark is not None and not isinstance(mark, complex) and abs(mark) < 1e9) or [0]
    tiny = Fraction(1, 10 ** 7)
    points = [marks[0] - 1, *marks, marks[-1] + 1, *(mark + d for mark in marks for d in (tiny, -tiny)),
              *((a + b) / 2 for a, b in zip(marks, marks[1:]))]
    try:
        return any(all(holds(gold, x, some) == holds(answer, x, other) for x in points)
                   for some in (all, any) for other in (all, any))
    except (ArithmeticError, ValueError, TypeError, Unsure):
        return False


def shows_bounds(tree):
    if tree[0] == "rel":
        return all(side[0] == "sym" or not find(side, "sym") for side in tree[2:])
    return tree[0] in BRACKETS | {"sym", "set"} or tree[0] in ("list", "cup", "cap", "setminus", "named") and \
        all(shows_bounds(child) for child in tree[1:] if isinstance(child, tuple))


def holds(tree, x, some):
    """Is x in the set? some: all or any of the inequalities of a list (1 < x and x < 3; x < 1 or x > 3)."""
    kind = tree[0]
    if kind in BRACKETS and len(tree) == 3:
        low, high = (evaluate(bound, no_variable) for bound in tree[1:])
        return compare("<" if kind[0] == "(" else "<=", low, x) and compare("<" if kind[1] == ")" else "<=", x, high)
    if kind == "rel":
        sides = [evaluate(side, lambda name: x) for side in tree[2:]]
        return all(map(compare, tree[1], sides, sides[1:]))
    if kind in ("cup", "cap", "setminus"):
        a, b = (holds(child, x, some) for child in tree[1:])
        return a or b if kind == "cup" else a and b if kind == "cap" else a and not b
    if kind in ("set", "list"):
        return (any if kind == "set" else some)([holds(child, x, some) for child in tree[1:]])
    if kind == "named":
        return holds(tree[2], x, some)
    return tree == ("sym", "\\mathbbR") or close(x, evaluate(tree, no_variable))


def compare(sign, a, b):
    if sign not in FLIP:
        raise Unsure
    equal = close(a, b)
    return equal if sign == "=" else not equal if sign == "!=" else equal and "=" in sign or not equal and (a < b) == (sign[0] == "<")


# ---------------------------------------------------------------------------------------------------------------------
# What the rest of the project calls

@functools.lru_cache(maxsize=4096)
def parse(text):
    """The tree of an answer; None if it can't be parsed."""
    work[0] = MAX_WORK
    try:
        parser = Parser(normalise(text)) if len(text) <= MAX_TEXT else None
        tree = parser and parser.answer()
        return tree if parser and parser.next == "" else None
    except (Unsure, IndexError, RecursionError):
        return None


def unparsed(answer):
    """Can this answer only be compared as text? For the log: the share of unparsed answers, apart from wrong ones."""
    return parse(answer) is None


def equivalent(a, b):
    """Do two answer texts say the same? a is the reference where decimals are rounded."""
    if a.strip() == b.strip():
        return True
    first, second = parse(a), parse(b)
    work[0] = MAX_WORK
    try:
        if first and second and match(first, second):
            return True
    except (Unsure, RecursionError):
        pass
    return plain(a) == plain(b) != ""


def is_correct(response, answer, lenient=False):
    """Is the boxed answer (lenient: or what follows "answer is") equivalent to the gold answer?"""
    given = extract(response, lenient)
    return given is not None and equivalent(answer, given)


def compute_reward(response, answer):
    """+1.0 correct, -0.5 wrong but boxed, -1.0 wrong and not boxed (appendix C.2, low-level agent)."""
    return 1.0 if is_correct(response, answer) else -1.0 if extract(response) is None else -0.5


def verdict(response):
    """A judge's last verdict, "A" for [A] or "B" for [B]; None if there is none or its line holds both."""
    lines = [set(re.findall(r"\[([AB])\]", line)) for line in response.split("\n")]
    last = next((found for found in reversed(lines) if found), ())
    return min(last) if len(last) == 1 else None


def has_box(plan):
    """Does a plan state an answer in a box, closed or not? An empty \\boxed{} only asks for one."""
    return re.search(r"\\(?:boxed|fbox)\s*(?:\{\s*[^\s}]|\d)", plan) is not None


def plan_reward(plan_text, correct):
    """Mean correctness of the answers sampled under a plan, minus 1.0 if the plan states one (C.2, high-level agent)."""
    return sum(correct) / max(len(correct), 1) - has_box(plan_text)


def consistency_reward(plan_text, responses):
    """Share of the most frequent answer, whatever the truth; 0 if most give none; the same penalty (C.2)."""
    given = [answer for answer in map(extract, responses) if answer is not None]
    largest = max((sum(equivalent(a, b) for b in given) for a in given), default=0)
    return largest / max(len(responses), 1) * (2 * len(given) >= len(responses)) - has_box(plan_text)


def leaks(plan, answer):
    """Does a plan's text hold the gold answer as a whole number or word, not as a part of a longer one?"""
    text, gold = (re.sub(r"(?<=\d),(?=\d{3}(?!\d))|[{}$\\]|\b[dt](?=frac)", "", t).strip() for t in (plan, answer))
    return bool(gold) and re.search(rf"(?<![\w.\-]){re.escape(gold)}(?!\w|[.,]\d)", text) is not None
