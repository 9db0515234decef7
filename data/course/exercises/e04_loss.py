"""Exercise 4. WRITING.md in the folder above says how such a file is laid out."""
import math
from random import Random
from statistics import fmean

from data.course.exercises import Case, Mistake, Tensor, Wrong, demand

TITLE = "the clipped loss"
MINUTES = 50
TARGETS = ["rema.policy_loss", "rema.average_over_turns", "rema.bound_loss"]
PARTS = {"A > 0": 2, "A < 0": 2, "k3": 2, "turn ratio": 2, "dual clip": 1, "statistics": 1}

TEXT = r"""
This is where a reward becomes a gradient. Tokens of a turn that was better than its group (its advantage A is positive)
become likelier, the others less likely. Both agents of ReMA learn by this one function, each in its phases.

A batch was sampled by weights that have moved since, if only by one update. The ratio r = exp(new - old) says how much
likelier a token is now than when it was drawn, and a token that has already moved by a fifth in the direction that pays
gets no further push. By hand, with clip 0.2:

| A | r | r A | clipped r, times A | gain, the smaller one | its derivative by `new` |
|---|---|---|---|---|---|
| 1 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 |
| 1 | 1.5 | 1.5 | 1.2 | 1.2 | 0 |
| 1 | 0.5 | 0.5 | 0.8 | 0.5 | 0.5 |
| -1 | 0.5 | -0.5 | -0.8 | -0.8 | 0 |
| -1 | 1.5 | -1.5 | -1.2 | -1.5 | -1.5 |

(The derivative of r by `new` is r.) Where the clipped product is the smaller one it is constant. In the last row a bad
token became likelier, and the way back is open, up to a log-ratio of 3. Beyond it the ratio stays exp(3), without gradient.

Three things can be added. With `kl` each token is pulled back to the first weights by k3: where `ref - new` is log 2,
d is 0.693, k3 is 2 - 0.693 - 1 = 0.307, and its derivative by `new` is 1 - 2 = -1. With `turn_numbers` the tokens of a
turn share one ratio: an agent that speaks several times in a conversation acts by turns, and a whole turn is what was
good or bad (eq. 13 of the paper). Log-ratios 0.1, 0.1 and 0.4 of one turn count as 0.2 each. With `dual_clip` 3 a
token with A = -1 and r = 5 costs 3 instead of 5. Write `rema.policy_loss`, and for the last two
`rema.average_over_turns` and `rema.bound_loss`, further down in the same script.

What makes it harder than it looks:

- It is the gradient that trains. `new` comes with `requires_grad`, and the gradient of the loss is compared for each
  token. A number that went through `float()`, `.item()` or `torch.tensor(...)` has lost its own.
- The weights say what each token counts, and they are not equal. They add up to 1 over a batch that may come in parts,
  so multiply and sum: a mean would divide twice.
- In a turn, each token moves the ratio of all. So its gradient holds the weights of its neighbours, too.
- Tensors have float64 in the check and other types in training: what you make new should take its type from what you
  were given (`zeros_like`, `new_zeros`).
"""

HINTS = [
    "Write the docstring's lines as tensors of shape (N,), from the log-ratio to the gain, and sum at the very end. "
    "torch.minimum compares entry by entry, .clamp(low, high) bounds. No loop over tokens and no `if` on the sign of A "
    "is needed: the minimum of the two products is right for both.",
    "average_over_turns: torch.bincount(turns) counts each turn's tokens, zeros.index_add(0, turns, log_ratio) adds up "
    "their log-ratios, where zeros has as many entries. Divide, and [turns] gives each token its turn's mean. In "
    "policy_loss it replaces the log-ratio before .clamp(max=3).",
    "bound_loss: torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), gain). k3: d = (ref - "
    "new).clamp(max=20), torch.exp(d) - d - 1. clip_share: (clipped product < other product), as floats, mean.",
]


# ------------------------------------------------------------------------------------------------------------
# Inputs

def make_cases(random: Random) -> list[Case]:
    cases = []
    for part, advantage, ratios in (("A > 0", 1.0, (1.0, 1.5, 0.5)), ("A < 0", -1.0, (0.5, 1.5, 1.0))):
        for ratio in ratios:
            says = f"one token, A = {advantage:g}, ratio {ratio}, weight 1, the defaults"
            cases.append(Case(part, says, make_one(ratio, advantage)))
    for part, signs in (("A > 0", [1]), ("A < 0", [-1])):
        for clip in (0.2, 0.1, 0.5):
            given = draw_case(random, signs, {"clip": clip})
            cases.append(Case(part, f"8 tokens with unequal weights, clip {clip}", given))
    cases.append(Case("A < 0", "one token, A = -1, a log-ratio of 4, weight 1", make_one(math.exp(4), -1.0)))
    pulled = {"kl": 1.0, "ref": [-2 + math.log(2)]}
    cases.append(Case("k3", "one token, A = 0, ref - new = log 2, kl 1, weight 1", make_one(1.0, 0.0, pulled)))
    far = {"kl": 0.5, "ref": [23.0]}
    cases.append(Case("k3", "one token, A = 0, ref - new = 25, kl 0.5, weight 1", make_one(1.0, 0.0, far)))
    for kl in (0.01, 0.3):
        cases.append(Case("k3", f"8 tokens, kl {kl}", draw_case(random, [-1, 0, 1], {"kl": kl})))
    return cases + make_turns(random) + make_bounds(random) + make_statistics(random)


