"""Mathematics as text: are two answers the same?"""
import cmath, functools, math, operator, re, unicodedata, zlib
from fractions import Fraction

MAX_RESPONSE = 10_000       # characters at the end of a response in which a box is looked for
MAX_TEXT = 1_200            # characters of an answer that is parsed; the longest gold answer has about 400
MAX_DEPTH = 30              # nested brackets; -----1 nests without them, up to Python's own recursion limit
MAX_BITS = 20_000           # of a power: 2^2008 passes, 9^9^9^9 does not; 2500! has 25,000
MAX_WORK = 5_000            # steps of one comparison, about two microseconds each

# Raised where something can't be parsed, has no value or costs too much: by require, 1 / 0, int("9", 8), ...
UNSURE = (ArithmeticError, LookupError, TypeError, ValueError)


# ------------------------------------------------------------------------------------------------------------
# Normalisation: many spellings become one

SPELLINGS = str.maketrans("−–—‐‑×·∙⋅÷∕⁄′’。", "-----****///''.", "€£\u200b\u200c\u200d\u200e\u200f\ufeff") | {
    ord(s[0]): f"\\{s[1:]} " for s in "≤le ⩽le ≥ge ⩾ge ≠ne πpi √sqrt ∞infty ∈in ∪cup ≈approx θtheta".split()}
# Rewritten before NFKC makes x² x2 and 1½ 11/2
RAISED = {"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+": r"^{\g<0>}", "[₀-₉]+": r"_{\g<0>}", "[¼-¾⅐-⅞]": r" \g<0>", "±": r"\\pm "}
REWRITES = [(key, re.compile(pattern, re.DOTALL), new) for key, pattern, new in [
    ("\\\\", r"\\\\(?=[A-Za-z])(?!.*\\end)", r"\\"),                                # \\pi, escaped twice
    ("\\", r"\\(?:begin|end)\{(?:align|equation|gather)\w*\*?\}|(?<!\\)\\[()\[\]]|,\\!\s*(?=\d{3})|\\!\s*|"
           r"\\(?:(?:left|right)\s*\.|(?:left|right|[bB]igg?[lr]?|displaystyle|boxed|fbox)(?![A-Za-z]))", ""),
    ("\\", r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|\\phantom\s*(?:\{[^{}]*\}|.)", " "),
    ("", r"\\?\$|\{(?=,\})|(?<=\{,)\}|(?<=,)\}(?=\d{3})|(?<=^[A-Z])\)$", ""),          # $5, 5{,}000, A)
    ("", r"\^\s*\{?\s*(?:\\circ|\\degree|°)\s*\}?|\\degree|\bdegrees?\b", "°"),
    ("\\b", r"\\begin\{(?:[pbB]?matrix|array)\}(?:\{[lcr|]*\})?((?:(?!\\begin).)*?)(?:\\\\\s*)?\\end\{\w+\}",
     lambda m: "((" + m[1].replace("\\\\", "),(").replace("&", ",") + "))"),        # a tuple of rows
    ("_", r"(?<!log)_\s*\{?((?<=\{)[^{}]*|\w)\}?", lambda m: "_" + re.sub(r"\W", "", m[1]) + " "),   # x_{10}
    ("\\", r"\\(?:text\w*|mbox|hbox|emph|math(?:rm|bf|it|sf)|operatorname)\s*\{\s*([^{}]*?)\s*\}",
     lambda m: m[1] if m[1] in "eid" else re.sub(r"[A-Za-z]+(?:\.[A-Za-z]+)*\.?", r' "\g<0>" ', m[1])),
    ("", r'[\s,]{0,3}(?:"?\b(?:and|or)\b"?|;)', " , "),
    (" ", r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.,]*\d)", lambda m: m[0].replace(" ", "")),     # 7 425 000
    ("/", r"(\d+)\s+(\d+)\s*/\s*(\d+)(?!\d)", r"\1\\frac{\2}{\3}"),                                 # 1 1/2
    ("\\{", r"^\s*\\\{\s*\w\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||\\mid(?![a-z])|:)(.*)\\\}\s*$", r"\1"),
    ("", r"^\s*(?:\\approx|\\sim|=|:|,)", ""),
    ("\\pm", ".+", lambda m: ",".join(m[0].replace("\\pm", p).replace("\\mp", q) for p, q in ("+-", "-+")))]]


