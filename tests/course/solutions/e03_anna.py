import math


def compute_advantages(values: list[float], groups: list, kind: str = "grpo") -> list[float]:
    """Rewards of N turns and the group that each belongs to -> N advantages.

    grpo         (R - group mean) / (group std + 1e-6)                     eq. 2
    dr_grpo      R - group mean                                            arXiv 2503.20783
    rloo         R - mean of the others in the group                       arXiv 2402.14740
    reinforce++  (R - batch mean) / (batch std + 1e-6)                     arXiv 2501.03262
    Standard deviations are the unbiased ones (n - 1). Who is alone in a group, since the others were cut off before
    they spoke, has nothing to be compared with: 0. (train.py refuses groups of one where that would be all of them.)

    >>> compute_advantages([1, 0, 0, 0], ["q"] * 4, "rloo")
    [1.0, -0.3333333333333333, -0.3333333333333333, -0.3333333333333333]
    """
    if kind not in ("grpo", "dr_grpo", "rloo", "reinforce++"):
        raise ValueError(f"there is no advantage {kind!r}")
    members = {}                         # what is compared -> the numbers of the turns in it
    for i in range(len(values)):
        name = "batch"
        if kind != "reinforce++":
            name = groups[i]
        members.setdefault(name, []).append(i)
    advantages = [0.0] * len(values)
    for numbers in members.values():
        compare_members(values, numbers, kind, advantages)
    return advantages


def compare_members(values: list[float], numbers: list[int], kind: str, advantages: list[float]) -> None:
    """Note in `advantages` how the values at `numbers`, which are compared with one another, differ."""
    n = len(numbers)
    total, smallest, largest = 0.0, math.inf, -math.inf
    for i in numbers:
        total += values[i]
        smallest = min(smallest, values[i])
        largest = max(largest, values[i])
    if n == 1 or smallest == largest:
        return                           # nothing to compare: they stay exactly 0
    mean = total / n
    squares = 0.0
    for i in numbers:
        squares += (values[i] - mean) ** 2
    deviation = math.sqrt(squares / (n - 1))
    for i in numbers:
        if kind == "rloo":
            others = (total - values[i]) / (n - 1)
            advantages[i] = float(values[i] - others)
        elif kind == "dr_grpo":
            advantages[i] = float(values[i] - mean)
        else:
            advantages[i] = float((values[i] - mean) / (deviation + 1e-6))