def make_turns(random: Random) -> list[Case]:
    given = make_one(1.0, 1.0, {"turn_numbers": [0, 0, 0]})
    given["new"] = [-1.9, -1.9, -1.6]
    for name, values in (("old", [-2.0] * 3), ("advantages", [1.0] * 3), ("weights", [0.5, 0.3, 0.2])):
        given[name] = values
    cases = [Case("turn ratio", "one turn, log-ratios 0.1, 0.1, 0.4, A = 1", given)]
    given = {"new": [-2.0, -2.0], "old": [-6.0, -3.0], "advantages": [-1.0, -1.0], "weights": [0.5, 0.5],
             "options": {"turn_numbers": [0, 0]}}
    cases.append(Case("turn ratio", "one turn, log-ratios 4 and 1, A = -1", given))
    for says, turns in (("turns of 3, 1 and 4 tokens", [0, 0, 0, 1, 2, 2, 2, 2]),
                        ("turns whose tokens do not stand side by side", [1, 0, 2, 1, 1, 0, 2, 2])):
        for signs in ([1], [-1], [-1, 1]):
            given = draw_case(random, signs, {"turn_numbers": turns})
            cases.append(Case("turn ratio", f"{says}, A of signs {signs}", given))
        given = draw_case(random, [-1], {"turn_numbers": turns}, shift=1.5)
        cases.append(Case("turn ratio", f"{says}, A < 0, some log-ratios above 3", given))
    return cases


def make_bounds(random: Random) -> list[Case]:
    cases = []
    for advantage, ratio in ((-1.0, 5.0), (-1.0, 2.0), (-1.0, 0.5), (1.0, 5.0)):
        says = f"one token, A = {advantage:g}, ratio {ratio}, weight 1, dual_clip 3"
        cases.append(Case("dual clip", says, make_one(ratio, advantage, {"dual_clip": 3.0})))
    for bound in (2.0, 3.5):
        given = draw_case(random, [-1, -1, 1], {"dual_clip": bound}, shift=0.8)
        cases.append(Case("dual clip", f"8 tokens, dual_clip {bound}", given))
    return cases


def make_statistics(random: Random) -> list[Case]:
    """Of 8 tokens: then a share is exact in any type."""
    cases = []
    for options in ({}, {"kl": 0.2}, {"dual_clip": 1.5}, {"turn_numbers": [0, 0, 1, 1, 1, 2, 2, 3]}):
        given = draw_case(random, [-1, 0, 1], options)
        given["statistics"] = True
        says = ", ".join(["8 tokens", *options])
        cases.append(Case("statistics", says, given))
    return cases


def make_one(ratio: float, advantage: float, options: dict | None = None) -> dict:
    """A token, with new at -2."""
    return {"new": [-2.0], "old": [-2 - math.log(ratio)], "advantages": [advantage], "weights": [1.0],
            "options": options or {}}


def draw_case(random: Random, signs: list[int], options: dict, shift: float = 0.0) -> dict:
    """8 tokens, none of them at the edge of a bound. shift: of the log-ratios."""
    options = dict(options)
    if "kl" in options:
        options["ref"] = [random.uniform(-3, -1) for _ in range(8)]
    given = {"options": options}
    while not given.get("old") or is_near_a_bound(given):
        given["new"] = [random.uniform(-3, -1) for _ in range(8)]
        given["old"] = [new - random.uniform(-1, 1) * (1 + shift) - shift for new in given["new"]]
        given["advantages"] = [random.choice(signs) * random.uniform(0.3, 2) for _ in range(8)]
        given["weights"] = [random.uniform(0.01, 0.3) for _ in range(8)]
    return given


def is_near_a_bound(given: dict) -> bool:
    clip = given["options"].get("clip", 0.2)
    for log_ratio in average(given):
        for bound in (1 - clip, 1 + clip, given["options"].get("dual_clip", 1), math.exp(3)):
            if abs(math.exp(log_ratio) - bound) < 1e-3:
                return True
    return False


