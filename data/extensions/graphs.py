"""Experimental (--graphs): a decoding step as a CUDA graph, replayed as a whole instead of launched piece by piece.

A decoding step launches hundreds of small kernels from Python, one after the other, and a fast card waits for them.
A CUDA graph is recorded once and then launched with one call. But it reads and writes the same addresses each time,
and its shapes never change, so

- it looks at all slots of the buffers, also those that are still empty: the mask hides them;
- which slot is written is a number on the card, and so are the tokens, which are copied to where it reads them;
- it is recorded for a number of rows that is a power of two. Rows that have left stand behind the others in the
  buffers; up to that power of two they are computed along, and nobody looks at what comes out.

New buffers mean new graphs: they live as long as the buffers. No card has shown yet what this is worth.
"""
import weakref
from collections.abc import Callable

import torch
from torch import Tensor


class Slots:
    """What a step sees of the buffers: as model.Buffers, but nothing in it depends on how full they are."""

    def __init__(self, real: Tensor, kv: dict[int, Tensor], slot: Tensor):
        self.real = real                 # (R, capacity) bool
        self.kv = kv                     # layer -> keys and values (2, R, K, capacity, C)
        self.slot = slot                 # (1,) which one is written next

    def begin(self, tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """-> positions (R, 1) of the new tokens, what each sees (R, 1, 1, capacity)."""
        self.real.index_fill_(1, self.slot, True)
        positions = self.real.sum(1, keepdim=True) - 1
        return positions, self.real[:, None, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> Tensor:
        kv = self.kv[layer]
        kv.index_copy_(3, self.slot, torch.stack((k, v)))
        return kv


class GraphedStep:
    """Stands in for a model's step: token (n,), its model.Buffers -> logits (n, V) of the next one.

    What it gives is overwritten by the next call.
    """

    def __init__(self, model):
        self.step = model.step           # the eager one
        self.forget()

    def forget(self) -> None:
        """Let go of the buffers, and of the graphs that know their addresses."""
        self.cache = None                # a weak reference: the buffers go when the sampler has done with them
        self.kv = {}
        self.graphs = {}                 # rows -> what replays the step, and where its logits are

    def begin(self, cache) -> None:
        """Take new buffers."""
        self.forget()
        self.cache = weakref.ref(cache, lambda _: self.forget())
        self.real = cache.real
        self.kv = dict(cache.kv)
        self.token = torch.zeros(len(cache.real), dtype=torch.int64, device=cache.real.device)
        self.slot = torch.zeros(1, dtype=torch.int64, device=cache.real.device)

    def knows(self, cache) -> bool:
        """Are these the buffers of the last call, and where they were?"""
        if self.cache is None or self.cache() is not cache:
            return False
        return cache.real.data_ptr() == self.real.data_ptr()         # a conversation may have moved to larger ones

    @torch.no_grad()
    def __call__(self, token: Tensor, cache) -> Tensor:
        if not self.knows(cache):
            self.begin(cache)
        n = len(token)
        rows = min(2 ** (n - 1).bit_length(), len(self.real))
        self.token[:n] = token
        self.slot.fill_(cache.filled)
        cache.filled += 1
        if rows not in self.graphs:
            self.graphs[rows] = self.record(rows)
        replay, logits = self.graphs[rows]
        replay()
        return logits[:n]

    def record(self, rows: int) -> tuple[Callable, Tensor]:
        kv = {layer: buffers[:, :rows] for layer, buffers in self.kv.items()}
        slots = Slots(self.real[:rows], kv, self.slot)
        token = self.token[:rows]
        return capture(lambda: self.step(token, slots))


def capture(work: Callable[[], Tensor]) -> tuple[Callable, Tensor]:
    """Record what work launches -> a function that launches it again, and the tensor that it writes to."""
    stream = torch.cuda.Stream()                     # a first run elsewhere: libraries allocate what they keep
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result
