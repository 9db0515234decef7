import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
import torch
from torch import Tensor
import rewards
from data import UserError


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
    names = [None] * len(values) if kind == "reinforce++" else groups
    members = {name: [value for value, other in zip(values, names) if other == name] for name in set(names)}
    crowds = {name: Crowd.of(shared) for name, shared in members.items()}
    compare = COMPARISONS[kind]
    return [compare(value, crowds[name]) if crowds[name].differ else 0.0 for value, name in zip(values, names)]


@dataclass(frozen=True)
class Crowd:
    """What a reward is compared with."""
    n: int
    mean: float
    std: float
    differ: bool

    @classmethod
    def of(cls, values: list[float]) -> "Crowd":
        n, mean = len(values), math.fsum(values) / len(values)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, n - 1))
        return cls(n, mean, std, any(value != values[0] for value in values))


COMPARISONS: dict[str, Callable[[float, Crowd], float]] = {
    "grpo": lambda value, crowd: (value - crowd.mean) / (crowd.std + 1e-6),
    "dr_grpo": lambda value, crowd: value - crowd.mean,
    "rloo": lambda value, crowd: (value - crowd.mean) * crowd.n / (crowd.n - 1),
    "reinforce++": lambda value, crowd: (value - crowd.mean) / (crowd.std + 1e-6),
}
