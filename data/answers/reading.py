r"""What does an answer say?

    text --normalise--> one spelling --split_tokens--> tokens --Parser--> tree

    >>> parse(r"\dfrac{1}{2}x + 30")
    ('+', ('*', ('/', ('num', 1, 0), ('num', 2, 0)), ('sym', 'x')), ('num', 30, 0))

A tree is a tuple that starts with its kind:

    ('num', 5/2, 1/100)             2.50, with the unit of its last digit, or 0
    ('const', 3.14...)              pi, e, i, infinity
    ('sym', 'x')  ('text', 'east')  a variable, words
    ('+', a, b)  ('sin', a)  ...    operations and functions; ('call', 'f', a, b) of a function known by name only
    ('unit', a, 'cm^2')             a number with what it counts
    ('named', x, a)                 x = 3, where x only says what is meant
    ('rel', ('<', '<='), a, b, c)   a < b <= c
    ('list', a, b)                  'and' or 'or' if there are relations among a and b
    ('(]', a, b)  ('{}', ...)       brackets that mean something: points, intervals, sets
    ('reals',)                      all real numbers
    ('time', 14, 58, 0, 'pm')       a time of day

Nothing is evaluated here and no input raises: what can't be read is None.

To add     a word for a number, such as gross: SCALES          a unit: UNIT_ROWS
           another spelling of one token: ALIAS_ROWS            a phrase: PHRASES
           a function: FUNCTIONS here and calculate in comparing.py (and STEPS there, if it jumps)
"""
import functools
import math
import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

Tree = tuple

MAX_TEXT = 1_200            # characters of an answer that is read; the longest gold answer has about 400
MAX_DEPTH = 30              # nested brackets; -----1 nests without them, up to Python's own recursion limit


class Unsure(Exception):
    """This can't be read, or has no value: then it equals nothing."""


# What reading and calculating may raise: 1/0, int("9", 8), 10.0 ** 400, ------------1 ...
FAILURES = (Unsure, ArithmeticError, LookupError, TypeError, ValueError, RecursionError)


# ------------------------------------------------------------------------------------------------------------
# Where it stands. A model may think before it speaks: <think> ... </think>, and behind it what it says. Only what was
# said is graded, and shown to the agent that speaks next. A thought is the model's own; it is learned like the rest.

def split_thought(text: str) -> tuple[str, str]:
    """A sampled text -> (what was thought, what was said). One that never came to the end of its thought says nothing.

    >>> split_thought("<think>1 + 1 ...</think> Two."), split_thought("Two."), split_thought("<think>1 + 1 ...")
    (('1 + 1 ...', 'Two.'), ('', 'Two.'), ('1 + 1 ...', ''))
    """
    thought, closed, said = text.rpartition("</think>")
    said, opened, unfinished = said.partition("<think>")
    if not closed and not opened:
        return "", text
    thought = thought.replace("<think>", "") + unfinished
    return thought.strip(), said.strip()


def drop_thought(response: str) -> str:
    """What was said."""
    return split_thought(response)[1]


# ------------------------------------------------------------------------------------------------------------
# Words

# Units. The first word of a row is the name for all of them; plurals with -s and -es are understood.
UNIT_ROWS = """
    mm millimeter millimetre; cm centimeter centimetre; m meter metre; km kilometer kilometre
    in inch; ft foot feet; yd yard; mi mile; g gram; kg kilogram; mg milligram; lb pound; oz ounce; ton tonne
    s sec second; min minute; h hr hour; day; week; month; year yr; l liter litre; ml milliliter millilitre
    gallon; quart; pint; cup; tablespoon; teaspoon; acre; watt w; kw kilowatt; v volt; n newton; j joule; k kelvin
    dollar usd buck; cent; euro; rad radian; mph; kph kmh; rpm; hz hertz; bit; byte; mol mole; pa pascal
"""
# What else is counted: such a word may stand behind a number though the reference has none.
COUNTED = """
    value piece way time point people person student child children man men woman women boy girl kid friend guest
    member worker employee teacher player animal dog cat cow chicken duck horse bird fish egg apple orange banana
    cookie cake cupcake candy candies book page word letter digit number integer solution root triangle rectangle
    circle edge vertex vertices face side angle line term factor divisor prime subset element pair box bag can bottle
    jar pack packet ticket card coin ball marble toy game car bus truck tree flower plant seed row column seat room
    house door window shirt shoe hat dress sticker pencil pen crayon photo picture song step lap trip round stamp
    pizza slice sandwich meal serving calorie battery batteries block brick bead balloon shell job task clip
    distinct different possible total arrangement outcome combination permutation
"""
# These words change the number before them.
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
          "trillion": 10**12}
POWERS = {"squared": 2, "cubed": 3}
NUMBER_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()

# Bare letters are a product, xy is x times y, unless there are more than three of them or they stand here.
SHORT_WORDS = set("mm cm km ft in yd mi kg lb lbs oz sec min hr hrs mph mL ml am pm USD rad day yr".split())
SHORT_WORDS.update("is no not all any for the per sq one two six ten".split())

FILLER = set("the a an it is are there limit of this has have".split())      # "there is no solution"
# What stands first in a row is what the others mean.
SYNONYM_ROWS = """
    no solution, no solutions, no real solution, no real solutions, no real roots, empty set, null set, \
        no solution exists, no solutions exist, no real solution exists, no real solutions exist
    does not exist, dne, do not exist, not exist
    undefined, not defined
"""


