def choose_learners(step: int, agents: int, switch_every: int, first: int = 0) -> list[int]:
    """Positions of the agents that learn at a step (from 0), Algorithm 1: one after the other, from `first` on.

    Each learns for switch_every steps, then the next in speaking order does; after the last one the agent at
    position 0 does. While the others are frozen the learner faces a world that stands still: block coordinate ascent.
    switch_every 0: all of them learn at every step, whatever `first` is. (Phases are of one length: filter_problems in
    train.py and the default of --eval-every count on that.)

    >>> [choose_learners(step, agents=2, switch_every=10) for step in (0, 9, 10, 20)]
    [[0], [0], [1], [0]]
    """
    if switch_every == 0:
        return list(range(agents))
    phase = step // switch_every
    return [(first + phase) % agents]


def choose_samples(learning: list[int], agents: int, sizes: list[int], followers: int = 1) -> list[int]:
    """How many turns each agent draws for each thing that it is shown -> one number an agent.

    learning: the positions of those who learn. Each of them draws a group, of sizes[0], or the agent at position i of
    sizes[i] where each has its own. Who spoke before it (if several learn: before the first of them) draws one, so that
    a group shares everything that was said before; who speaks after it draws `followers`: more of them make the
    learner's reward less noisy. While the high-level agent learns these are G plans and 1 answer to each
    (k1 = G, k2 = 1); while the low-level agent learns, 1 plan and G answers.

    >>> choose_samples([0], 2, [8]), choose_samples([1], 2, [8])
    ([8, 1], [1, 8])
    >>> choose_samples([1], 3, [8], followers=2)
    [1, 8, 2]
    """
    samples = []
    for position in range(agents):
        if position not in learning:
            samples.append(1 if position < min(learning) else followers)
        elif len(sizes) == 1:
            samples.append(sizes[0])
        else:
            samples.append(sizes[position])
    return samples
