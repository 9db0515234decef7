def choose_learners(step, agents, switch_every, first=0):
    if not switch_every:
        return [position for position in range(agents)]
    position = first
    while step >= switch_every:
        step -= switch_every
        position = position + 1 if position + 1 < agents else 0
    return [position]


def choose_samples(learning, agents, sizes, followers=1):
    first_learner = sorted(learning)[0]
    own = sizes if len(sizes) == agents else [sizes[0] for _ in range(agents)]
    return [own[i] if i in learning else 1 if i < first_learner else followers for i in range(agents)]
