"""Exercise 3. WRITING.md in the folder above says how such a file is laid out."""
from random import Random
from statistics import fmean, stdev

from data.course.exercises import Case, Mistake, demand

TITLE = "four advantages"
MINUTES = 35
TARGETS = ["rema.compute_advantages"]
PARTS = {"grpo": 3, "dr_grpo": 2, "rloo": 3, "reinforce++": 2}

TEXT = """
A reward alone says little: 0 is good where everybody else earned -1. So each turn is compared with the other turns
that answered the same words, its *group*, and what was better than its group becomes likelier. Papers differ in how
they compare. Write four of the ways in `rema.compute_advantages`; the docstring has the formulas.

What makes it harder than it looks:

- Groups are of different lengths, and the members of one need not stand side by side: `["a", "b", "a"]`. Anything that
  a dict takes as a key can name a group, such as the tuple (0, 1). What a dict keeps apart is two groups: 1 and "1".
- Where all of a group earned the same, and where one is alone in its group, every advantage is exactly 0, not some
  1e-11 that rounding left (0.1 three times has a mean that is not 0.1). For reinforce++ the groups that it is handed
  don't matter: the whole batch is one group, so only where all of the batch earned the same is every advantage 0.
- The result is a plain list of floats in the order of the rewards.

By hand: rewards 1, 0, 0, 0 of one group have the mean 1/4, and the squares of their deviations add up to 3/4. Divided
by n - 1 = 3 that is 1/4, so the standard deviation is 1/2 and grpo's advantages are 1.5, -0.5, -0.5, -0.5 (but for the
0.000001 that is added to the 1/2).
"""

HINTS = [
    "Walk over the groups first, and note for each the places at which its members stand. A dict from the group to a "
    "list of places does it.",
    "Then there is one loop over the groups: their rewards, how many they are, their mean, the square root of the sum "
    "of squares over n - 1. Write into a list of zeros, at the places that you noted. A group of one would divide by 0: "
    "leave its zero.",
    "reinforce++ is grpo with the whole batch as one group. rloo takes (sum of the group - own reward) / (n - 1).",
]


def make_cases(random: Random) -> list[Case]:
    cases = []
    for kind in PARTS:
        one = {"values": [1, 0, 0, 0], "groups": ["q"] * 4, "kind": kind}
        cases.append(Case(kind, "rewards 1, 0, 0, 0 of one group", one))
        values, groups = [], []
        for group, size in enumerate((4, 1, 2, 3, 5)):
            same = random.uniform(-1, 1)
            for _ in range(size):
                if size == 3:
                    values.append(same)
                else:
                    values.append(random.choice((-1, -0.5, 0, 1)) + random.uniform(-0.1, 0.1))
                groups.append(group)
        ordered = {"values": values, "groups": groups, "kind": kind}
        cases.append(Case(kind, "groups of 4, 1, 2, 3 (which earned the same) and 5", ordered))
        order = random.sample(range(15), 15)
        mixed = {"values": [values[i] for i in order], "groups": [groups[i] for i in order], "kind": kind}
        cases.append(Case(kind, "the same groups, members not side by side", mixed))
        says = "rewards 0.1, 0.1, 0.1 of one group"
        cases.append(Case(kind, says, {"values": [0.1] * 3, "groups": ["q"] * 3, "kind": kind}))
        close = {"values": [0.25, 0.25 + 5e-7, 0.25, 0.25 - 5e-7], "groups": ["q"] * 4, "kind": kind}
        cases.append(Case(kind, "rewards that differ by 0.0000005", close))
        # JSON has no tuples: `run` makes them of lists.
        named = {"values": [random.uniform(-1, 1) for _ in range(8)], "kind": kind,
                 "groups": [[0, 1], [0, 2], 1, "1", [0, 1], [0, 2], 1, "1"]}
        cases.append(Case(kind, 'groups that are called (0, 1), (0, 2), 1 and "1"', named))
    return cases


