"""Exercise 5. WRITING.md in the folder above says how such a file is laid out."""
import math
from random import Random

from data.course.exercises import Case, Mistake, Tensor, demand

TITLE = "drawing a token"
MINUTES = 35
TARGETS = ["rollout.draw"]
PARTS = {"greedy": 2, "temperature 1": 2, "other temperatures": 2, "top-p": 2, "both ends": 2}

TEXT = """
A model gives a number for each token of its vocabulary, the logits. Softmax makes probabilities of them, one token is
drawn, and the logarithm of its probability is kept: training compares it with what the changed model says later.
Write `rollout.draw`, which does this for a batch of rows at once.

It draws without a generator of its own. The caller hands in a number between 0 and 1 for each row, so that a draw
depends on nothing that happens on the way. Think of the probabilities as intervals, one behind the other: with
probabilities 0.5, 0.2, 0.3 they begin at 0, 0.5 and 0.7. The number 0.6 falls into the second one, so token 1 is drawn,
and its log-probability is log 0.2 = -1.609. An interval contains its lower end: with two equal logits, which make
exactly 0.5 each, the number 0.5 draws token 1. (Other borders are rounded, and no check asks for a number so near to
one. Nor does one ask which of two equally likely tokens is the greedy one.)

What makes it harder than it looks:

- A temperature divides the logits before the softmax. The log-probability is that of the distribution from which the
  token was drawn: after the temperature, and after `keep_nucleus` (further down in the same script) has left only the
  likeliest tokens of top-p. Greedy draws are the exception that the docstring names.
- A sum of rounded probabilities ends at 0.9999998 or at 1.0000001. A uniform number of 0.99999994 must not fall beyond
  the last token, nor on one that has no probability (a logit of -infinity).
- Log-probabilities in bfloat16 would have three digits.
"""

HINTS = [
    "Cast, divide by the temperature, softmax. Then greedy is argmax; everything else needs cumsum along the last "
    "dimension. In the end, gather picks each row's probability.",
    "torch.searchsorted(cdf, numbers, right=True) finds the first entry above each number. It wants numbers of shape "
    "(B, 1), and type and device of the cdf.",
    "Multiply the uniform number by the last entry of the cdf, which is 1 but for rounding, and keep the product below "
    "that entry: torch.nextafter gives the next smaller number. Where the last tokens have no probability the cdf no "
    "longer grows, so searchsorted stops at the last token that has one.",
]


# ------------------------------------------------------------------------------------------------------------
# Inputs

def make_cases(random: Random) -> list[Case]:
    cases = []
    for top_p in (1.0, 0.5):
        cases.append(make_case(random, "greedy", 0.0, top_p))
    cases.append(Case("temperature 1", "probabilities 0.5, 0.2, 0.3 and the numbers 0.6, a little more than 0.5, 0",
                      {"logits": [[math.log(0.5), math.log(0.2), math.log(0.3)]] * 3, "uniform": [0.6, 0.5 + 1e-9, 0.0],
                       "temperature": 1.0, "top_p": 1.0, "dtype": "float64"}))
    for dtype in ("float64", "float32"):
        cases.append(Case("temperature 1", f"logits 0, 0 and the number 0.5, {dtype}: the lower end belongs to token 1",
                          {"logits": [[0.0, 0.0]], "uniform": [0.5], "temperature": 1.0, "top_p": 1.0, "dtype": dtype}))
    cases.append(make_case(random, "temperature 1", 1.0, 1.0))
    for temperature in (0.5, 2.5):
        cases.append(make_case(random, "other temperatures", temperature, 1.0))
    for temperature, top_p in ((1.0, 0.6), (0.7, 0.9), (1.5, 0.3)):
        cases.append(make_case(random, "top-p", temperature, top_p))
    cases += make_ends(random)
    return cases


def make_case(random: Random, part: str, temperature: float, top_p: float) -> Case:
    rows, uniform = [], []
    for _ in range(5):
        row = [random.uniform(-2, 2) for _ in range(8)]
        rows.append(row)
        uniform.append(choose_inside(random, row, temperature or 1.0, top_p))
    given = {"logits": rows, "uniform": uniform, "temperature": temperature, "top_p": top_p, "dtype": "float64"}
    return Case(part, f"5 rows of 8 tokens, temperature {temperature}, top-p {top_p}", given)


def choose_inside(random: Random, row: list[float], temperature: float, top_p: float) -> float:
    """A number that is no border of two tokens, where rounding would decide."""
    while True:
        number = random.random()
        border = 0.0
        distances = []
        for probability in compute_probabilities(row, temperature, top_p):
            border += probability
            distances.append(abs(border - number))
        if min(distances) > 1e-6:
            return number


def make_ends(random: Random) -> list[Case]:
    """Numbers 0 and the largest one below 1, in float32, where the first and last tokens can't come."""
    never = [-math.inf] * 3
    rows = []
    for _ in range(15):
        rows.append(never + [random.uniform(-1, 1) for _ in range(60)] + never)
    common = {"logits": rows, "temperature": 1.0, "top_p": 1.0, "dtype": "float32"}
    cases = []
    for number in (0.0, 1 - 2 ** -24):
        says = f"the number {number:.8f}, float32, 60 tokens between 3 that can't come on either side"
        cases.append(Case("both ends", says, {**common, "uniform": [number] * 15}))
    coarse = [[random.randint(-8, 8) / 4 for _ in range(6)] for _ in range(5)]
    uniform = [choose_inside(random, row, 1.0, 1.0) for row in coarse]
    given = {**common, "logits": coarse, "uniform": uniform, "dtype": "bfloat16"}
    return cases + [Case("both ends", "logits in bfloat16", given)]


