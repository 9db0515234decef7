import torch
from torch import Tensor


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
    ratio = torch.exp(_cap(log_ratio, 3.0))

    # Index arithmetic: a token is pushed no further where it left the band on the side that pays.
    product = ratio * advantages
    clipped = _band(ratio, clip) * advantages
    flat = clipped < product
    gain = product.clone()
    gain[flat] = clipped[flat]
    statistics = {"clip_share": flat.to(new.dtype).mean()}

    if dual_clip:
        gain = bound_loss(gain, advantages, dual_clip)
    cost = -gain
    if kl:
        d = _cap(ref - new, 20.0)
        k3 = torch.exp(d) - d - 1
        cost = cost + kl * k3
        statistics["kl"] = k3.detach().mean()
    return (weights * cost).sum(), statistics


def _cap(values: Tensor, most: float) -> Tensor:
    """min(values, most), without a gradient where values is above."""
    capped = values.clone()
    capped[values > most] = most
    return capped


def _band(ratio: Tensor, clip: float) -> Tensor:
    """The ratio, held between 1 - clip and 1 + clip, without a gradient outside."""
    held = ratio.clone()
    held[ratio < 1 - clip] = 1 - clip
    held[ratio > 1 + clip] = 1 + clip
    return held


def average_over_turns(log_ratio: Tensor, turns: Tensor) -> Tensor:
    """One log-ratio for all tokens of a turn, their mean (eq. 13) -> (N,), with gradients.

    turns (N,): the number of each token's turn, from 0; tokens of a turn need not stand side by side.

    The ratio is then the geometric mean of the tokens' ratios: the paper writes the arithmetic mean, its code
    and GSPO take this one.
    """
    one_hot = (turns[:, None] == turns.unique()[None, :]).to(log_ratio.dtype)       # (N, turns)
    means = (one_hot.T @ log_ratio) / one_hot.sum(0)
    return one_hot @ means


def bound_loss(gain: Tensor, advantages: Tensor, dual_clip: float) -> Tensor:
    """Where A < 0 the gain of a token is at least dual_clip A, its loss at most dual_clip |A| -> the gains (N,).

    However far a token's ratio has gone: beyond the bound there is no gradient. Where A >= 0 nothing changes.
    """
    least = (dual_clip * advantages).to(gain.dtype)
    beyond = (advantages < 0) & (gain < least)
    bounded = gain.clone()
    bounded[beyond] = least[beyond]
    return bounded
