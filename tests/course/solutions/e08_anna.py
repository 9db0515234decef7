import rema


def is_worth_learning(successes: list[bool], low: float = 0.2, high: float = 0.8) -> bool:
    """Appendix D.1: a question is kept if it is sometimes solved, and not nearly always.

    successes: of each try (at least one) whether it was right. The share that was has to lie between low and high,
    both included.
    """
    right = 0
    for success in successes:
        if success:
            right += 1
    return low <= right / len(successes) <= high


def choose_tries(agents: int, learner: int) -> tuple[list[int], list[float]]:
    """How problems are tried, by agents in speaking order: how many turns each draws for each thing that it is shown,
    and at what temperature.

    The agent at the position `learner` is about to be trained, so its chances are measured: 10 turns at temperature 1.
    All others, before and after it, say once what is likeliest: 1 turn at temperature 0. That makes 10 tries a problem.

    >>> choose_tries(2, 0)
    ([10, 1], [1.0, 0.0])
    """
    samples, temperatures = [], []
    for position in range(agents):
        if position == learner:
            samples.append(10)
            temperatures.append(1.0)
        else:
            samples.append(1)
            temperatures.append(0.0)
    return samples, temperatures


def choose_pool(rows: list[dict], outcomes: list[list[bool]], questions: int) -> tuple[list[dict], list[dict]]:
    """The rows that are kept, and those that fill the batch where fewer than `questions` are kept.

    outcomes[i]: whether each try at rows[i] was right; rema.is_worth_learning decides by them. Both lists are in the
    order of the rows. The batch is filled with the first of the rows that were not kept, so many that there are
    `questions` rows together, or with all of them where they are too few; with none if enough are kept.
    """
    kept, others = [], []
    for row, tries in zip(rows, outcomes):
        if rema.is_worth_learning(tries):
            kept.append(row)
        else:
            others.append(row)
    missing = questions - len(kept)
    if missing <= 0:
        return kept, []
    return kept, others[:missing]