# ------------------------------------------------------------------------------------------------------------
# Outputs

def run(given: dict) -> dict:
    import torch

    import rema

    options = dict(given["options"])
    if "ref" in options:
        options["ref"] = torch.tensor(options["ref"], dtype=torch.float64)
    if "turn_numbers" in options:
        options["turn_numbers"] = torch.tensor(options["turn_numbers"])
    tensors = {}
    for name in ("new", "old", "advantages", "weights"):
        tensors[name] = torch.tensor(given[name], dtype=torch.float64)
    new = tensors["new"].requires_grad_()
    result = demand(rema.policy_loss(**tensors, **options), tuple, "the result of policy_loss")
    if len(result) != 2:
        raise Wrong(f"policy_loss returns {len(result)} things, the loss and the statistics are due")
    if given.get("statistics"):
        return read_statistics(result[1], "kl" in options)
    loss = demand(result[0], torch.Tensor, "the loss")
    if not loss.requires_grad:
        raise Wrong("the loss has no gradient: something on its way is no tensor any more, or detached")
    if loss.dim() == 0:
        loss.backward()
    return {"loss": loss, "gradient": new.grad}


def read_statistics(statistics: dict, with_kl: bool) -> dict:
    import torch

    names = ["clip_share"]
    if with_kl:
        names.append("kl")
    found = {}
    for name in names:
        if name not in demand(statistics, dict, "what policy_loss returns beside the loss"):
            raise Wrong(f"there is no {name!r} in the statistics")
        value = demand(statistics[name], torch.Tensor, f"the statistic {name!r}")
        if value.dim() > 0:
            raise Wrong(f"the statistic {name!r} has the shape {list(value.shape)}, a tensor of no dimension is due")
        if value.requires_grad:
            raise Wrong(f"the statistic {name!r} has a gradient")
        found[name] = float(value)
    return found


# ------------------------------------------------------------------------------------------------------------
# What is due: token by token, with derivatives by hand

def expect(given: dict) -> dict:
    turns = get_turns(given)
    kl = given["options"].get("kl", 0.0)
    loss, clipped, divergences = 0.0, 0, []
    gradient = [0.0] * len(turns)
    for i, log_ratio in enumerate(average(given)):
        weight = given["weights"][i]
        gain, slope, was_clipped = compute_gain(log_ratio, given["advantages"][i], given["options"])
        loss -= weight * gain
        clipped += was_clipped
        for j, turn in enumerate(turns):
            if turn == turns[i]:
                gradient[j] -= weight * slope / turns.count(turn)
        if kl:
            difference = given["options"]["ref"][i] - given["new"][i]
            bounded = min(difference, 20.0)
            divergences.append(math.expm1(bounded) - bounded)
            loss += kl * weight * divergences[-1]
            if difference < 20:
                gradient[i] -= kl * weight * math.expm1(difference)
    if given.get("statistics"):
        due = {"clip_share": clipped / len(turns)}
        if kl:
            due["kl"] = fmean(divergences)
        return due
    return {"loss": Tensor(loss, "torch.float64", []), "gradient": Tensor(gradient, "torch.float64", [len(gradient)])}


def compute_gain(log_ratio: float, advantage: float, options: dict) -> tuple[float, float, bool]:
    """Of one token: its gain, the derivative of that by the log-ratio, and whether the clip decided."""
    clip, dual_clip = options.get("clip", 0.2), options.get("dual_clip", 0.0)
    ratio = math.exp(min(log_ratio, 3.0))
    if advantage > 0 and ratio > 1 + clip:
        return (1 + clip) * advantage, 0.0, True
    if advantage < 0 and ratio < 1 - clip:
        return (1 - clip) * advantage, 0.0, True
    if advantage < 0 and 0 < dual_clip < ratio:
        return dual_clip * advantage, 0.0, False
    if log_ratio > 3:
        return ratio * advantage, 0.0, False
    return ratio * advantage, ratio * advantage, False


def get_turns(given: dict) -> list[int]:
    """Without turns each token is one of its own."""
    return given["options"].get("turn_numbers", list(range(len(given["new"]))))


def average(given: dict) -> list[float]:
    """Each token's log-ratio, or the mean of its turn's."""
    log_ratios = [new - old for new, old in zip(given["new"], given["old"])]
    turns = get_turns(given)
    means = []
    for turn in turns:
        means.append(fmean(value for value, other in zip(log_ratios, turns) if other == turn))
    return means