def normalise(text):
    """ASCII and LaTeX without decoration; words of text stand in double quotes."""
    if not text.isascii():
        for pattern, new in RAISED.items(): text = re.sub(pattern, new, text)
        text = unicodedata.normalize("NFKC", text[:MAX_TEXT]).translate(SPELLINGS) + text[MAX_TEXT:]
    if len(text) > MAX_TEXT: return ""
    text = re.sub(r'[\0-\x1f"~]', " ", text).rstrip(" .,:;\\$")
    for key, pattern, new in REWRITES:
        text = pattern.sub(new, text) if key in text else text
    if "," in text and (", " in text or not re.search(r"[(\[]|\\\{", text)):              # not (1,234)
        text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)", lambda m: m[0].replace(",", ""), text)
    return text


def plain(text):
    """What is compared if nothing can be parsed; words ignore case."""
    text = re.sub(r'(?<!\d)\s|\s(?!\d)|"', "", normalise(text))
    return text.lower() if text.isalpha() and (len(text) > 2 or text.lower() == "no") else text


# ------------------------------------------------------------------------------------------------------------
# The value of a tree: a Fraction where it is rational, else float or complex

work = [0]                  # what is left of MAX_WORK


def require(truth, cost=0):
    work[0] -= cost
    if not truth or work[0] < 0: raise ValueError


def exact(x):
    return isinstance(x, Fraction)


def add(a, b):
    total, (small, large) = a + b, sorted((abs(a), abs(b)))
    if exact(total): return total
    require(small == 0 or small > 1e-9 * large)                         # or it is lost: 10^20 + sqrt 2
    return 0.0 if abs(total) < 1e-13 * large else total


def power(base, exponent):
    if exact(base) and exact(exponent):
        p, q = exponent.numerator, exponent.denominator
        size = max(map(abs, base.as_integer_ratio())).bit_length()
        require(abs(p) * size <= MAX_BITS or size == 1)
        if base < 0 and q % 2: return (-1) ** (p % 2) * power(-base, exponent)          # also (-8)^(1/3)
        if q < 65 and base >= 0:
            root = Fraction(*[n if q == 1 else round(n ** (1 / q)) for n in base.as_integer_ratio()])
            if root ** q == base: return root ** p
    return complex(base) ** complex(exponent)


