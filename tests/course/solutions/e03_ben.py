import numpy as np


def number_groups(groups: list) -> np.ndarray:
    """Keys of any kind -> numbers 0, 1 ... in the order in which they come."""
    numbers = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def find_dead(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Of each turn whether all of its group earned the same (or it is alone): exactly, without a mean."""
    lowest = np.full(len(values), np.inf)
    highest = np.full(len(values), -np.inf)
    np.minimum.at(lowest, ids, values)
    np.maximum.at(highest, ids, values)
    return (lowest == highest)[ids]


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
    if kind == "reinforce++":
        groups = [None] * len(values)                # the batch is one group
    values = np.asarray(values, dtype=np.float64)
    ids = number_groups(groups)
    sizes = np.bincount(ids, minlength=len(values))[ids]
    others = np.maximum(sizes - 1, 1)
    sums = np.bincount(ids, values, minlength=len(values))[ids]
    deviations = values - sums / sizes
    if kind in ("grpo", "reinforce++"):
        squares = np.bincount(ids, deviations ** 2, minlength=len(values))[ids]
        advantages = deviations / (np.sqrt(squares / others) + 1e-6)
    elif kind == "dr_grpo":
        advantages = deviations
    elif kind == "rloo":
        advantages = values - (sums - values) / others
    else:
        raise ValueError(f"no such kind of advantage: {kind!r}")
    advantages[find_dead(values, ids)] = 0.0
    return advantages.tolist()
