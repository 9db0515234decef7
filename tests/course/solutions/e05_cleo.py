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


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """logits (B, V), uniform (B,) in [0, 1) -> tokens (B,), log-probs (B,) under the distribution drawn from.

    Inverse CDF: the token in whose interval of the cumulative sum, lower end included, the uniform number falls; a
    token without probability is never drawn, however sums are rounded. Temperature 0 is greedy and reports log-probs
    at temperature 1, whatever top_p is. top_p below 1 (see keep_nucleus) is for evaluation only: in training the new
    policy's nucleus would differ from the old one's, and ratios would be 0 or infinite. All of it is computed in the
    logits' type, but in float32 where that is a smaller one.
    (Another way to choose takes another parameter along top_p's way: generate, decode, draw; converse_batch;
    GuidedAgent.)
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature == 0:
        return with_logprobs(logits, logits.argmax(-1))
    scaled = logits / temperature
    probs = scaled.softmax(-1)
    if top_p < 1:
        probs = keep_nucleus(probs, top_p)
        scaled = scaled.masked_fill(probs == 0, -torch.inf)
    return with_logprobs(scaled, invert(probs, uniform))


def with_logprobs(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """tokens (B,) -> the same and their log-probs under logits (B, V)."""
    return tokens, logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """The possible token whose interval holds the uniform number; beyond all intervals the last possible one."""
    possible = probs > 0
    ends_above = possible & (probs.cumsum(-1) > uniform[:, None])
    first_above = ends_above.int().argmax(-1)
    last_possible = probs.shape[-1] - 1 - possible.flip(-1).int().argmax(-1)
    return torch.where(ends_above.any(-1), first_above, last_possible)