def factorial(n):
    if not exact(n) or n.denominator > 1: return math.gamma(n + 1)
    require(0 <= n <= 2500, n // 4)
    return Fraction(math.factorial(n.numerator))


ANGULAR = {name: getattr(cmath, name) for name in ("sin", "cos", "tan")} | {
    name: lambda x, f=f: 1 / f(x) for name, f in (("csc", cmath.sin), ("sec", cmath.cos), ("cot", cmath.tan))}
FUNCTIONS = ANGULAR | {"arc" + name: getattr(cmath, "a" + name) for name in ("sin", "cos", "tan")} | {
    "exp": cmath.exp, "ln": cmath.log, "log": cmath.log, "lg": cmath.log10}
OPERATIONS = FUNCTIONS | {"+": add, "-": lambda a, b: add(a, -b), "neg": operator.neg, "*": operator.mul,
    "/": operator.truediv, "\\bmod": operator.mod, "^": power, "!": factorial,
    "\\binom": lambda n, k: factorial(n) / (factorial(k) * factorial(n - k)), "%": lambda a: a / 100,
    "⌊⌋": lambda a: Fraction(math.floor(a)), "⌈⌉": lambda a: Fraction(math.ceil(a)), "||": abs,
    "root": lambda n, a: power(a, 1 / n), "°": lambda a: a * math.pi / 180}


def evaluate(tree, point, scaled=False):
    """The value with variables as at this point. scaled: 50 % is 1/2 and 180° is π (as always inside sin)."""
    kind = tree[0]
    if kind in ("num", "const"): return tree[1]
    if kind == "sym":
        seed = zlib.crc32(f"{tree[1]} {point}".encode())
        return (Fraction(seed % 900 + 101) if point < 3 else (seed % 900 + 101) / 337) * (-1) ** (seed >> 20)
    if kind in ("%", "°") and not scaled: return evaluate(tree[1], point)
    require(kind in OPERATIONS, 1)
    value = OPERATIONS[kind](*(evaluate(child, point, scaled or kind in ANGULAR) for child in tree[1:]))
    bits = value.numerator.bit_length() + value.denominator.bit_length() if exact(value) else 0
    require(True, bits // 64)                                           # long numbers cost more
    return value if bits or abs(value.imag) > max(1e-12 * abs(value.real), 1e-14) else value.real


def values(first, second, scaled=False):
    """Pairs of values at a few points: integers, which count if both values are rational, then decimals."""
    pairs = []
    for point in range(8):
        try:
            a, b = evaluate(first, point, scaled), evaluate(second, point, scaled)
            if exact(a) and exact(b) or point > 2 and all(x == 0 or 1e-300 < abs(x) < 1e300 for x in (a, b)):
                pairs.append((a, b))                                    # none for which close would overflow
        except UNSURE: pass
        if point == 2 and len(pairs) == 3 or len(pairs) == 2 and pairs[0] == pairs[1]: break  # no variables
    real = [pair for pair in pairs if complex not in map(type, pair)]
    return real if len(real) > 1 else pairs                             # sqrt(-2) only if need be


def close(a, b):
    """Equal: exactly if both are rational, else up to rounding; an irrational is no large integer."""
    if exact(a) and exact(b): return a == b
    size, mixed = max(abs(a), abs(b)), exact(a) or exact(b)
    return abs(a - b) <= (1e-13 if mixed else 1e-12) * size and not (mixed and size > 1e7)


# ------------------------------------------------------------------------------------------------------------
# The parser: text -> tree, by recursive descent with a table of precedences
#
#   answer     := item ("," item)*                                         several items are a list
#   item       := words | name "=" item | expression (relation expression)*
#   expression := atom (operator expression | "!" | "°" | "%" | unit)*     no operator at all is a product
#   atom       := "-" expression | number | name | function atom | \frac atom atom | "(" answer ")"

# A digit after \frac and \binom stands alone: \frac12. Of names between two commas the first is the token.
TOKEN = re.compile(r"(?<=frac|inom)\d|(?<=frac )\d|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3}(?![\w^]))?|"
    r"[fghpqFGHINPQ]'*\([A-Za-z0]\)|[A-Za-z](?:_\w+|')+|[A-Za-z]{1,40}(?![A-Za-z_'])|[A-Za-z]|"
    r"\\log(?![A-Za-z])|\\(?:overline|overrightarrow|vec|hat|d?dot|mathbb)\s*\{[^{}]*\}|"
    r"\\[A-Za-z]+(?:_\w+|')*|\\.|\"[^\"]*\"|[<>]=|!=(?!\d)|\*\*|\S")
ALIAS = {name: names.split()[0] for names in (r"< \lt, > \gt, <= \le \leq \leqslant, >= \ge \geq \geqslant,"
    r"!= \ne \neq, ~ \approx, * \cdot \times, / : \div, \bmod \mod, | \lvert \rvert, ( \langle, ) \rangle,"
    r"⦃ \{, ⦄ \}, ⌊ \lfloor, ⌋ \rfloor, ⌈ \lceil, ⌉ \rceil, \emptyset \varnothing, % \% percent pct, \pi pi,"
    r"\infty infty infinity inf, \frac \dfrac \tfrac \cfrac, \binom \dbinom, \sqrt sqrt, ^ **").split(",")
    for name in names.split()} | {f: f"\\{f}" for f in FUNCTIONS}
RELATIONS = {"=", "<", ">", "<=", ">=", "!=", "~", "\\in", "\\equiv"}
LEVELS = {"\\cup": 1, "\\cap": 1, "\\setminus": 1, "+": 2, "-": 2, "*": 3, "/": 3, "\\bmod": 3, "^": 5}
PRODUCT, ARGUMENT, POWER = 3, 4, 5          # levels; an argument is the 2x of sin 2x + 1
CLOSING = {"(": ")]", "[": "])", "{": "}", "|": "|", "⦃": "⦄", "⌊": "⌋", "⌈": "⌉"}
NO_FACTOR = {"", ",", "'", "_", "\\mid", "\\to", *")]}⦄⌋⌉", *RELATIONS, *LEVELS}
CONSTANTS = {"\\pi": math.pi, "e": math.e, "i": 1j, "\\infty": math.inf}
NO_UNIT = {"no", "not", "less", "more", "than", "thousand", "million"}
UNITS = set("mm cm km ft in yd mi kg lb lbs oz sec min hr hrs mph mL ml am pm USD rad".split())
NAME = re.compile(r"(?!\\pi|\\sq)(?:[^-+*^!\d|_]|_\w+)*|[A-Zfghpq]'*(?:\^\{-1\})?\(.*\)|\\(?:lim|sum|int)_.*")


class Parser:
    def __init__(self, text):
        self.tokens, self.at, self.open = [], 0, []                     # open: the brackets we are in
        for token in [ALIAS.get(token, token) for token in TOKEN.findall(text)] + [""]:        # "" is the end
            word = token.isalpha() and (token in UNITS or len(token) > 3)       # miles is a word, xy is x y
            self.tokens += [f'"{token}"'] if word else token if token.isalpha() else [token]

    next = property(lambda self: self.tokens[self.at])

    def take(self, *wanted):
        """The next token, if it is one of these or anything will do, and step over it."""
        if not wanted or self.next in wanted:
            self.at += 1
            return self.tokens[self.at - 1]

    def answer(self, *closing):
        """One item or a list of them, up to what closes it."""
        items = [self.item()]
        while self.take(","): items.append(self.item())
        require(self.next in closing)
        return items[0] if len(items) == 1 else ("list", *items)

    def item(self):
        """Words, a relation or an expression; x = only names the rest."""
        if self.next[:1] == '"':
            text = ""
            while self.next.strip('".').isalpha(): text += self.take().strip('".')
            return ("text", text.lower()) if len(text) > 1 else ("sym", text)
        start, sides, signs = self.at, [self.expression(1)], []
        name = "".join(self.tokens[start:self.at])
        if re.fullmatch("[A-Z]{2,}", name) and self.next in ("", ","): return ("text", name.lower())
        if NAME.fullmatch(name) and self.take("=", "\\in", "~"):
            return ("named", ("=",), ("sym", name), self.item())
        while sign := self.take(*RELATIONS):
            side = self.expression(1)                                   # what is only approximate is left out
            if sign != "~": signs, sides = signs + [sign], sides + [side]
        if {sign[0] for sign in signs} == {">"}:
            signs, sides = [sign.replace(">", "<") for sign in signs[::-1]], sides[::-1]
        agree = set(signs) <= {"="} and all(match(sides[-1], side) for side in sides)  # 2 + 3 = 5
        return sides[-1] if agree else ("rel", tuple(signs), *sides)

    def expression(self, level):
        tree = self.atom()
        while True:
            token, before = self.next, self.tokens[self.at - 1]
            after_unit = before[:1] == '"'
            if token in ("!", "%", "°"):
                tree = (self.take(), tree)
            elif token[:1] == '"' or after_unit and token in ("/", "^"):    # units are dropped: 5 cm^2, 3 m/s
                require(self.take().strip('".') not in NO_UNIT)
                if token == "^": self.atom()
            elif LEVELS.get(token, 0) >= level:
                tree = (self.take(), tree, self.expression(LEVELS[token] + (token != "^")))
            elif token in NO_FACTOR or token == "|" and self.open[-1:] == ["|"] or level > ARGUMENT \
                    or level == ARGUMENT and token[1:] in FUNCTIONS:
                return tree
            else:
                require(not after_unit and not (before[-1:].isdigit() and token[0].isdigit()))      # not 3 4
                rest = self.expression(POWER)           # of 1 3/4 or of a product; 1 3/4 % fails here
                plus = token == "\\frac" and before.isdigit() and rest[1][0] == rest[2][0] == tree[0] == "num"
                tree = ("+" if plus and 0 < rest[1][1] < rest[2][1] else "*", tree, rest)

    def atom(self):
        token = self.take()
        if token in ("-", "+"):
            return ("neg", self.expression(PRODUCT)) if token == "-" else self.expression(PRODUCT)
        if token[:1].isdigit() or token[:1] == "." and len(token) > 1:
            if self.take("_"): return ("num", Fraction(int(token, int(self.take()))), 0)      # 1011_2
            places = re.search(r"\.(\d+)[eE]?(.*)", token)              # 2.50 -> ("num", 5/2, 1/100)
            last = Fraction(10) ** (int(places[2] or 0) - len(places[1])) if places else 0
            return ("num", Fraction(int(token) if token.isdecimal() else token), last)      # int is faster
        if token in CLOSING: return self.brackets(token)
        if token in ("\\frac", "\\binom"): return (token.replace("\\frac", "/"), self.atom(), self.atom())
        if token == "\\sqrt":
            return ("root", self.brackets("[") if self.take("[") else ("num", Fraction(2), 0), self.atom())
        if token[1:] in FUNCTIONS: return self.function(token[1:])
        if token in CONSTANTS: return ("const", CONSTANTS[token])
        require(token not in NO_FACTOR and re.search(r"[\w')}]$", token))
        return ("sym", token)

    def brackets(self, opening):
        """What is in brackets; the brackets count if they hold several items, or mean something."""
        self.open.append(opening)
        require(len(self.open) <= MAX_DEPTH)
        tree = self.answer(*CLOSING[opening])
        kind = self.open.pop() + self.take()
        if opening in "([" and tree[0] == "list": return (kind, *tree[1:])
        return tree if opening in "([{" else (kind, tree)

    def function(self, name):
        """sin x, sin(x), sin^2 x, sin^{-1} x, log_2 x; sin 2x cos x is (sin 2x)(cos x)."""
        base = [self.atom()] if self.take("_") else []
        power = self.atom() if self.take("^") else None
        if power == ("neg", ("num", 1, 0)): name, power = "arc" + name, None
        tree = (name, self.atom() if self.next in CLOSING else self.expression(ARGUMENT), *base)
        return ("^", tree, power) if power else tree


# ------------------------------------------------------------------------------------------------------------
# Comparison. The first tree is the reference: a decimal is judged by its digits.

UNORDERED = {"list", "⦃⦄", "\\cup"}
ORDERED = {"()"}, {"(]"}, {"[)"}, {"[]"}, {"()", "list"}        # 1, 2 may stand for (1, 2), in this order


def match(gold, answer):
    """Do two trees say the same?"""
    require(True, 5)
    if gold == answer: return True
    if {gold[0], answer[0]} <= {"rel", "named"} and match_relations(gold, answer): return True
    gold, answer = as_interval(gold), as_interval(answer)
    kinds = {gold[0], answer[0]}
    if "named" in kinds:                                                # x = 3 is 3, y = is f(x) =
        names = {tree[2][1] for tree in (gold, answer) if tree[0] == "named"}
        same = len(names) == 1 or "y" in names and re.search(r"\w\(\w\)$", max(names, key=len))
        return same and match(*(tree[3] if tree[0] == "named" else tree for tree in (gold, answer)))
    if kinds in ORDERED: return match_all(gold[1:], answer[1:])
    if kinds & UNORDERED:
        first, second = entries(gold), entries(answer)
        return (len(first) == 1) == (len(second) == 1) \
            and all(any(match(a, b) for b in second) for a in first) \
            and all(any(match(a, b) for a in first) for b in second)
    return match_values(gold, answer, False) or match_values(gold, answer, True)       # 50 % is 50, and 1/2


def match_all(first, second):
    return len(first) == len(second) and all(map(match, first, second))


def entries(tree):
    """The entries of a list, set or union; anything else is one entry."""
    return [entry for item in tree[1:] for entry in entries(item)] if tree[0] in UNORDERED else [tree]


def as_interval(tree):
    """x > 2 and 1 < x <= 3 as intervals with a name; anything else as it is."""
    if tree[0] != "rel" or {sign[0] for sign in tree[1]} != {"<"} or len(tree) > 5: return tree
    signs, sides = ("<", *tree[1], "<"), (("neg", ("const", math.inf)), *tree[2:], ("const", math.inf))
    k = 1 if len(tree) == 4 and tree[2][0] == "sym" else 2              # the name's place: -inf < x for x < 3
    kind = "(["[signs[k - 1] == "<="] + ")]"[signs[k] == "<="]
    return ("named", ("=",), sides[k], (kind, sides[k - 1], sides[k + 1])) if sides[k][0] == "sym" else tree


def match_values(gold, answer, scaled):
    """Exactly or up to rounding, at every point."""
    pairs, digits = values(gold, answer, scaled), (decimals(gold), decimals(answer))
    return len(pairs) > 1 and all(close(a, b) or rounds(*digits, a, b) for a, b in pairs)


def decimals(tree):
    """The unit of a decimal's last digit, 1/100 for 2.50; 0 for anything else."""
    return decimals(tree[1]) if tree[0] in ("neg", "%", "°") else tree[2] if tree[0] == "num" else 0


def rounds(digits, given, a, b):
    """A rounded reference is met by what rounds to it; a decimal answer to an exact one needs six digits."""
    if not (digits or given) or complex in map(type, (a, b)) or a * b <= 0: return False
    off = abs(Fraction(a)) - abs(Fraction(b))
    if digits:                                                          # two digits at least, or three
        return abs(a) >= (100 if given else 10) * digits and digits >= max(2 * abs(off), 100 * given)
    sixth = Fraction(10) ** (math.floor(math.log10(abs(b))) - 5)        # rounded or cut off
    return not (exact(a) and a.denominator == 1) and given <= sixth and -sixth / 2 <= off < sixth


def match_relations(gold, answer):
    """Equations and inequalities: side by side, or left - right as a multiple of the other's."""
    (signs, *first), (others, *second) = gold[1:], answer[1:]
    if signs != others or match_all(first, second): return signs == others
    ratios = [a / b for a, b in values(("-", *first), ("-", *second)) if a and b]
    real = len(ratios) > 1 and complex not in map(type, ratios)
    return real and (signs[0] in ("=", "!=") or min(ratios) > 0) and all(close(ratios[0], x) for x in ratios)


# ------------------------------------------------------------------------------------------------------------
# What the rest of the project calls

def bounded(function, *arguments):
    """What a function returns; None where it fails or would take more than MAX_WORK."""
    work[0] = MAX_WORK
    try: return function(*arguments)
    except (RecursionError, *UNSURE): return None


@functools.lru_cache(maxsize=4096)
def parse(text):
    """The tree of an answer; None if it can't be parsed."""
    return bounded(Parser(normalise(text)).answer, "")


def unparsed(answer):
    """Can this answer only be compared as text? (For the log: unparsed is not the same as wrong.)"""
    return parse(answer) is None


def equivalent(a, b):
    """Do two answer texts say the same? a is the reference where decimals are rounded."""
    if a.strip() == b.strip() or plain(a) == plain(b) != "": return True
    return bool((first := parse(a)) and (second := parse(b)) and bounded(match, first, second))