def make_unit_table() -> dict[str, str]:
    """The short name of every known unit and counted thing: {"inches": "in", "apples": "apple", ...}."""
    table = {}
    rows = UNIT_ROWS.replace("\n", ";").split(";") + COUNTED.split()
    for row in rows:
        for word in row.split():
            short = row.split()[0]
            for spelling in (word, word + "s", word + "es"):
                table.setdefault(spelling, short)
    return table


def make_synonym_table() -> dict[str, str]:
    """What stands first in its row, for each phrase without spaces."""
    table = {}
    for row in SYNONYM_ROWS.strip().split("\n"):
        phrases = row.replace(" ", "").split(",")
        for phrase in phrases:
            table[phrase] = phrases[0]
    return table


UNITS = make_unit_table()
SYNONYMS = make_synonym_table()


def name_words(words: list[str]) -> str:
    """One name for a phrase.

    >>> name_words(["The", "limit", "DNE"])
    'doesnotexist'
    """
    text = ""
    for word in words:
        if word.lower() not in FILLER:
            text += word.lower()
    if text == "":
        text = "".join(words).lower()                   # there is nothing but filler
    return SYNONYMS.get(text, text)


def name_unit(words: list[str]) -> str:
    """One name for the words behind a number.

    >>> name_unit(["square", "inches"]), name_unit(["inch", "^2"]), name_unit(["square", "units"])
    ('in^2', 'in^2', '')
    """
    names = []
    power = ""
    for word in words:
        word = word.lower().strip(".")
        if word in ("square", "sq"):
            power = "^2"
        elif word in ("cubic", "cu"):
            power = "^3"
        elif word in ("unit", "units"):
            power = ""                                  # units of what? so they say nothing
        elif word.startswith("^") and names:
            names[-1] += word
        elif word in ("per", "/"):
            names.append("/")
        else:
            names.append(UNITS.get(word, word) + power)
            power = ""
    text = " ".join(names)
    return text.replace("mph", "mi / h").replace("kph", "km / h")


def is_known_unit(name: str) -> bool:
    """Is this a unit, as "km / h" or "apple", and not a word that may change the number?"""
    for word in name.split():
        base = word.split("^")[0]
        if base != "/" and base not in UNITS:
            return False
    return True


# ------------------------------------------------------------------------------------------------------------
# Text -> one spelling

class Rules:
    """Rewriting rules, applied one after the other: what matches a pattern becomes something else."""

    def __init__(self, flags: int = 0):
        self.rules = []
        self.flags = re.DOTALL | flags

    def add(self, key: str, pattern: str, new: str | Callable) -> None:
        """A rule is tried only where the text holds `key`: looking for a key costs next to nothing.

        Keys mind capitals even where patterns do not, so leave out a letter that may be one: "olution".
        """
        self.rules.append((key, re.compile(pattern, self.flags), new))

    def apply(self, text: str) -> str:
        for key, pattern, new in self.rules:
            if key in text:
                text = pattern.sub(new, text)
        return text


# Characters beyond ASCII. The rules come before NFKC, which makes x² x2 and 1½ 11/2.
CHARACTERS = Rules()
CHARACTERS.add("", "[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", r"^{\g<0>}")
CHARACTERS.add("", "[₀-₉]+", r"_{\g<0>}")
CHARACTERS.add("", "[¼-¾⅐-⅞]", r" \g<0>")
CHARACTERS.add("±", "±", r"\\pm ")
CHARACTERS.add("", "[ℝℤℕℚ]", r"\\mathbb{\g<0>}")

INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\ufeff"
SPELLINGS = str.maketrans("−–—‐‑×·∙⋅÷∕⁄′’‘。", "-----****///'''.", "€£¥₹“”" + INVISIBLE)
NAMED_CHARACTERS = "≤le ⩽le ≥ge ⩾ge ≠ne πpi √sqrt ∞infty ∈in ∪cup ∩cap ∖setminus ∅emptyset ∀forall ≈approx θtheta"
for named in NAMED_CHARACTERS.split():
    SPELLINGS[ord(named[0])] = f"\\{named[1:]} "


def replace_characters(text: str) -> str:
    r"""x² + π becomes x^{2} + \pi ."""
    text = CHARACTERS.apply(text)
    return unicodedata.normalize("NFKC", text).translate(SPELLINGS)


def write_repeating(whole: str, fixed: str, period: str) -> str:
    """0.1666..., that is "0", "1" and "6", becomes (15/90)."""
    top = int(whole + fixed + period) - int(whole + fixed)
    bottom = 10 ** len(fixed) * (10 ** len(period) - 1)
    return f"({top}/{bottom})"


def read_overline(match: re.Match) -> str:
    r"""0.1\overline{6}, 0.1\dot6: the third group is the period with its decoration."""
    period = re.sub(r"\D", "", match[3])
    return write_repeating(match[1] or "0", match[2], period)


