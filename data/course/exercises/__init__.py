"""What the files of the exercises are made of. WRITING.md, a folder above, says how to write one."""
import math
from dataclasses import dataclass
from typing import Any, NamedTuple


class Case(NamedTuple):
    """One call of an exercise's `run`."""
    part: str            # of PARTS: whose points it decides
    says: str            # what a student is told about it: "rewards 1, 0, 0, 0 of one group"
    given: Any           # what `run` and `expect` are handed: numbers, strings, lists, dicts, as JSON has them


class Mistake(NamedTuple):
    """A known way to get it wrong: the targets' source with `old`, which they hold once, replaced by `new`."""
    says: str            # "these are the numbers of a mean that includes the sample itself"
    old: str
    new: str


@dataclass
class Tensor:
    """What `expect` returns where a tensor is due: torch's import would take the parent seconds and 300 MB.

    child.flatten knows a tensor by the name of its type, so it takes this one for torch's.

        Tensor([0.5, -0.5], "torch.float64", [2])
    """
    values: Any          # a number, or a list
    dtype: str
    shape: list[int]

    def numel(self) -> int:
        return math.prod(self.shape)

    def tolist(self) -> Any:
        return self.values


class Wrong(Exception):
    """`run` raises it for what is no output at all; the message is what the student is told."""


def demand(value, kind: type, name: str):
    """The value, if it is of a kind: before `run` does more with what a student's function gave it.

        loss = demand(loss, torch.Tensor, "the loss")        -> Wrong: the loss is of type float, Tensor is due
    """
    if not isinstance(value, kind):
        raise Wrong(f"{name} is of type {type(value).__name__}, {kind.__name__} is due")
    return value
