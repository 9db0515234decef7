"""Is the boxed answer right? And the rewards of appendix C.2 that follow from it.

    response --extract--> answer --normalise--> text --Parser--> tree --match--> bool --> reward

A tree is a tuple that starts with its kind: ("+", ("sym", "x"), ("num", 1, None)) for x + 1, ("(]", a, b) for an interval.
Numbers are compared exactly (int and fractions.Fraction) as long as they are rational, else as floats; expressions in
variables by their values at a few fixed pseudo-random points. What can't be parsed is compared as text. Work is bounded
by the constants below: there is no timer and no child process, nothing is executed, and no input raises an exception.
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
MAX_WORK = 10_000           # steps of one comparison, about a microsecond each


class Unsure(Exception):
    """This can't be parsed, has no value, or costs too much."""


# ---------------------------------------------------------------------------------------------------------------------
# Extraction

BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def extract(response, lenient=False):
    """What the last closed box holds; None without a box, or if boxes of the same line hold different answers.

    lenient: where there is no box, what follows the last "####" or "answer is".
    """
    text, boxes, stack = response[-MAX_RESPONSE:], [], []
    for token in BRACE.finditer(text):
        if token[0] == "{" or len(token[0]) > 2:                        # any other \x, such as \{, opens nothing
            stack.append(token)
        elif token[0] == "}" and stack:
            opening = stack.pop()
            if len(opening[0]) > 1:
                boxes.append((opening.start(), opening.end(), token.start()))
    if boxes:
        line = text.rfind("\n", 0, boxes[-1][0])
        *others, answer = (text[first:last].strip() for start, first, last in boxes[-4:] if start > line)
        return answer if all(equivalent(answer, other) for other in others) else None
    said = re.findall(r"(?:####|answer\s*(?:is|:|=))[ :*]*([^\n]*)", text, re.IGNORECASE) if lenient else []
    formula = re.match(r"\$([^$]+)\$|\\\((.+?)\\\)|(.+?)[ *]*(?:\.\s|\.?$)", said[-1]) if said else None
    return formula and (formula[1] or formula[2] or formula[3])


# ---------------------------------------------------------------------------------------------------------------------
# Normalisation: many spellings become one

SPELLINGS = {char: spelling for spelling, chars in {
    "-": "−–—‐‑", "*": "×·∙⋅", "/": "÷∕⁄", "'": "′’", ".": "。", "": "€£\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad",
    r"\pi ": "π", r"\sqrt ": "√", r"\infty ": "∞", r"\le ": "≤⩽", r"\ge ": "≥⩾", r"\ne ": "≠", r"\approx ": "≈",
    r"\pm ": "±", r"\cup ": "∪", r"\cap ": "∩", r"\in ": "∈", r"\degree ": "°º", r"\theta ": "θ", r"\alpha ": "α",
    r"\beta ": "β", r"\mathbb{R}": "ℝ", r"\emptyset ": "∅"}.items() for char in chars}


def spell(match):
    """ASCII for another character: × is *, ² is ^{2}, ₂ is _{2}, ½ is 1/2, fullwidth and other digits are digits."""
    char = match[0]
    plain = unicodedata.normalize("NFKC", char).replace("⁄", "/")
    plain = SPELLINGS.get(char) or SPELLINGS.get(plain, str(unicodedata.decimal(plain, plain)) if plain[1:] == "" else plain)
    kind = unicodedata.decomposition(char).split(" ")[0]
    return {"<super>": "^{%s}", "<sub>": "_{%s}", "<fraction>": " %s"}.get(kind, "%s") % plain


def in_base(match):
    """1011_2 -> 11: a number with its base becomes its value."""
    try:
        return str(int(match[1][:100], int(match[2])))
    except ValueError:
        return match[0]


def clock(match):
    """8:34 p.m. -> "20:34", a word."""
    hour = int(match[1]) % 12 + 12 * (match[4] in "pP") if match[4] else int(match[1])
    return f'"{hour}:{match[2]}{match[3]}"'