def read_dots(match: re.Match) -> str:
    r"""0.333\ldots repeats if it ends in one digit three times, or in the same few twice; 3.14\ldots does not."""
    whole, digits = match[1] or "0", match[2]
    for size in range(1, min(len(digits), 60) // 2 + 1):
        period = digits[-size:]
        times = 3 if size == 1 else 2
        if digits.endswith(period * times):
            fixed = digits
            while fixed.endswith(period):
                fixed = fixed[:-size]
            return write_repeating(whole, fixed, period)
    return f"{whole}.{digits}"


def quote_words(match: re.Match) -> str:
    r"""Words of \text{square inches} go into quotes, each for itself; \mathrm{e} is e."""
    text = match[1].strip()
    if text in ("e", "i", "d"):
        return text
    return re.sub(r"[A-Za-z]+(?:\.[A-Za-z]+)*\.?", r' "\g<0>" ', text)


def read_matrix(match: re.Match) -> str:
    r"""A matrix is a tuple of rows: 1 & 2 \\ 3 & 4 becomes ((1,2),(3,4))."""
    rows = match[1].replace("\\\\", "),(").replace("&", ",")
    return f"(({rows}))"


def read_system(match: re.Match) -> str:
    r"""Equations that hold together are a list: x=1 \\ y=2 becomes x=1,y=2. (With an & they are cases.)"""
    return match[1].replace("\\\\", ",")


def read_subscript(match: re.Match) -> str:
    """A subscript belongs to the name: x_{10} becomes x_10."""
    letters = re.sub(r"\W", "", match[1])
    return f"_{letters} "


def drop_separators(match: re.Match) -> str:
    """7,425,000 and 7 425 000 become 7425000."""
    return re.sub("[ ,]", "", match[0])


FIRST = Rules()                             # these come before dots at the end and quotes are cut off
FIRST.add("``", r"``(.*)''", r"\1")
FIRST.add("D.N", r"\bD\.\s?N\.\s?E\b\.?", "DNE")
FIRST.add(".", r"(?<![\d.])(\d*)\.(\d+)\s*(?:\\[cl]?dots|\.\.\.)", read_dots)

LATEX = Rules()
# \\pi, where somebody escaped twice; but \\ separates the rows of a matrix
LATEX.add("\\\\", r"(?<!\\)\\\\(?=[A-Za-z])(?!.*\\end)", r"\\")
# what only sets the type: environments, sizes, spaces, colours, bold in Markdown
LATEX.add("\\", r"\{\s*\\(?:rm|bf|it)\b\s*", r"\\text{")                        # {\rm cm}
LATEX.add("\\", r"\\(?:begin|end)\{(?:align|equation|gather)\w*\*?\}", "")
LATEX.add("\\", r"(?<!\\)\\[()\[\]]|\\(?:left|right)\s*\.", "")
LATEX.add("\\", r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|boxed|fbox|rm|bf|it)(?![A-Za-z])", "")
LATEX.add("\\!", r",\\!\s*(?=\d{3})|\\!\s*", "")                                # 1,\!000 and 4\!:\!51
LATEX.add("\\", r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|\\phantom\s*(?:\{[^{}]*\}|.)", " ")
LATEX.add("color", r"\\(?:text)?color\s*\{\w+\}", "")
LATEX.add("*", r"^\s*(\*{1,3})(.*)\1\s?$", r"\2")
LATEX.add("'", r"^\s*('{1,2})(.*)\1\s?$", r"\2")
LATEX.add(")", r"^\s*([A-Z])\)$", r"\1")                                        # option A)
LATEX.add(",", r"\{(?=,\})|(?<=\{,)\}|(?<=,)\}(?=\d{3})", "")                   # 5{,}000
LATEX.add("\\$", r"^\s*(-?)\s*\\\$\s*(\d[\d.,]*)$", r'\1\2 "dollar"')
LATEX.add("$", r"\\?\$", "")                                                    # $5$ is 5
# degrees; 25 °C are 25 °
LATEX.add("circ", r"\^\s*\{?\s*\\circ\s*\}?", "°")
LATEX.add("degree", r"\^\s*\{?\s*\\degree\s*\}?|\\degree|\bdegrees?\b", "°")
LATEX.add("°", r"\^\s*\{?\s*°\s*\}?", "°")
LATEX.add("°", r"°\s?(?:\\(?:text|mathrm)\s?\{)?\s?\b[CF]\b\s?\}?$", "°")
# matrices, sets with a letter, subscripts
LATEX.add("°", r"°\s*(?:Celsius|Fahrenheit)\b", "°")
LATEX.add("matrix", r"\\begin\{[pbBv]?matrix\}((?:(?!\\begin).)*?)(?:\\\\\s*)?\\end\{\w+\}", read_matrix)
LATEX.add("array", r"\\begin\{array\}(?:\{[lcr|]*\})?((?:(?!\\begin).)*?)(?:\\\\\s*)?\\end\{\w+\}", read_matrix)
LATEX.add("cases", r"\\begin\{cases\}([^&]*?)(?:\\\\\s*)?\\end\{cases\}", read_system)
LATEX.add("\\math", r"\\mathbb\s*\{?\s*([RZNQC])(?![A-Za-z])\s*\}?", r"\\mathbb{\1}")
LATEX.add("R", r"\\R(?:eals)?(?![A-Za-z])|\\mathbf\s*\{R\}", r"\\mathbb{R}")
LATEX.add("_", r"(?<!log)_\s*\{?((?<=\{)[^{}]*|\w)\}?", read_subscript)
# words
LATEX.add("n't", r"n't\b", " not")
LATEX.add("o'c", r"o'clock\b", "oclock")
LATEX.add("\\", r"\\(?:text\w*|mbox|hbox|emph|underline|math(?:rm|bf|it|sf)|operatorname)\s*\{([^{}]*)\}",
          quote_words)

NUMBERS = Rules()
# 0.1\overline{6}, 0.\dot3, 0.1\dot23\dot4
NUMBERS.add(".", r"(?<![\d.])(\d*)\.(\d*)\s*(\\(?:overline|bar|dot)\s*\{?\d+\}?(?:\d*\\dot\s*\{?\d\}?)?)",
            read_overline)
# 12th, 12^{th}
NUMBERS.add("", r"(?<=\d)\s?\^?\s?(?:\{\s*\"?(?:st|nd|rd|th)\b\"?\s*\}|\"?(?:st|nd|rd|th)\b\"?)", "")
NUMBERS.add(" ", r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.,]*\d)", drop_separators)
NUMBERS.add("/", r"(?<![\w.])(\d+)\s+(\d+)\s*/\s*(\d+)(?!\d)", r"\1\\frac{\2}{\3}")     # 1 1/2
NUMBERS.add("min", r"(?<![\\A-Za-z])min(?=\s?\()", r"\\min")                            # these are no minutes


def phrase(words: str) -> str:
    r"""A pattern for some words, each of which may stand in quotes by now; one in brackets may be missing.

    >>> phrase("all|any (real)")
    '"?\\b(?:all|any)\\b"?\\s*(?:"?\\b(?:real)\\b"?\\s*)?'
    """
    pattern = ""
    for word in words.split():
        one = rf'"?\b(?:{word.strip("()")})\b"?\s*'
        if word.startswith("("):
            one = f"(?:{one})?"
        pattern += one
    return pattern


OPENERS = ("so|thus|hence|therefore|about|approximately|roughly|exactly|is|the|final|correct|answer|ans|option|choice|"
           "result|value|sum|total|probability")
ALL_REALS = "real|reals (number|numbers|value|values)"

PHRASES = Rules(re.IGNORECASE)
PHRASES.add("", rf"^\s*(?:{phrase(OPENERS)}[:=]?\s*)+(?=.)", "")                        # "The final answer is: 17"
PHRASES.add("olution", rf"^\s*{phrase('solution')}(?:{phrase('is')}|[:=])", "")         # but "solution set" stays
PHRASES.add("t", rf"^\s*{phrase('at')}(?=\d)", "")                                     # "at 3 pm"
# all real x > 2; all real numbers
PHRASES.add("eal", phrase(f"all {ALL_REALS} (of|such|with|for) (that|where)") + r"(?=[a-z]\s*(?:\\[nlgi]|[<>=!]))", "")
PHRASES.add("eal", phrase(f"(the) (set) (of) all|any|every {ALL_REALS} (of)") + r'(?:[a-z](?=[\s",]*(?:except|$)))?',
            r" \\mathbb{R} ")
PHRASES.add("xc", rf"[\s,]*{phrase('except|excluding (for|at|when|where)')}(.+)$", r" \\setminus \\{\1\\}")
PHRASES.add("nfinity", phrase("positive|plus infinity"), r"\\infty ")
PHRASES.add("nfinity", phrase("negative|minus infinity"), r"-\\infty ")
PHRASES.add("", rf"^\s*{phrase('a|an')}(?=\"?(?:{'|'.join(SCALES)})\b)", "1 ")         # a dozen
PHRASES.add("egative", rf"^\s*{phrase('negative')}(?=\d)", "-")
PHRASES.add("zero", rf"^(\d[\d.]*)\s*°?\s*{phrase('below zero')}$", r"-\1")
PHRASES.add("o", rf"(?<=\d)\s*{phrase('to')}(?=\d)", ":")                               # 3 to 4
PHRASES.add("oon", rf"^\s*(?:12\s*)?{phrase('noon')}$", "12:00 pm")
PHRASES.add("idnight", rf"^\s*(?:12\s*)?{phrase('midnight')}$", "12:00 am")

SEPARATORS = Rules()
SEPARATORS.add("\\cup", r"\\cup(?=[^()\[\]]*[<>])", " ∨ ")                              # x < 1 ∪ x > 3
SEPARATORS.add("and", r'[\s,]{0,6}"?\band\b"?', " ∧ ")
SEPARATORS.add("or", r'[\s,]{0,6}"?\bor\b"?', " ∨ ")
SEPARATORS.add(";", r"[\s,]{0,3};", " , ")
# {x | x > 2} is x > 2
SEPARATORS.add("\\{", r"^\s*\\\{\s*\w\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||\\mid(?![a-z])|:)(.*)\\\}\s*$", r"\1")
SEPARATORS.add("", r"^\s*(?:\\approx|\\sim|=|:|,)", "")

# Behind an answer: "for all x"; k \in Z, k an integer; n > 0
QUALIFIER = re.compile(r'[\s",(]{0,4}(?:\b(for|if|when|where|whenever|with|such[\s"]+that)\b|\\forall)')
INTEGERS = r"\\in\s*\\mathbb\{[NZQR]\}[\d^_+*{}]*|" + phrase("(is|are) (an|any) integer|integers")
MEMBERSHIP = re.compile(rf"[\s,(]{{1,3}}[A-Za-z](?:\s?,\s?[A-Za-z]){{0,3}}\s*(?:{INTEGERS})\s*\)?\s*$")
CONDITION = re.compile(r"\s?[,(]\s*[A-Za-z]\s*(?:\\[gln]eq?(?![a-z])|[<>]=?)\s*-?\w+\s*\)?\s*$")
GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")


def drop_qualifier(text: str) -> str:
    r"""What stands before "for all x", "where n is ..." or ", k \in Z".

    Several conditions are cases and stay, and so does what is behind words: "yes, if n is even".
    """
    found = QUALIFIER.search(text)
    if found:
        conditions = re.findall(r"\b(?:for|if|when|otherwise|else|cases)\b", text)
        before = text[:found.start()]
        if len(conditions) < 2 and re.search(r'[^\s"A-Za-z]|^\s*"?[A-Za-z]"?\s*$', before):
            text = before
    before = MEMBERSHIP.sub("", text)
    if before.strip():
        text = before
    before = CONDITION.sub("", text)
    if before.strip() and not re.search(r"[,<>=]|\\[gln]e|\\mathbb", before):      # x > 1, x < 3 are two conditions
        text = before
    return text


def write_both_signs(text: str) -> str:
    r"""Two entries instead of one with \pm.

    >>> write_both_signs(r"0, 1 \pm x")
    '0, 1 + x, 1 - x'
    """
    if re.match(r"\s*\\\{.*\\\}\s*$", text):
        text = text.strip()[2:-2]                       # a set of them is a list of them
    parts = text.split(",")
    if re.search(r"[(\[]", text):
        parts = [text]                                  # within brackets: all is written twice
    entries = []
    for part in parts:
        if "\\pm" in part:
            entries.append(part.replace("\\pm", "+").replace("\\mp", "-"))
            part = part.replace("\\pm", "-").replace("\\mp", "+")
        entries.append(part)
    return ",".join(entries)


@functools.lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """ASCII and LaTeX without decoration; words of text stand in double quotes, and and or become ∧ and ∨."""
    if len(text) > 2 * MAX_TEXT:
        return ""
    if not text.isascii():
        text = replace_characters(text)
    if len(text) > MAX_TEXT:
        return ""
    text = FIRST.apply(text)
    text = re.sub(r'[\0-\x1f"~`]', " ", text).rstrip(" .,:;\\$")
    text = LATEX.apply(text)
    text = NUMBERS.apply(text)
    text = PHRASES.apply(text)
    text = drop_qualifier(text)
    text = SEPARATORS.apply(text).rstrip(" .,")
    if "," in text and (", " in text or not re.search(r"[(\[]|\\\{", text)):        # but (1,234) is a point
        text = GROUPED.sub(drop_separators, text)
    if "\\pm" in text:
        text = write_both_signs(text)
    return text


def strip_text(text: str) -> str:
    """What is compared if nothing can be parsed; words ignore case."""
    text = re.sub(r'(?<!\d)\s|\s(?!\d)|"', "", normalise(text))
    if text.isalpha() and (len(text) > 2 or text.lower() == "no"):
        return text.lower()
    return text


OTHER_LABEL = re.compile(r'\s*(?:[,∧∨*/^+)]|\\cup|\\cap)|.*(?:[,∧∨]\s*\(?"?[A-J]\b|\b[A-J]"?\s?\))', re.DOTALL)
LABEL = re.compile(r'\s*(?:\(\s*"?\s*([A-J])\s*"?\s*\)|"?([A-J])"?\s*[:.)]\s|"([A-J])\."\s)[\s:.]*(.+)', re.DOTALL)


def split_label(text: str) -> tuple[str, str]:
    """The letter of an option and what stands behind it, of a normalised text.

    >>> split_label("(B) 17"), split_label("17")
    (('B', '17'), ('', '17'))
    """
    found = LABEL.fullmatch(text)
    if found is None or OTHER_LABEL.match(found[4]):    # (A) or (B) is two options
        return "", text
    return found[1] or found[2] or found[3], found[4]


# ------------------------------------------------------------------------------------------------------------
# Tokens

TOKEN = re.compile(r"""
      (?<=frac|inom)\d | (?<=frac\ )\d                          # a digit after \frac stands alone: \frac12
    | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3}(?![\w^]))?         # 2, 2.5, .5, 4.5e33
    | [A-Za-z](?:_\w+|')+                                       # x_1, f'
    | [A-Za-z]{1,40}(?![A-Za-z_']) | [A-Za-z]                   # letters that belong together, one alone before _
    | \\log(?![A-Za-z])                                         # \log_2 keeps its base
    | \\(?:overline|overrightarrow|vec|hat|bar|d?dot|mathbb)\s*\{[^{}]*\}
    | \\[A-Za-z]+(?:_\w+|')*                                    # \frac, \alpha_1
    | \\. | "[^"]*" | [<>]= | !=(?!\d) | \*\* | \S              # 5!=120 is a factorial
    """, re.VERBOSE)

# The first of a row is the token, the others are its spellings.
ALIAS_ROWS = r"""
    < \lt; > \gt; <= \le \leq \leqslant; >= \ge \geq \geqslant; != \ne \neq; ≈ \approx; ∈ \in
    * \cdot \times; / : \div; \bmod \mod mod; ^ **; | \lvert \rvert \vert; ( \langle; ) \rangle; ⦃ \{; ⦄ \}
    ⌊ \lfloor; ⌋ \rfloor; ⌈ \lceil; ⌉ \rceil; ∪ \cup; ∩ \cap; ∖ \setminus \backslash; ∅ \emptyset \varnothing
    % \% percent percentage pct; \pi pi; \infty infty infinity inf oo; \frac \dfrac \tfrac \cfrac
    \binom \dbinom \tbinom; \sqrt sqrt; ∧ \land \wedge; ∨ \lor \vee; \mathbb{R} reals
"""
ANGULAR = set("sin cos tan csc sec cot".split())
FUNCTIONS = ANGULAR | set("arcsin arccos arctan sinh cosh tanh exp ln log lg gcd lcm max min abs floor ceil".split())


def make_alias_table() -> dict[str, str]:
    """The token of every spelling; a function is \\sin, however it was written."""
    table = {}
    for row in ALIAS_ROWS.replace("\n", ";").split(";"):
        for spelling in row.split():
            table[spelling] = row.split()[0]
    for function in FUNCTIONS - {"min"}:
        table[function] = "\\" + function
    return table


ALIASES = make_alias_table()


def is_word(token: str) -> bool:
    return token[:1] == '"'


def split_tokens(text: str) -> list[str]:
    r"""The tokens of a normalised text; the last one is "", the end.

    >>> split_tokens("2xy < 5 miles")
    ['2', 'x', 'y', '<', '5', '"miles"', '']
    """
    tokens = []
    for token in TOKEN.findall(text):
        token = ALIASES.get(token, token)
        if is_word(token):
            token = ALIASES.get(token.strip('".').lower(), token)       # \\text{percent}
        if not token.isalpha() or not token.isascii():
            tokens.append(token)
        elif len(token) > 3 or token in SHORT_WORDS:
            tokens.append(f'"{token}"')
        else:
            tokens.extend(token)
    tokens.append("")
    return tokens


# ------------------------------------------------------------------------------------------------------------
# Tokens -> tree, by recursive descent. The methods of Parser follow this grammar:
#
#   answer     := item (("," | "∧" | "∨") item)*               several items are a list
#   item       := words [("=" | ":") item] | name ("=" | "∈" | "≈") item | relation
#   relation   := expression (sign expression)*
#   expression := atom (operator expression | "!" | "°" | "%" | unit | expression)*     next to each other: a product
#   atom       := "-" expression | number | name | function | call | "\frac" atom atom | "(" answer ")"

RELATIONS = {"=", "<", ">", "<=", ">=", "!=", "≈", "∈"}
LEVELS = {"∪": 1, "∩": 1, "∖": 1, "+": 2, "-": 2, "*": 3, "/": 3, "\\bmod": 3, "^": 5}    # how tightly they bind
PRODUCT, ARGUMENT, POWER = 3, 4, 5          # levels; an argument is the 2x of sin 2x + 1
CLOSING = {"(": ")]", "[": "])", "{": "}", "|": "|", "⦃": "⦄", "⌊": "⌋", "⌈": "⌉"}
JOINT_KINDS = {",": "list", "∧": "and", "∨": "or"}
# These end a product.
NO_FACTOR = {"", "'", "_", "\\mid", "\\to", "\\forall", *")]}⦄⌋⌉", *JOINT_KINDS, *RELATIONS, *LEVELS}
CONSTANTS = {"\\pi": math.pi, "e": math.e, "i": 1j, "\\infty": math.inf}
CALLED = set("fghpqFGHINPQW")               # f(x), P(0): these before one token in brackets are functions
ONE = ("num", 1, 0)
EMPTY = ("{}",)
REALS = ("reals",)


def is_name(tree: Tree) -> bool:
    r"""Can this stand before "=" only to say what is meant? x, f(x), AB, |AB|, m+n, (x, y), \lim ... can, 2x can't."""
    kind = tree[0]
    if kind in ("sym", "call", "text", "named"):                       # also the X = 2 in P(X = 2)
        return True
    if kind == "||":
        return tree[1][0] in ("*", "sym") and is_name(tree[1]) and tree[1] != ("sym", "x")
    if kind == "^":
        return is_name(tree[1]) and tree[2] == ("neg", ONE)            # f^{-1}(x)
    if kind == "*" and tree[1][0] == "sym" and tree[1][1].startswith(("\\lim", "\\sum", "\\int")):
        return True
    if kind == "+" and tree[1] == tree[2]:
        return False
    if kind in ("*", "/", "+", "()", "gcd", "lcm", "max", "min") or kind in ANGULAR:
        return all(is_name(part) for part in tree[1:])
    return False


def is_proper(tree: Tree) -> bool:
    """Is this a fraction such as 2/3, that makes a mixed number of the 1 before it?"""
    top, bottom = tree[1], tree[2]
    return top[0] == bottom[0] == "num" and 0 < top[1] < bottom[1]


class Parser:
    """The grammar above, a method for each of its rules and a few more for what an atom may be."""

    def __init__(self, text: str):
        self.tokens = split_tokens(text)
        self.at = 0
        self.open = []              # the brackets that we are in
        self.units = set()          # of the item that we are in
        self.unit_end = 0           # where the last unit ended

    @property
    def next(self) -> str:
        return self.tokens[self.at]

    @property
    def previous(self) -> str:
        return self.tokens[self.at - 1]

    def take(self) -> str:
        """The next token, and step over it."""
        self.at += 1
        return self.previous

    def answer(self, closing: str | tuple) -> Tree:
        """One item or a list of them, up to what closes it."""
        items = [self.item()]
        kind = "list"
        while self.next in JOINT_KINDS:
            joint = JOINT_KINDS[self.take()]
            if joint != "list":
                kind = joint
            items.append(self.item())
        if self.next not in closing:
            raise Unsure("this does not end where it should")
        if len(items) == 1:
            return items[0]
        if not any(item[0] == "rel" for item in items):
            kind = "list"                                               # "2 or 3" and "2 and 3" are two answers
        return (kind, *items)

    def item(self) -> Tree:
        """Words, a relation or an expression, with its unit."""
        outer = self.units
        self.units = set()
        if is_word(self.next) and self.next.strip('".').lower() not in NUMBER_WORDS:
            tree = self.words()
        else:
            tree = self.relation()
        units = self.units
        self.units = outer
        if len(units) > 1:
            raise Unsure("3 km + 5 m")
        for unit in units:
            tree = ("unit", tree, unit)
        return tree

    def words(self) -> Tree:
        """A phrase; with "=" or ":" behind it, it is a name: Area = 24."""
        words = []
        while self.next.strip('".').isalpha() and self.next.isascii():
            words.append(self.take().strip('".'))
        phrase = name_words(words)
        tree = ("text", phrase)
        if len(phrase) == 1:
            tree = ("sym", words[0])
        if phrase == "nosolution":
            tree = EMPTY
        if self.next in ("=", "/"):                                     # ":" is read as "/"
            self.take()
            return ("named", tree, self.item())
        return tree

    def relation(self) -> Tree:
        """Expressions with signs between them; x = only names the rest."""
        start = self.at
        sides = [self.expression(1)]
        signs = []
        spelling = "".join(self.tokens[start:self.at])
        if re.fullmatch("[A-Z]{2,}", spelling) and self.next in ("", *JOINT_KINDS):
            return ("text", name_words([spelling]))                     # DNE, CBAD
        if self.next in ("=", "∈", "≈") and is_name(sides[0]):
            self.take()
            return ("named", sides[0], self.item())
        while self.next in RELATIONS:
            sign = self.take()
            side = self.expression(1)
            if sign != "≈":                                             # what is only approximate is left out
                signs.append(sign)
                sides.append(side)
        if not signs:
            return sides[0]
        if signs == ["="] and is_name(sides[1]):
            return ("named", sides[1], sides[0])                        # 3 = x
        if all(sign in (">", ">=") for sign in signs):                  # a > b is b < a
            signs = [sign.replace(">", "<") for sign in reversed(signs)]
            sides.reverse()
        return ("rel", tuple(signs), *sides)

    def expression(self, level: int) -> Tree:
        """Everything that binds at least as tightly as this level."""
        tree = self.atom(level)
        while True:
            token = self.next
            word = token.strip('".').lower()
            if token in ("!", "%", "°"):
                tree = (self.take(), tree)
            elif is_word(token) and (word in SCALES or word[:-1] in SCALES):            # 3 million, 2 dozens
                self.take()
                tree = ("*", tree, ("num", SCALES.get(word) or SCALES[word[:-1]], 0))
            elif is_word(token) and word in POWERS:
                self.take()
                tree = ("^", tree, ("num", POWERS[word], 0))
            elif is_word(token):
                self.unit()
            elif token in LEVELS:
                if LEVELS[token] < level:
                    return tree
                self.take()
                binding = LEVELS[token]
                if token != "^":                                        # 2^3^4 is 2^(3^4), but 2-3-4 is (2-3)-4
                    binding += 1
                if token == "/" and tree[0] == "num" and self.next.isdigit() and self.tokens[self.at + 1].isalpha():
                    binding = POWER                                     # 1/2x is (1/2)x, though a/2x is a/(2x)
                if token == "-" and tree == REALS:
                    token = "∖"                                         # R - {2}
                tree = (token, tree, self.expression(binding))
            elif self.ends_product(level):
                return tree
            else:
                tree = self.product(tree)

    def ends_product(self, level: int) -> bool:
        """Can't what comes next be a factor?"""
        if self.next in NO_FACTOR or level > ARGUMENT:
            return True
        if self.next == "|":
            return self.open[-1:] == ["|"]                              # it closes
        return level == ARGUMENT and self.next[1:] in FUNCTIONS         # sin 2x cos x is (sin 2x)(cos x)

    def product(self, left: Tree) -> Tree:
        """A factor without a sign before it; or the fraction of a mixed number."""
        before = self.previous
        if self.at == self.unit_end or before[-1:].isdigit() and self.next[:1].isdigit():
            raise Unsure("5 cm 3, or 3 4")
        if self.next == "\\frac" and before.isdigit() and left[0] == "num":
            fraction = self.atom(POWER)
            if is_proper(fraction):
                return ("+", left, fraction)
            return ("*", left, fraction)
        return ("*", left, self.expression(POWER))

    def unit(self) -> None:
        """Step over the words behind a number and remember them for its item: square cm, km/h, m/s^2."""
        words = []
        while is_word(self.next) or self.next in ("/", "^"):
            following = self.tokens[self.at + 1]
            if self.next == "/" and not is_word(following) and following not in ("h", "s"):
                break
            word = self.take().strip('"')
            words.append(word)
            if word == "/":
                words.append(self.take().strip('"'))
            if word == "^":
                exponent = self.atom(POWER)
                words[-1] = f"^{exponent[1]}"
        self.unit_end = self.at
        name = name_unit(words)
        if name:
            self.units.add(name)

    def atom(self, level: int) -> Tree:
        """What stands between two operators. level: that of the operator before it, for -x."""
        token = self.take()
        if token in ("-", "+"):
            tree = self.expression(max(level, PRODUCT))
            if token == "-":
                tree = ("neg", tree)
            return tree
        if token[:1].isdigit() or (token[:1] == "." and len(token) > 1):
            return self.number(token)
        if token in CLOSING:
            return self.brackets(token)
        if token in ("\\frac", "\\binom"):
            kind = "/" if token == "\\frac" else "binom"
            return (kind, self.atom(POWER), self.atom(POWER))
        if token == "\\sqrt":
            return self.root()
        if token[1:] in FUNCTIONS:
            return self.function(token[1:])
        if token in CONSTANTS:
            return ("const", CONSTANTS[token])
        if token == "\\mathbb{R}":
            return REALS
        if token == "∅":
            return EMPTY
        if is_word(token) and token.strip('".').lower() in NUMBER_WORDS:
            return ("num", NUMBER_WORDS.index(token.strip('".').lower()), 0)
        if token in NO_FACTOR or not re.search(r"[\w')}]$", token):
            raise Unsure(token)
        if self.is_call(token):
            return self.call(token)
        return ("sym", token)

    def number(self, token: str) -> Tree:
        """2.50 is ("num", 5/2, 1/100); 1011_2 is eleven."""
        if self.next == "_":
            self.take()
            return ("num", int(token, int(self.take())), 0)
        if token.isdecimal():
            return ("num", int(token), 0)
        places = re.search(r"\.(\d+)[eE]?(.*)", token)
        last = 0
        if places:
            last = Fraction(10) ** (int(places[2] or 0) - len(places[1]))
        return ("num", Fraction(token), last)

    def root(self) -> Tree:
        degree = ("num", 2, 0)
        if self.next == "[":
            degree = self.brackets(self.take())
        return ("root", degree, self.atom(POWER))

    def brackets(self, opening: str) -> Tree:
        """What is in brackets; they count if they hold several items, or mean something."""
        self.open.append(opening)
        if len(self.open) > MAX_DEPTH:
            raise Unsure("nested too deeply")
        if opening == "⦃" and self.next == "⦄":
            tree = ("list",)
        else:
            tree = self.answer(CLOSING[opening])
        kind = self.open.pop() + self.take()
        if kind == "[]" and tree[0] == "list" and tree[1][0] == "[]":
            return ("()", *[("()", *row[1:]) for row in tree[1:]])      # [[1, 2], [3, 4]] is a matrix
        if opening in "([" and tree[0] == "list":
            return (kind, *tree[1:])
        if opening in "([{":
            return tree
        if opening == "⦃" and tree[0] == "list":
            return ("{}", *tree[1:])
        if opening == "⦃":
            return ("{}", tree)
        return (kind, tree)

    def function(self, name: str) -> Tree:
        """sin x, sin(x), sin^2 x, sin^{-1} x, log_2 x, max(a, b)."""
        base = []
        power = None
        if self.next == "_":
            self.take()
            base.append(self.atom(POWER))
        if self.next == "^":
            self.take()
            power = self.atom(POWER)
        if power == ("neg", ONE):
            name, power = "arc" + name, None
        if self.next in CLOSING:
            argument = self.atom(POWER)
        else:
            argument = self.expression(ARGUMENT)
        if name in ("gcd", "lcm", "max", "min"):
            tree = (name, *argument[1:])
        else:
            tree = (name, argument, *base)
        if power:
            tree = ("^", tree, power)
        return tree

    def is_call(self, name: str) -> bool:
        """f(...), P(x) and any letter before several arguments call a function; n(n+1) and P(1+r) are products."""
        if self.next != "(" or not re.fullmatch(r"[A-Za-z]'*", name):
            return False
        if name[0] in "fF":
            return True
        if self.tokens[self.at + 2:self.at + 3] == [")"]:
            return name[0] in CALLED
        depth = 0
        for token in self.tokens[self.at:]:
            if token in CLOSING:
                depth += 1
            elif token in (")", "]", "}", "⦄", "⌋", "⌉"):
                depth -= 1
            if depth == 0 or token == "|":
                return False
            if depth == 1 and token == ",":
                return True
        return False

    def call(self, name: str) -> Tree:
        arguments = self.brackets(self.take())
        if arguments[0] == "()":
            return ("call", name, *arguments[1:])
        return ("call", name, arguments)


# ------------------------------------------------------------------------------------------------------------
# Times of day

TIME = re.compile(r'[\s"]*(\d{1,2})(?:\s*:\s*(\d\d))?(?:\s*:\s*(\d\d))?[\s"]*'
                  r'(?:([ap])\.?\s?m\.?|oclock)?[\s"]*', re.IGNORECASE)


def read_time(text: str) -> Tree | None:
    """3 p.m., 12:30 and 08:34:00 of a normalised text."""
    found = TIME.fullmatch(text)
    if found is None or text.strip().isdigit():
        return None
    hour, minute, second = int(found[1]), int(found[2] or 0), int(found[3] or 0)
    half = found[4] or ""
    if hour > 24 or minute > 59 or second > 59:
        return None
    if half and not 1 <= hour <= 12:
        return None
    return ("time", hour, minute, second, half.lower())


def read_tree(text: str) -> Tree | None:
    """The tree of a normalised text; None if it can't be read."""
    try:
        time = read_time(text)
        if time:
            return time
        return Parser(text).answer(("",))
    except FAILURES:
        return None


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Tree | None:
    """The tree of an answer; None if it can't be read."""
    return read_tree(normalise(text))


def unparsed(answer: str) -> bool:
    """Can this answer only be compared as text? (For the log: unparsed is not the same as wrong.)"""
    return parse(answer) is None
