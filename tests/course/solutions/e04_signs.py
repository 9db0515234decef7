def policy_loss(new, old, advantages, weights, clip=0.2, kl=0.0, ref=None, turn_numbers=None, dual_clip=0.0):
    """By the sign of A: a cap on good tokens' ratios, a floor under bad ones', no minimum."""
    log_ratio = new - old
    if turn_numbers is not None:
        log_ratio = average_over_turns(log_ratio, turn_numbers)
    ratio = torch.where(log_ratio > 3, torch.full_like(log_ratio, math.exp(3)), log_ratio.exp())
    far = ((advantages > 0) & (ratio > 1 + clip)) | ((advantages < 0) & (ratio < 1 - clip))
    bound = 1 + clip * torch.sign(advantages)
    gain = torch.where(far, bound, ratio) * advantages
    if dual_clip > 0:
        gain = bound_loss(gain, advantages, dual_clip)
    per_token = -gain
    statistics = {"clip_share": far.double().mean()}
    if kl != 0:
        d = torch.minimum(ref - new, torch.full_like(new, 20.0))
        k3 = torch.expm1(d) - d
        per_token = per_token + kl * k3
        statistics["kl"] = k3.detach().mean()
    return torch.dot(weights, per_token), statistics


def average_over_turns(log_ratio, turns):
    same = (turns[:, None] == turns[None, :]).to(log_ratio)
    return same @ log_ratio / same.sum(1)


def bound_loss(gain, advantages, dual_clip):
    worst = dual_clip * advantages
    return torch.where((advantages < 0) & (gain < worst), worst, gain)