def quote(match):
    return " " + re.sub(r"[A-Za-z]+(?:\.[A-Za-z]+)*\.?", r'"\g<0>"', match[1]) + " "


def rows(match):
    return "⟦⟦" + re.sub(r"\\\\\s*$", "", match[1]).replace("&", ",").replace("\\\\", "⟧,⟦") + "⟧⟧"


REWRITES = [(key, re.compile(pattern, re.DOTALL), new) for key, pattern, new in [   # if the text has the key; in this order
    ("\\\\", r"\\\\(?=[A-Za-z])(?!.*\\end)", r"\\"),                                # \\pi, escaped twice
    ("\\", r"\\(?:begin|end)\{(?:align|equation|gather)\w*\*?\}|(?<!\\)\\[()\[\]]", ""),
    ("\\", r",\\!\s*(?=\d{3})|\\!\s*|\\(?:(?:left|right)\s*\.|(?:left|right|[bB]igg?[lr]?|displaystyle|boxed|fbox)"
           r"(?![A-Za-z]))", ""),
    ("\\", r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|\\phantom\s*(?:\{[^{}]*\}|.)", " "),
    ("", r"\\?\$|\{(?=,\})|(?<=\{,)\}|(?<=,)\}(?=\d{3})", ""),                      # $5, 5{,}000
    ("\\", r"\\[dtc](frac|binom)(?![A-Za-z])", r"\\\1"),
    ("", r"\\?%|\b(?:percent(?:age)?|pct)\b", "%"),
    ("eg", r"\\degree|\bdegrees?\b", "°"),
    ("^", r"\^\s*\{?\s*(?:\\circ|°)\s*\}?", "°"),
    ("^", r"\^\s*\{?\s*\\prime\s*\}?", "'"),
    ("\\begin", r"\\begin\{(?:[pbB]?matrix|array)\}(?:\s*\{[lcr|\s]*\})?(.*?)\\end\{(?:[pbB]?matrix|array)\}", rows),
    ("[[", r"^\[(\[.*\])\]$", lambda m: "⟦" + m[1].replace("[", "⟦").replace("]", "⟧") + "⟧"),
    (":", r"(\d\d?)\s*:\s*(\d\d)((?::\d\d)?)\s*(?:\\\w+\{)?\s*(?:([aApP])\.?\s*[mM]\b\.?)?\}?(?![\d:])", clock),
    ("_", r"\(([0-9A-Z]+)\)\s*_|\\text\{([0-9A-Z]+)\}\s*_", r"\1\2_"),
    ("_", r"(?<![\w\\])([0-9A-Z]*\d[0-9A-Z]*)\s*_\s*\{?\s*(\d{1,3})\s*\}?", in_base),
    ("_", r"(?<!log)_\s*(?:\{([^{}]*)\}|(\w))", lambda m: "_" + re.sub(r"\W", "", m[1] or m[2] or "") + " "),     # x_{10}: x_10
    ("\\math", r"\\math(?:rm|bf|it|sf)\s*\{\s*([a-zA-Z])\s*\}", lambda m: m[1] if m[1] in "eid" else f'"{m[1]}"'),
    ("\\", r"\\(?:math(?:rm|bf|it|sf)|operatorname\*?|boldsymbol|bm)\s*\{([^{}]*)\}", r" \1 "),
    ("\\", r"\\(?:text\w*|mbox|hbox|emph)\s*\{([^{}]*)\}", quote),
    ("illion", r'"?\b([mb])illion\b"?', lambda m: f" *10^{6 if m[1] == 'm' else 9} "),
    ("", r'"?\b(?:and|or)\b"?|;', " , "),
    (",", r",\s*(?=,|$)", ""),
    (" ", r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.,]*\d)", lambda m: m[0].replace(" ", "")),      # 7 425 000
    ("/", r"(\d+)\s+(\d+)\s*/\s*(\d+)(?!\d)", r"\1\\frac{\2}{\3}"),                             # 1 1/2
    ("\\{", r"^\s*\\\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||\\mid(?![a-z])|:)(.*)\\\}\s*$", r"\1"),   # {x | x < 3}
    ("answer", r"(?i)^\W*(?:the |final |correct )*answer(?: is|:|\s*=)", ""),
    ("", r"^\s*\(?([A-Z])\s*[.):]+\s*$", r"\1"),                                                # choices: (A) A. A)
    ("", r"^\s*(?:\\approx|\\sim|=|:|,)|[\s.,:\\]+$", ""),
]]


