import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

import rewards
from data import UserError


def bound_above(x: Tensor, most: float) -> Tensor:
    """min(x, most), without a gradient where the bound holds."""
    return torch.where(x > most, torch.full_like(x, most), x)


def clip_ratio(r: Tensor, clip: float) -> Tensor:
    """r, brought into 1 - clip ... 1 + clip."""
    r = torch.where(r < 1 - clip, torch.full_like(r, 1 - clip), r)
    return bound_above(r, 1 + clip)


def estimate_k3(new: Tensor, ref: Tensor) -> Tensor:
    """KL(new || ref) of each token, never negative."""
    d = bound_above(ref - new, 20)
    return torch.exp(d) - d - 1


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, weights: Tensor,
                clip: float = 0.2, kl: float = 0.0, ref: Tensor | None = None,
                turn_numbers: Tensor | None = None, dual_clip: float = 0.0) -> tuple[Tensor, dict]:
    """The clipped objective with its sign turned, eq. 2 -> (loss, statistics). All tensors (N,), an entry a token.

        r = exp(min(new - old, 3))                                          the ratio, 1 on fresh samples
        gain = min(r A, clip(r, 1 - clip, 1 + clip) A)
        k3 = exp(d) - d - 1 with d = min(ref - new, 20)                     KL(new || ref), never negative
        loss = sum of weight * (-gain + kl * k3)

    new, old, ref: log-probs under the weights that learn, when sampled, and under the first weights.
    turn_numbers: average_over_turns makes one log-ratio a turn of new - old, before the 3 bounds it.
    dual_clip: bound_loss bounds the gain; 0 leaves it as it is. (Both are among the extensions.)
    statistics: clip_share, the share of tokens whose clipped product is less than the other (of the N, not by weight,
    and before bound_loss); where kl is not 0, the mean of k3 as "kl". Neither has a gradient.
    """
    log_ratio = new - old
    if turn_numbers is not None:
        log_ratio = average_over_turns(log_ratio, turn_numbers)
    r = torch.exp(bound_above(log_ratio, 3))

    free = r * advantages
    clipped = clip_ratio(r, clip) * advantages
    is_clipped = clipped < free
    gain = torch.where(is_clipped, clipped, free)
    if dual_clip != 0:
        gain = bound_loss(gain, advantages, dual_clip)

    statistics = {"clip_share": is_clipped.to(new.dtype).mean()}
    cost = -gain
    if kl != 0:
        k3 = estimate_k3(new, ref)
        cost = cost + kl * k3
        statistics["kl"] = k3.detach().mean()
    return (weights * cost).sum(), statistics


def average_over_turns(log_ratio: Tensor, turns: Tensor) -> Tensor:
    """One log-ratio for all tokens of a turn, their mean (eq. 13) -> (N,), with gradients.

    turns (N,): the number of each token's turn, from 0; tokens of a turn need not stand side by side.

    The ratio is then the geometric mean of the tokens' ratios: the paper writes the arithmetic mean, its code
    and GSPO take this one.
    """
    _, position = torch.unique(turns, return_inverse=True)
    count = int(position.max()) + 1 if len(position) else 0
    sums = log_ratio.new_zeros(count).index_add(0, position, log_ratio)
    sizes = log_ratio.new_zeros(count).index_add(0, position, torch.ones_like(log_ratio))
    return (sums / sizes)[position]


def bound_loss(gain: Tensor, advantages: Tensor, dual_clip: float) -> Tensor:
    """Where A < 0 the gain of a token is at least dual_clip A, its loss at most dual_clip |A| -> the gains (N,).

    However far a token's ratio has gone: beyond the bound there is no gradient. Where A >= 0 nothing changes.
    """
    least = dual_clip * advantages
    return torch.where((advantages < 0) & (gain < least), least, gain)