def run(given: dict) -> dict:
    import rema

    groups = []
    for group in given["groups"]:
        groups.append(tuple(group) if isinstance(group, list) else group)
    advantages = rema.compute_advantages(given["values"], groups, given["kind"])
    if len(set(given["values"])) > 1:
        return {"advantages": advantages}
    # Numbers are compared with a tolerance, so whether they are exactly 0 is said beside them.
    dead = all(advantage == 0 for advantage in demand(advantages, list, "the result"))
    return {"advantages": advantages, "all exactly 0": dead}


def expect(given: dict) -> dict:
    """Each advantage by itself, from its definition."""
    values, groups, kind = given["values"], given["groups"], given["kind"]
    expected = []
    for i, value in enumerate(values):
        others = []
        for j, other in enumerate(values):
            if j != i and (kind == "reinforce++" or groups[j] == groups[i]):
                others.append(other)
        everyone = [value, *others]
        if len(set(everyone)) == 1:
            expected.append(0.0)
        elif kind == "rloo":
            expected.append(value - fmean(others))
        elif kind == "dr_grpo":
            expected.append(value - fmean(everyone))
        else:
            expected.append((value - fmean(everyone)) / (stdev(everyone) + 1e-6))
    if len(set(values)) > 1:
        return {"advantages": expected}
    return {"advantages": expected, "all exactly 0": True}


MISTAKES = [
    Mistake("these are the numbers of a mean that includes the sample itself",
            "others = (sum(rewards_of_group) - values[i]) / (G - 1)", "others = mean"),
    Mistake("these are the numbers of a standard deviation over n instead of n - 1",
            "sum(squares) / (G - 1)", "sum(squares) / G"),
    Mistake("these are the numbers of the variance: the square root is missing",
            "(sum(squares) / (G - 1)) ** 0.5", "sum(squares) / (G - 1)"),
    Mistake("these are the numbers without the 0.000001 in the denominator",
            "(std + 1e-6)", "std"),
    Mistake("these are the numbers with the 0.000001 under the square root",
            "(sum(squares) / (G - 1)) ** 0.5", "(sum(squares) / (G - 1) + 1e-6) ** 0.5 - 1e-6"),
    Mistake("these are the numbers of groups, but the whole batch is compared here",
            'if kind == "reinforce++":  ', 'if kind == "nothing":  '),
    Mistake("reinforce++ compares with the whole batch: here who is alone in its group, or in one that earned the "
            "same, still has 0",
            'groups = ["batch"] * len(values)',
            'result = compute_advantages(values, ["batch"] * len(values))\n'
            "        return [result[i] * (len({v for v, other in zip(values, groups) if other == group}) > 1)\n"
            "                for i, group in enumerate(groups)]"),
    Mistake("these are the numbers of groups whose members stand side by side, but they may be apart",
            "members.setdefault(group, [])", "members.setdefault((group, sum(a != b for a, b in zip(groups[:i], "
            "groups[1:i + 1]))), [])"),
    Mistake("these are the numbers of groups by their text, but 1 and \"1\" are two groups",
            "members.setdefault(group, [])", "members.setdefault(str(group), [])"),
    Mistake("where all of a group earned the same, rounding left something here: exactly 0 is due",
            "if min(rewards_of_group) == max(rewards_of_group):", "if G == 1:"),
    Mistake("rewards that are nearly the same count as the same here: only equal ones give 0",
            "if min(rewards_of_group) == max(rewards_of_group):",
            "if max(rewards_of_group) - min(rewards_of_group) < 1e-6 + 1e-12:"),
    Mistake("these are the numbers of the whole batch, but each group is compared by itself",
            'if kind == "reinforce++":  ', "if True:  "),
    Mistake("these are the numbers of advantages in the order of the groups, not of the rewards",
            "    return advantages", "    return [advantages[i] for indices in members.values() for i in indices]"),
    Mistake("these are the numbers with the sign turned: what is better than its group is positive",
            "    return advantages", "    return [-advantage for advantage in advantages]"),
    Mistake("these are the numbers of grpo, but dr_grpo does not divide by the standard deviation",
            "advantages[i] = values[i] - mean", "advantages[i] = (values[i] - mean) / (std + 1e-6)"),
    Mistake("these are the numbers where a turn that was not better than any other keeps its reward, but it gets 0",
            "continue    ", "[advantages.__setitem__(i, values[i]) for i in indices]; continue    "),
]