def normalise(text):
    """ASCII and LaTeX without decoration; words of text stand in double quotes, rows of a matrix in ⟦⟧."""
    text = re.sub(r'[\0-\x1f"~]', " ", re.sub(r"[^\x00-\x7f]", spell, text).replace("}^{", "").replace("}_{", ""))
    for key, pattern, new in REWRITES:
        if key in text:
            text = pattern.sub(new, text)
    if "," in text and (", " in text or not re.search(r"[(\[]|\\\{", text)):                    # but (1,234) is a pair
        text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)", lambda m: m[0].replace(",", ""), text)
    return text


def plain(text):
    """What is compared if nothing can be parsed; words ignore case."""
    text = re.sub(r'[\s"{}]|\\(?=[{}])', "", normalise(text) if len(text) <= MAX_TEXT else text)
    return text.lower() if text.isalpha() and (len(text) > 2 or text.lower() == "no") else text


# ---------------------------------------------------------------------------------------------------------------------
# The value of a tree: int or Fraction where it is rational, else float or complex

work = [0]                  # what is left of MAX_WORK


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
    elif abs(x.imag) <= max(1e-12 * abs(x.real), 1e-14):
        x = x.real
    if x != x:                                                          # NaN
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
        top, bottom = root(base.numerator, q), root(base.denominator, q)
        if top is not None and bottom is not None:
            if max(top, bottom).bit_length() * p > MAX_BITS and base != 1:
                raise Unsure
            return divide(top ** p, bottom ** p)
    whole = exact(exponent) and exponent.denominator == 1
    return tidy(complex(base)) ** (int(exponent) if whole else tidy(complex(exponent)))


def root(n, q):
    """The integer r with r**q = n, or None."""
    if q == 1 or n in (0, 1):
        return n
    if n < 0 or q > 64 or n.bit_length() > 900 and q > 2:
        return None
    guess = math.isqrt(n) if q == 2 else round(n ** (1 / q))
    return guess if guess ** q == n else None


