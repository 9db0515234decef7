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
    N = len(new)
    if N == 0:
        return new.sum(), {"clip_share": new.new_zeros(())}

    log_ratio = new - old
    if turn_numbers is not None:
        log_ratio = average_over_turns(log_ratio, turn_numbers)

    gains, clipped_tokens, penalties = [], [], []
    for i in range(N):
        ratio = log_ratio[i].clamp(max=3).exp()
        plain = ratio * advantages[i]
        clipped = ratio.clamp(1 - clip, 1 + clip) * advantages[i]
        gains.append(torch.minimum(plain, clipped))
        clipped_tokens.append((clipped < plain).to(new.dtype))
        if kl != 0:
            d = (ref[i] - new[i]).clamp(max=20)
            penalties.append(d.exp() - d - 1)

    gain = torch.stack(gains)
    if dual_clip != 0:
        gain = bound_loss(gain, advantages, dual_clip)
    cost = -gain
    statistics = {"clip_share": torch.stack(clipped_tokens).mean().detach()}
    if kl != 0:
        k3 = torch.stack(penalties)
        cost = cost + kl * k3
        statistics["kl"] = k3.mean().detach()
    return (weights * cost).sum(), statistics


def average_over_turns(log_ratio: Tensor, turns: Tensor) -> Tensor:
    """One log-ratio for all tokens of a turn, their mean (eq. 13) -> (N,), with gradients.

    turns (N,): the number of each token's turn, from 0; tokens of a turn need not stand side by side.

    The ratio is then the geometric mean of the tokens' ratios: the paper writes the arithmetic mean, its code
    and GSPO take this one.
    """
    members = {}
    for i, number in enumerate(turns.tolist()):
        members.setdefault(number, []).append(log_ratio[i])
    means = {}
    for number, values in members.items():
        means[number] = torch.stack(values).mean()
    if not means:
        return log_ratio
    return torch.stack([means[number] for number in turns.tolist()])


def bound_loss(gain: Tensor, advantages: Tensor, dual_clip: float) -> Tensor:
    """Where A < 0 the gain of a token is at least dual_clip A, its loss at most dual_clip |A| -> the gains (N,).

    However far a token's ratio has gone: beyond the bound there is no gradient. Where A >= 0 nothing changes.
    """
    bounded = []
    for i in range(len(gain)):
        if advantages[i] < 0:
            bounded.append(gain[i].clamp(min=dual_clip * advantages[i]))
        else:
            bounded.append(gain[i])
    if not bounded:
        return gain
    return torch.stack(bounded)
