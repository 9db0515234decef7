import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
import torch
from torch import Tensor
import rewards
from data import UserError
from data.views import greeting  # noqa: F401  first of all, since torch takes seconds
import time
from argparse import Namespace
from pathlib import Path
import torch.distributed as dist
import eval as evaluation
import rema
from data.formats.roles import advise, note_program
from data.formats.runs import (claim_run, complete_line, continue_run, go_back, load_state, refuse_used_run,
                               save_state)
from data.problems.choosing import choose_questions, leave_out_long, split_data
from data.views import bars, report, terminal
from data.views.program import (Parser, add_machine_flags, amount, check_agents, count, count_or_none, interruptible,
                                pick_machine, rate, run_program, skippable)
from data.views.statistics import count_failures, describe_step, log_held_out, log_step
from data.views.bars import say
from model import Transformer, save
from rema import Role, Turn
from rollout import Agent, choose_roles, load_agents, sample_episodes
from itertools import islice


def is_worth_learning(successes: list[bool], low: float = 0.2, high: float = 0.8) -> bool:
    """Appendix D.1: a question is kept if it is sometimes solved, and not nearly always.

    successes: of each try (at least one) whether it was right. The share that was has to lie between low and high,
    both included.
    """
    return low <= sum(successes) / len(successes) <= high


def choose_tries(agents: int, learner: int) -> tuple[list[int], list[float]]:
    """How problems are tried, by agents in speaking order: how many turns each draws for each thing that it is shown,
    and at what temperature.

    The agent at the position `learner` is about to be trained, so its chances are measured: 10 turns at temperature 1.
    All others, before and after it, say once what is likeliest: 1 turn at temperature 0. That makes 10 tries a problem.

    >>> choose_tries(2, 0)
    ([10, 1], [1.0, 0.0])
    """
    ways = [(10, 1.0) if position == learner else (1, 0.0) for position in range(agents)]
    return [turns for turns, _ in ways], [temperature for _, temperature in ways]


def choose_pool(rows: list[dict], outcomes: list[list[bool]], questions: int) -> tuple[list[dict], list[dict]]:
    """The rows that are kept, and those that fill the batch where fewer than `questions` are kept.

    outcomes[i]: whether each try at rows[i] was right; rema.is_worth_learning decides by them. Both lists are in the
    order of the rows. The batch is filled with the first of the rows that were not kept, so many that there are
    `questions` rows together, or with all of them where they are too few; with none if enough are kept.
    """
    worth = [rema.is_worth_learning(tries) for tries in outcomes]
    kept = [row for row, good in zip(rows, worth) if good]
    others = (row for row, good in zip(rows, worth) if not good)
    return kept, list(islice(others, max(0, questions - len(kept))))
