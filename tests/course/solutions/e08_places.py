def is_worth_learning(successes, low=0.2, high=0.8):
    right = len([success for success in successes if success])
    share = right / len(successes)
    return not (share < low or share > high)


def choose_tries(agents, learner):
    samples = [10 if position == learner else 1 for position in range(agents)]
    return samples, [1.0 if n == 10 else 0.0 for n in samples]


def choose_pool(rows, outcomes, questions):
    worth = [rema.is_worth_learning(tries) for tries in outcomes]
    kept = [row for row, good in zip(rows, worth) if good]
    others = [row for row, good in zip(rows, worth) if not good]
    filling = []
    while len(kept) + len(filling) < questions and others:
        filling.append(others.pop(0))
    return kept, filling
