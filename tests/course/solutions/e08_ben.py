import rema


def is_worth_learning(successes: list[bool], low: float = 0.2, high: float = 0.8) -> bool:
    """Appendix D.1: a question is kept if it is sometimes solved, and not nearly always.

    successes: of each try (at least one) whether it was right. The share that was has to lie between low and high,
    both included.
    """
    share = sum(successes) / len(successes)
    return low <= share <= high


TRIES = 10                                           # of a problem, by the agent about to learn


def choose_tries(agents: int, learner: int) -> tuple[list[int], list[float]]:
    """How problems are tried, by agents in speaking order: how many turns each draws for each thing that it is shown,
    and at what temperature.

    The agent at the position `learner` is about to be trained, so its chances are measured: 10 turns at temperature 1.
    All others, before and after it, say once what is likeliest: 1 turn at temperature 0. That makes 10 tries a problem.

    >>> choose_tries(2, 0)
    ([10, 1], [1.0, 0.0])
    """
    learns = [position == learner for position in range(agents)]
    return [TRIES if own else 1 for own in learns], [float(own) for own in learns]


def choose_pool(rows: list[dict], outcomes: list[list[bool]], questions: int) -> tuple[list[dict], list[dict]]:
    """The rows that are kept, and those that fill the batch where fewer than `questions` are kept.

    outcomes[i]: whether each try at rows[i] was right; rema.is_worth_learning decides by them. Both lists are in the
    order of the rows. The batch is filled with the first of the rows that were not kept, so many that there are
    `questions` rows together, or with all of them where they are too few; with none if enough are kept.
    """
    worth = [rema.is_worth_learning(tries) for tries in outcomes]
    kept = [row for row, good in zip(rows, worth) if good]
    others = [row for row, good in zip(rows, worth) if not good]
    return kept, others[:max(questions - len(kept), 0)]
