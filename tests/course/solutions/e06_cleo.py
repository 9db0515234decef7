from data.views import greeting  # noqa: F401  first of all, since torch takes seconds
import hashlib
from argparse import Namespace
from dataclasses import dataclass
from typing import Any
import torch
import torch.distributed as dist
from torch import Generator, Tensor
import rema
from data import UserError
from data.formats.runs import complete_from_run, find_agents
from data.formats.tokenizer import Tokenizer
from data.views.bars import NO_BAR, wait_for
from data.views.program import Parser, add_machine_flags, amount, count, pick_machine, rate
from model import Buffers, Cache, Transformer, compute_logprobs, load
from rema import Episode, Role, Turn


def rollout(agents: list[Agent], rows: list[dict], samples: list[int], *, temperatures: list[float],
            key: tuple = (0,), **how) -> list[Episode]:
    """Let the agents speak one after the other about each row's problem.

    question -> plans -> answers to each plan: agent i draws samples[i] turns, at temperatures[i], for each thing that
    it is shown, which is what its role's prompt makes of the row and of what was said before. It is asked once, by
    sample_turns, with the prompts of all rows and all that was said about them.
    There is an episode for each turn of the last agent, in the order of rows, then of places. Turn number j (from 0)
    about rows[i] has the place (i, j); what answers it has (i, j, 0), (i, j, 1) ... An episode's place is that of its
    last turn. Episodes that begin with the same turn hold the same object.
    rows: dicts with problem, answer, id and, where a problem stands there twice, copy (else 0). key: (seed, step ...).
    Each prompt has a generator of its own (make_generator), which follows from key, the row's id and copy, which
    samples were drawn before (the place without its first number) and the agent's name: not from the place in rows.
    how: what generate takes besides (max_new_tokens, top_p, batch, bar).
    """
    beginnings = [Episode(row, (i,), []) for i, row in enumerate(rows)]
    for agent, n, temperature in zip(agents, samples, temperatures):
        prompts = [agent.role.prompt(beginning.row, beginning.said()) for beginning in beginnings]
        generators = [make_generator(*key, beginning.row["id"], beginning.row.get("copy", 0), beginning.place[1:],
                                     agent.name) for beginning in beginnings]
        groups = sample_turns(agent, prompts, n, generators, temperature=temperature, **how)
        beginnings = [extend(beginning, turn, j) for beginning, group in zip(beginnings, groups)
                      for j, turn in enumerate(group)]
    return beginnings


def extend(beginning: Episode, turn: Turn, number: int) -> Episode:
    """An episode with one turn more, which learns its place."""
    turn.place = (*beginning.place, number)
    return Episode(beginning.row, turn.place, [*beginning.turns, turn])