def factorial(n):
    if not exact(n) or n.denominator > 1:
        return math.gamma(n + 1)
    if not 0 <= n <= 2500:
        raise Unsure
    spend(int(n) // 4)
    return math.factorial(int(n))


ANGULAR = {"sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sec": lambda x: 1 / cmath.cos(x),
           "csc": lambda x: 1 / cmath.sin(x), "cot": lambda x: 1 / cmath.tan(x)}
FUNCTIONS = ANGULAR | {"arc" + name: getattr(cmath, "a" + name) for name in ("sin", "cos", "tan")} | {
    "exp": cmath.exp, "ln": cmath.log, "log": cmath.log, "lg": cmath.log10}
OPERATIONS = FUNCTIONS | {
    "+": add, "-": lambda a, b: add(a, -b), "neg": operator.neg, "*": operator.mul, "/": divide, "frac": divide,
    "^": power, "mod": operator.mod, "!": factorial, "abs": abs, "floor": math.floor, "ceil": math.ceil,
    "binom": lambda n, k: divide(factorial(n), factorial(k) * factorial(n - k))}


def evaluate(tree, variable, scaled=False):
    """The value with variable(name) for variables. scaled: 50 % is 1/2 and 180° is π (as always inside sin)."""
    spend(1)
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "sym" and variable:
        return variable(tree[1])
    if kind == "unit":
        scale = {"%": Fraction(1, 100), "°": math.pi / 180}.get(tree[2], 1) if scaled else 1
        return tidy(evaluate(tree[1], variable, scaled) * scale)
    if kind not in OPERATIONS:
        raise Unsure
    return tidy(OPERATIONS[kind](*[evaluate(child, variable, scaled or kind in ANGULAR) for child in tree[1:]]))


def values(first, second, scaled=False):
    """Pairs of values at a few points: integers, which count if both values are rational; then small decimals."""
    for k in range(8):
        def variable(name):
            seed = zlib.crc32(f"{name} {k}".encode())
            number = (seed % 900 + 101) * (-1) ** (seed >> 20)
            return number if k < 3 else number / 337
        try:
            a, b = evaluate(first, variable, scaled), evaluate(second, variable, scaled)
        except (ArithmeticError, ValueError, TypeError, Unsure):        # 1/0, overflow, too much work
            continue
        if k > 2 or exact(a) and exact(b):
            yield a, b


def close(a, b):
    """Equal: exactly if both are rational, else up to rounding; an irrational is no large integer."""
    if exact(a) and exact(b) or math.inf in (abs(a), abs(b)):
        return a == b
    size, mixed = max(abs(a), abs(b)), exact(a) or exact(b)
    return abs(a - b) <= (1e-13 if mixed else 1e-12) * size and not (mixed and size > 1e7)


def nodes(tree):
    """The tree and all trees in it."""
    yield tree
    for child in tree[1:]:
        if isinstance(child, tuple) and child and isinstance(child[0], str):
            yield from nodes(child)


# ---------------------------------------------------------------------------------------------------------------------
# The parser: text -> tree, by recursive descent with a table of precedences
#
#   answer     := item ("," item)*                                         several items are a list
#   item       := words | (name "=")* side (relation side)*
#   side       := expression unit*
#   expression := ["-"] atom (operator expression | "!" | "°" | "%")*      no operator at all is a product
#   atom       := number | name | function atom | \frac atom atom | \sqrt atom | "(" answer ")" | "|" answer "|"

TOKEN = re.compile(
    r"\d*\.\d*\\(?:overline|bar)\{\d{1,50}\}|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3}(?![\w^]))?|\\log(?![A-Za-z])|"
    r"\\(?:overline|overrightarrow|vec|hat|d?dot|mathbb)\s*\{[^{}]*\}|[fghpqFGHPQN]'*\([A-Za-z]\)|\\[A-Za-z]+(?:_\w+|')*|\\.|"
    r'"[^"]*"|[A-Za-z](?:_\w+|\')+|[A-Za-z]+(?![A-Za-z_\'])|[A-Za-z]|[<>]=|!=(?!\d)|\*\*|\S')
ALIAS = {name: names.split()[0] for names in (
    "< \\lt", "> \\gt", "<= \\le \\leq \\leqslant", ">= \\ge \\geq \\geqslant", "!= \\ne \\neq", "~ \\approx", "* \\cdot \\times",
    "/ : \\div", "mod \\bmod \\mod", "^ **", "| \\lvert \\rvert", "( \\langle", ") \\rangle", "\\infty infty infinity inf",
    "set \\emptyset \\varnothing", "\\pi pi", "\\sqrt sqrt", *(f"\\{name} {name}" for name in FUNCTIONS)) for name in names.split()}
RELATIONS = {"=", "<", ">", "<=", ">=", "!=", "~", "\\in", "\\equiv"}
LEVELS = {"\\cup": 1, "\\cap": 1, "\\setminus": 1, "+": 2, "-": 2, "\\pm": 2, "\\mp": 2, "*": 3, "/": 3, "mod": 3, "^": 5}
PRODUCT, ARGUMENT, POWER = 3, 4, 5          # levels; an argument is what follows sin without brackets: sin 2x + 1
CLOSING = {"(": (")", "]"), "[": ("]", ")"), "{": ("}",), "\\{": ("\\}",), "⟦": ("⟧",), "|": ("|",),
           "\\lfloor": ("\\rfloor",), "\\lceil": ("\\rceil",)}
END_OF_ITEM = {"", ","}.union(*CLOSING.values()) - {"|"}
NO_FACTOR = {"!", "%", "°", "'", "_", "\\mid", "\\to", *END_OF_ITEM, *RELATIONS, *LEVELS}
CONSTANTS = {"\\pi": math.pi, "e": math.e, "i": 1j, "\\infty": math.inf}
UNITS = {name + plural: names.split()[0] for plural in ("", "s", "es") for names in (
    "cm centimeter centimetre;mm millimeter;km kilometer kilometre;m meter metre;ft foot feet;in inch;mi mile;yd yard;"
    "kg kilogram;g gram;lb pound;oz ounce;s sec second;min minute;h hr hour;day;week;month;yr year;mph;L liter litre;"
    "ml mL;cent;dollar;unit;gal gallon;USD;euro;sq;cup;ton;rad;mol;Hz").split(";") for name in names.split()}
NAME = re.compile(r"(?!\\pi|\\sqrt)(?:[^-+*^!\d|_]|_\w+)*|[A-Zfghpq]'*(?:\^\{-1\})?\(.*\)|\\(?:lim|sum|int|max|min)(?![A-Za-z]).*")


class Parser:
    def __init__(self, text):
        self.tokens, self.at, self.depth, self.bars, self.plus, self.forked = [], 0, 0, 0, True, False
        for token in TOKEN.findall(text):
            token = ALIAS.get(token, token)
            if token.isalpha() and (token in UNITS and len(token) > 1 or len(token) > 4):
                self.tokens.append(f'"{token}"')
            else:                                                       # xy is x times y
                self.tokens += token if token.isalpha() and token not in ("mod", "set") else [token]
        self.tokens.append("")                                          # the end

    @property
    def next(self):
        return self.tokens[self.at]

    def take(self, *wanted):
        """The next token, if it is one of these, and step over it."""
        if self.next in wanted:
            self.at += 1
            return self.tokens[self.at - 1]

    def answer(self, fork=True):
        """fork: an item with ± is read twice, for two items; inside other brackets the whole is."""
        items = []
        while not items or self.take(","):
            start, outside, self.forked = self.at, self.forked, False
            items.append(self.item())
            if fork and self.forked:
                self.at, self.plus = start, False
                items.append(self.item())
                self.plus = True
            self.forked = outside or self.forked and not fork
        return items[0] if len(items) == 1 else ("list", *items)

    def item(self):
        end = self.at
        while self.tokens[end].strip('".').isalpha():
            end += 1
        words = "".join(self.tokens[self.at:end])
        if self.tokens[end] in END_OF_ITEM and ('"' in words or len(words) > 1 and words.isupper()):
            self.at, words = end, re.sub(r'[".]', "", words)
            return ("text", words.lower()) if len(words) > 1 else ("sym", words)
        names = list(iter(self.name, None))
        sides, signs = [self.side()], []
        while self.next in RELATIONS:
            signs.append(self.take(*RELATIONS))
            sides.append(self.side())
        if "~" in signs:                                                # what is only approximate is left out
            del sides[signs.index("~") + 1:], signs[signs.index("~"):]
        if signs == ["="] and sides[1][0] == "sym" and not names:       # 3 = x
            names, signs = [sides.pop()[1]], []
        agree = set(signs) <= {"="} and all(match(sides[-1], side) for side in sides)           # 2 + 3 = 5 is 5
        tree = sides[-1] if agree else ("rel", tuple(signs), *sides)
        return ("named", names[0], tree) if names else tree

    def name(self):
        """What stands before = or ∈ and only names the rest: x, f(x), AB, (x, y), the limit of ...; and step over both."""
        depth, end = 0, self.at
        while self.tokens[end] and depth >= 0 and (depth or self.tokens[end] not in ("=", "\\in", "~", ",")):
            depth += (self.tokens[end] in CLOSING) - (self.tokens[end] in END_OF_ITEM - {","})
            end += 1
        name = "".join(self.tokens[self.at:end])
        if name and self.tokens[end] in ("=", "\\in", "~") and NAME.fullmatch(name):
            self.at = end + 1
            return name

    def side(self):
        """5 cm^2 -> ("unit", 5, "cm"); other words after a value (9 values) are dropped."""
        tree, words = self.expression(1), []
        while self.next[:1] == '"' or words and self.next in ("/", "^"):
            words.append(self.next.strip('".'))
            self.at += 1
            if words[-1] == "^":
                self.atom()
        if len(words) > 6 or {"not", "less", "more", "than", "no", "hundred", "thousand", "dozen"} & set(words):
            raise Unsure
        known = [UNITS[word] for word in words if word in UNITS]
        return ("unit", tree, known[0]) if len(known) == 1 else tree

    def expression(self, level):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unsure
        sign = self.sign(self.take("-", "+", "\\pm", "\\mp"))
        tree = self.expression(max(level, PRODUCT)) if sign else self.atom()
        tree = ("neg", tree) if sign == "-" else tree
        while True:
            token, before = self.next, self.tokens[self.at - 1]
            if token in ("!", "%", "°"):
                self.at += 1
                tree = ("!", tree) if token == "!" else ("unit", tree, token)
            elif LEVELS.get(token, 0) >= level:
                self.at += 1
                right = self.expression(LEVELS[token] + (token != "^"))
                tree = (self.sign(token), tree, right)
            elif token in NO_FACTOR or token == "|" and self.bars or token[0] == '"' or level > ARGUMENT \
                    or level == ARGUMENT and (token[1:] in FUNCTIONS or token[0].isdigit()):
                break
            elif before[-1:].isdigit() and token[0].isdigit():
                raise Unsure                                            # 3 4 is no product
            else:
                right = self.expression(POWER)
                mixed = before.isdigit() and tree[0] == "num" and right[0] == "frac" and \
                    right[1][0] == right[2][0] == "num" and 0 < right[1][1] < right[2][1]
                tree = ("+" if mixed else "*", tree, right)             # 1 3/4, or a product
        self.depth -= 1
        return tree

    def sign(self, token):
        if token not in ("\\pm", "\\mp"):
            return token
        self.forked = True
        return "+" if self.plus == (token == "\\pm") else "-"

    def argument(self):
        """What a command takes: {...} or one token, of a number its first digit, as in \\frac12."""
        if self.next.isdigit():
            self.tokens[self.at:self.at + 1] = [self.next[0], self.next[1:]] if len(self.next) > 1 else [self.next]
        return self.atom()

    def atom(self):
        token = self.next
        if token in NO_FACTOR and token != "|":
            raise Unsure
        self.at += 1
        if token.strip(".")[:1].isdigit():
            return number(token)
        if token in CLOSING:
            return self.brackets(token)
        if token in ("\\frac", "\\binom"):
            return (token[1:], self.argument(), self.argument())
        if token == "\\sqrt":
            degree = self.brackets("[") if self.take("[") else ("num", 2, None)
            return ("^", self.atom(), ("/", ("num", 1, None), degree))
        if token[1:] in FUNCTIONS:
            return self.function(token[1:])
        if token in CONSTANTS:
            return ("num", CONSTANTS[token], None)
        if token == "\\mathbb{R}":
            return ("()", ("num", -math.inf, None), ("num", math.inf, None))
        if token == "set" or not token[-1].isalnum() and token[-1] not in "')}":
            return self.nothing(token)
        return ("sym", token)

    def nothing(self, token):
        if token != "set":
            raise Unsure
        return ("set",)

    def brackets(self, opening):
        if opening == "\\{" and self.take("\\}"):
            return ("set",)
        outside, self.bars = self.bars, opening == "|"
        tree = self.answer(fork=opening == "\\{")
        closing = self.take(*CLOSING[opening])
        if closing is None:
            raise Unsure
        self.bars, items = outside, tree[1:] if tree[0] == "list" else (tree,)
        kind = {"|": "abs", "\\lfloor": "floor", "\\lceil": "ceil", "\\{": "set", "⟦": "row"}.get(opening)
        return (kind, *items) if kind else tree if opening == "{" or len(items) == 1 else (opening + closing, *items)

    def function(self, name):
        """sin x, sin(x), sin^2 x, sin^{-1} x, log_2 x; sin 2x cos x is (sin 2x)(cos x)."""
        base = self.argument() if self.take("_") else None
        power = self.argument() if self.take("^") else None
        if power == ("neg", ("num", 1, None)):
            name, power = "arc" + name, None
        tree = (name, self.atom() if self.next in CLOSING else self.expression(ARGUMENT))
        tree = ("/", tree, ("ln", base)) if base else tree
        return ("^", tree, power) if power else tree


def number(token):
    """An int or Fraction, and for a decimal the unit of its last digit: 2.50 -> ("num", 5/2, 1/100)."""
    if len(token) > 1000:
        raise Unsure
    start, _, period = token.partition("\\")                            # 0.1\overline{6}
    value = Fraction(start.rstrip(".") or "0")
    digits = re.match(r"\d*\.(\d+)(?:[eE](.*))?", start)
    last = digits and Fraction(10) ** (int(digits[2] or 0) - len(digits[1]))
    if period:
        period = re.sub(r"\D", "", period)
        return ("num", value + Fraction(int(period), 10 ** len(period) - 1) * (last or 1), None)
    return ("num", value.numerator if value.denominator == 1 else value, last)


# ---------------------------------------------------------------------------------------------------------------------
# Comparison. The first tree is the reference: a decimal is judged by its digits.

BRACKETS = {"()", "(]", "[)", "[]"}
FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
UNORDERED = {"list", "set", "\\cup"}


def match(gold, answer):
    """Do two trees say the same?"""
    spend(1)
    kinds = {gold[0], answer[0]}
    if gold == answer or "text" in kinds:
        return gold == answer
    if kinds <= {"()", "row", "list"} and len(kinds) == 2:              # a column, a row, (1, 2) and a bare 1, 2
        return match_all(vector(gold), vector(answer))
    if "named" in kinds and not kinds & UNORDERED:
        names = {tree[1] for tree in (gold, answer) if tree[0] == "named"}
        if len(names) == 1 or "y" in names and re.search(r"\w\(\w\)$", max(names, key=len)):    # y = is f(x) =
            return match(*(tree[2] if tree[0] == "named" else tree for tree in (gold, answer)))
    if kinds <= {"rel", "named"} and match_relations(gold, answer):
        return True
    if "rel" in kinds:
        intervals = as_interval(gold), as_interval(answer)
        return intervals != (gold, answer) and match(*intervals)
    if kinds & UNORDERED:
        return match_unordered(entries(gold), entries(answer))
    if kinds & (BRACKETS | {"row", "named"}):
        return gold[0] == answer[0] != "named" and match_all(gold[1:], answer[1:])
    units = [next((node[2] for node in nodes(tree) if node[0] == "unit"), None) for tree in (gold, answer)]
    if None not in units and units[0] != units[1]:
        return False                                                    # 5 cm, 5 km; but 50 % is 50 and also 1/2
    return match_values(gold, answer, False) or units[0] != units[1] and match_values(gold, answer, True)


def match_all(first, second):
    return len(first) == len(second) and all(map(match, first, second))


def vector(tree):
    rows = [row if row[0] == "row" else ("row", row) for row in tree[1:]]
    return [unnamed(row[1]) for row in rows] if all(len(row) == 2 for row in rows) else tree[1][1:] if len(rows) == 1 else ()


def unnamed(tree):
    return tree[2] if tree[0] == "named" else tree


def entries(tree):
    """The entries of a list, set or union; anything else is one entry."""
    if tree[0] == "named":
        return [("named", tree[1], entry) for entry in entries(tree[2])]
    return [entry for item in tree[1:] for entry in entries(item)] if tree[0] in UNORDERED else [as_interval(tree)]


def match_unordered(first, second):
    """Each entry of the one is in the other; names count only if both lists have several (x = 1, y = 2)."""
    names = [{entry[1] for entry in side if entry[0] == "named"} for side in (first, second)]
    if len(names[0]) == len(names[1]) == 1 and names[0] != names[1] or (len(first) == 1) != (len(second) == 1):
        return False
    if len(names[0]) < 2 or len(names[1]) < 2:
        first, second = [*map(unnamed, first)], [*map(unnamed, second)]
    return all(any(match(a, b) for b in second) for a in first) and all(any(match(a, b) for a in first) for b in second)


def as_interval(tree):
    """x > 2 and 1 < x <= 3 with their name, as intervals; x != 3 as a union; anything else as it is."""
    if tree[0] != "rel" or sum(side[0] == "sym" for side in tree[2:]) != 1 or not set(tree[1]) <= set(FLIP):
        return tree
    signs, sides = tree[1], tree[2:]
    if ">" in signs[0]:
        signs, sides = [FLIP[sign] for sign in signs[::-1]], sides[::-1]
    at = next(k for k, side in enumerate(sides) if side[0] == "sym")
    infinity = ("num", math.inf, None)
    if signs[0] == "!=":
        return ("named", sides[at][1], ("\\cup", ("()", ("neg", infinity), sides[1 - at]), ("()", sides[1 - at], infinity)))
    if any(sign[0] != "<" for sign in signs) or len(sides) > 3 or len(sides) == 3 and at != 1:
        return tree
    kind = ("[" if at and signs[at - 1] == "<=" else "(") + ("]" if at < len(signs) and signs[at] == "<=" else ")")
    return ("named", sides[at][1], (kind, sides[0] if at else ("neg", infinity), sides[-1] if at < len(signs) else infinity))


def match_values(gold, answer, scaled):
    """Exactly, or by rounding where one is a decimal; with variables at a few points."""
    pairs = list(values(gold, answer, scaled))
    kinds = [{node[:1] if node[0] == "sym" else node for node in nodes(tree) if node[0] in ("sym", "num")} for tree in (gold, answer)]
    if ("sym",) not in kinds[0] | kinds[1]:
        return any(close(a, b) or rounds(decimals(gold), decimals(answer), a, b) for a, b in pairs[:1])
    if ("num", 1j, None) not in kinds[0] | kinds[1]:                    # sqrt(x) at x = -2 counts only if nothing else does
        pairs = [pair for pair in pairs if complex not in map(type, pair)] or pairs
    return len(pairs) > 1 and all(close(a, b) for a, b in pairs)


def decimals(tree):
    """The unit of a decimal's last digit, 1/100 for 2.50; None for anything else."""
    return decimals(tree[1]) if tree[0] in ("neg", "unit") else tree[2] if tree[0] == "num" else None


def rounds(digits, given, a, b):
    """A rounded reference is met by what rounds to it; a decimal answer to an exact one needs six digits."""
    if not (digits or given) or complex in (type(a), type(b)) or not all(1e-300 < abs(x) < 1e300 for x in (a, b)) or a * b < 0:
        return False
    off = abs(Fraction(a)) - abs(Fraction(b))
    if digits:                                                          # of two digits at least, three against a decimal
        return abs(a) >= (100 if given else 10) * digits and (not given or given <= digits / 100) and abs(off) <= digits / 2
    sixth = Fraction(10) ** (math.floor(math.log10(abs(a))) - 5)
    return given <= sixth and -sixth / 2 <= off < sixth                 # rounded or cut off


def match_relations(gold, answer):
    """Equations and inequalities: side by side, also read backwards, or left - right as a multiple of the other's."""
    (signs, *first), (others, *second) = (
        (("=",), ("sym", tree[1]), tree[2]) if tree[0] == "named" else tree[1:] for tree in (gold, answer))
    if signs == others and match_all(first, second):
        return True
    if not {*signs, *others} <= set(FLIP) or len(signs) != len(others):
        return False
    if len(signs) > 1:
        return signs == tuple(FLIP[sign] for sign in others[::-1]) and match_all(first, second[::-1])
    ratios = [divide(a, b) for a, b in values(("-", *first), ("-", *second)) if a and b and complex not in (type(a), type(b))]
    return len(ratios) > 1 and all(close(ratios[0], ratio) for ratio in ratios) \
        and others[0] == (signs[0] if ratios[0] > 0 else FLIP[signs[0]])


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
