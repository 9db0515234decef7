def policy_loss(new, old, advantages, weights, clip=0.2, kl=0.0, ref=None, turn_numbers=None, dual_clip=0.0):
    """Token by token, with Python's min."""
    log_ratios = new - old
    if turn_numbers is not None:
        log_ratios = average_over_turns(log_ratios, turn_numbers)
    loss = 0 * new.sum()
    clipped, divergences = 0, []
    for i in range(len(new)):
        r = torch.exp(min(log_ratios[i], torch.tensor(3.0, dtype=new.dtype)))
        plain = r * advantages[i]
        bounded = min(max(r, torch.tensor(1 - clip, dtype=new.dtype)),
                      torch.tensor(1 + clip, dtype=new.dtype)) * advantages[i]
        gain = bounded if bounded < plain else plain
        clipped += bool(bounded < plain)
        if dual_clip:
            gain = bound_loss(gain[None], advantages[i:i + 1], dual_clip)[0]
        loss = loss - weights[i] * gain
        if kl:
            d = min(ref[i] - new[i], torch.tensor(20.0, dtype=new.dtype))
            divergences.append(torch.exp(d) - d - 1)
            loss = loss + kl * weights[i] * divergences[-1]
    statistics = {"clip_share": torch.tensor(clipped / len(new))}
    if kl:
        statistics["kl"] = torch.stack(divergences).mean().detach()
    return loss, statistics


def average_over_turns(log_ratio, turns):
    numbers = turns.tolist()
    sums, counts = {}, {}
    for number, value in zip(numbers, log_ratio):
        sums[number] = sums.get(number, 0) + value
        counts[number] = counts.get(number, 0) + 1
    return torch.stack([sums[number] / counts[number] for number in numbers])


def bound_loss(gain, advantages, dual_clip):
    return torch.where(advantages < 0, gain.clamp(min=dual_clip * advantages), gain)