# ------------------------------------------------------------------------------------------------------------
# Outputs

def run(given: dict) -> dict:
    import torch

    import rollout

    dtype = getattr(torch, given["dtype"])
    logits = torch.tensor(given["logits"], dtype=dtype)
    uniform = torch.tensor(given["uniform"], dtype=torch.promote_types(dtype, torch.float32))
    tokens, logprobs = rollout.draw(logits, uniform, given["temperature"], given["top_p"])
    demand(tokens, torch.Tensor, "tokens")
    demand(logprobs, torch.Tensor, "logprobs")
    if given["dtype"] == "float64":
        return {"tokens": tokens, "logprobs": logprobs}
    # Rounded numbers are not compared, but they have a type and are finite.
    return {"tokens": tokens, "type of logprobs": str(logprobs.dtype), "all finite": logprobs.isfinite().all().item()}


def expect(given: dict) -> dict:
    """Row by row, with sums instead of tensors."""
    tokens, logprobs = [], []
    for row, number in zip(given["logits"], given["uniform"]):
        if given["temperature"] == 0:
            probabilities = compute_probabilities(row, 1.0, 1.0)
            token = row.index(max(row))
        else:
            probabilities = compute_probabilities(row, given["temperature"], given["top_p"])
            token = 0
            while probabilities[token] == 0 or math.fsum(probabilities[:token + 1]) <= number:
                token += 1
        tokens.append(token)
        logprobs.append(math.log(probabilities[token]))
    chosen = Tensor(tokens, "torch.int64", [len(tokens)])
    if given["dtype"] == "float64":
        return {"tokens": chosen, "logprobs": Tensor(logprobs, "torch.float64", [len(logprobs)])}
    return {"tokens": chosen, "type of logprobs": "torch.float32", "all finite": True}


def compute_probabilities(row: list[float], temperature: float, top_p: float) -> list[float]:
    weights = [math.exp(logit / temperature) for logit in row]
    total = math.fsum(weights)
    order = sorted(range(len(row)), key=lambda token: -weights[token])
    mass, kept = 0.0, []
    for token in order:
        if mass < top_p:
            kept.append(token)
        mass += weights[token] / total
    kept_mass = math.fsum(weights[token] for token in kept)
    return [weights[token] / kept_mass if token in kept else 0.0 for token in range(len(row))]


MISTAKES = [
    Mistake("these are log-probabilities at temperature 1, but the token was drawn at another",
            "    return tokens.squeeze(1), probs.gather(1, tokens)",
            "    if temperature > 0 and top_p == 1:\n        probs = (logits * temperature).softmax(-1)\n"
            "    return tokens.squeeze(1), probs.gather(1, tokens)"),
    Mistake("these are the numbers of logits multiplied by the temperature",
            "logits = logits / temperature", "logits = logits * temperature"),
    Mistake("these are the numbers without any temperature",
            "logits = logits / temperature", "logits = logits / 1"),
    Mistake("a greedy draw reports its log-probability at temperature 1, not 0",
            ".squeeze(1).log()", ".squeeze(1).log() * float(temperature > 0)"),
    Mistake("these are probabilities: their logarithm is due",
            ".squeeze(1).log()", ".squeeze(1)"),
    Mistake("these are log-probabilities before keep_nucleus left only the likeliest tokens",
            "            probs = keep_nucleus(probs, top_p)\n        cdf = probs.cumsum(1)",
            "            pass\n        cdf = keep_nucleus(probs, top_p).cumsum(1)"),
    Mistake("these are draws from all tokens: top_p is left out",
            "if top_p < 1: ", "if False: "),
    Mistake("an interval contains its lower end and not its upper one: a number on the border belongs to the next "
            "token",
            "torch.searchsorted(cdf, point, right=True)", "torch.searchsorted(cdf, point.clamp(min=1e-30))"),
    Mistake("the number 0 falls on the first token even where that can't come: searchsorted needs right=True",
            ", right=True", ""),
    Mistake("the largest number falls beyond the last token that can come: the cumulative sum is rounded",
            "torch.searchsorted(cdf, point, right=True)",
            "torch.searchsorted(cdf, uniform.to(cdf)[:, None], right=True).clamp(max=logits.shape[-1] - 1)"),
    Mistake("these are tokens one further than those whose interval the number falls into",
            "torch.searchsorted(cdf, point, right=True)",
            "(torch.searchsorted(cdf, point, right=True) + 1).clamp(max=logits.shape[-1] - 1)"),
    Mistake("these are the likeliest tokens, but at this temperature a token is drawn",
            "    if temperature == 0:", "    if True:"),
    Mistake("everything is computed in float32, which costs half of the digits",
            "torch.promote_types(logits.dtype, torch.float32)", "torch.float32"),
    Mistake("logits in bfloat16 are computed in bfloat16, which leaves three digits",
            "logits.to(torch.promote_types(logits.dtype, torch.float32))", "logits + 0"),
]