MISTAKES = [
    Mistake("the sign is turned: an optimizer makes a loss smaller, and the gain should grow",
            "-(weights * gain).sum()", "(weights * gain).sum()"),
    Mistake("this is a mean over the tokens: the weights say what each counts, and the sum is due",
            "-(weights * gain).sum()", "-gain.mean()"),
    Mistake("the weights add up to what a batch or a part of it has: do not divide by their number or sum",
            "-(weights * gain).sum()", "-(weights * gain).mean()"),
    Mistake("nothing is clipped here",
            "gain = torch.minimum(ratio * advantages, clipped_ratio * advantages)", "gain = ratio * advantages"),
    Mistake("this is always the clipped product: the smaller of the two is due, or a token that went the wrong way has "
            "no way back",
            "gain = torch.minimum(ratio * advantages, clipped_ratio * advantages)",
            "gain = clipped_ratio * advantages"),
    Mistake("this is the larger of the two products: the smaller one is due",
            "torch.minimum(", "torch.maximum("),
    Mistake("the minimum was taken of the ratios, before they met A: for A < 0 it is the other one",
            "torch.minimum(ratio * advantages, clipped_ratio * advantages)",
            "torch.minimum(ratio, clipped_ratio) * advantages"),
    Mistake("the ratio is upside down: what the token is now, divided by what it was",
            "log_ratio = new - old", "log_ratio = old - new"),
    Mistake("these are log-ratios: exp is missing",
            "torch.exp(log_ratio.clamp(max=3))", "(1 + log_ratio.clamp(max=3))"),
    Mistake("the log-ratio counts as 3 where it is more",
            "log_ratio.clamp(max=3)", "log_ratio"),
    Mistake("the clip is not always 0.2",
            "ratio.clamp(1 - clip, 1 + clip)", "ratio.clamp(0.8, 1.2)"),
    Mistake("this is the KL the other way round: d is ref - new",
            "(ref - new)", "(new - ref)"),
    Mistake("this is new - ref, an estimate of the KL, too, but one that may be negative: k3 is exp(d) - d - 1",
            "torch.exp(difference) - difference - 1", "-difference"),
    Mistake("this is d^2 / 2, an estimate of the KL, too: k3 is exp(d) - d - 1",
            "torch.exp(difference) - difference - 1", "difference ** 2 / 2"),
    Mistake("k3 is weighed like the gain, token by token",
            "kl * (weights * k3).sum()", "kl * k3.mean()"),
    Mistake("the KL is a cost: it is added to the loss",
            "loss + kl", "loss - kl"),
    Mistake("d counts as 20 where it is more",
            "(ref - new).clamp(max=20)", "(ref - new)"),
    Mistake("k3 has no gradient here, so nothing pulls back",
            "kl * (weights * k3).sum()", "kl * (weights * k3).sum().detach()"),
    Mistake("each token has its own ratio here: the tokens of a turn share one",
            "        log_ratio = average_over_turns(log_ratio, turn_numbers)", "        pass"),
    Mistake("this is the arithmetic mean of the ratios: the log-ratios are averaged",
            "average_over_turns(log_ratio, turn_numbers)",
            "average_over_turns(log_ratio.exp(), turn_numbers).log()"),
    Mistake("these are the sums of the turns' log-ratios: their means are due",
            "(sums / counts)", "(sums)"),
    Mistake("the loss is right, the gradient is not: a token moves the ratio of its whole turn, and here only its own",
            "(sums / counts)[turns]", "log_ratio + ((sums / counts)[turns] - log_ratio).detach()"),
    Mistake("the whole batch shares one ratio here: each turn has its own",
            "(sums / counts)[turns]", "log_ratio.mean().expand(len(turns))"),
    Mistake("tokens were bounded before the turn's mean was taken: the mean comes first, then the 3 bounds it",
            "average_over_turns(log_ratio, turn_numbers)", "average_over_turns(log_ratio.clamp(max=3), turn_numbers)"),
    Mistake("dual_clip has no effect here",
            "    if dual_clip: ", "    if False: "),
    Mistake("dual_clip concerns A < 0 only",
            "torch.where(advantages < 0, bounded, gain)", "bounded"),
    Mistake("the bound of a gain is dual_clip A, not a number without A",
            "dual_clip * advantages", "torch.full_like(gain, -dual_clip)"),
    Mistake("the gain is at least dual_clip A, and here it is at most that",
            "torch.maximum(gain", "torch.minimum(gain"),
    Mistake("clip_share counts where the clipped product is the smaller one, not every ratio that left the range",
            "was_clipped = clipped_ratio * advantages < ratio * advantages", "was_clipped = clipped_ratio != ratio"),
    Mistake("clip_share is a share of the tokens, not of their weights",
            "was_clipped.float().mean()", "(was_clipped * weights).sum()"),
    Mistake('the statistic "kl" is the mean of k3 over the tokens: no weights, no factor',
            "k3.mean()", "(weights * k3).sum()"),
]
