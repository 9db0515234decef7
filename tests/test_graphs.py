"""CUDA graphs of a decoding step, as far as that can be shown without a card: graphs.capture is replaced by running again.

What a graph needs is that a step reads and writes the same places each time, waits for nothing, and leaves nothing behind.
"""
import gc
import weakref
from dataclasses import replace

import card
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import model as models
import rema
import rollout
from data.extensions import graphs, memory
from data.formats.hub import TINY
from data.formats.tokenizer import Tokenizer


class Recorder:
    """In place of graphs.capture: what is replayed is run again, its result written to the same tensor."""

    def __init__(self):
        self.replayed = 0

    def __call__(self, work):
        result = work().clone()

        def replay():
            self.replayed += 1
            result.copy_(work())
        return replay, result


@pytest.fixture
def recorder(monkeypatch):
    found = Recorder()
    monkeypatch.setattr(graphs, "capture", found)
    return found


def make_model(dtype=torch.float64):
    config = replace(memory.config_of("tiny"), layers=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=64)
    made = models.Transformer(config)
    models.init_weights(made, torch.Generator().manual_seed(0))
    return made.to(dtype)


def sample(model, new=24):
    stops = range(0, 528, 12)
    groups = rollout.generate(model, [[5, 6, 7], [8, 9, 10, 11], [12]], 5, max_new_tokens=new, stop_ids=stops, batch=10)
    return [(turn.tokens, turn.stopped) for group in groups for turn in group]


def test_samples_are_those_of_the_eager_step(recorder):
    """Rows leave on the way, and prompts come in two batches."""
    model = make_model()
    plain = sample(model)
    assert len({len(tokens) for tokens, _ in plain}) > 5
    model.step = graphs.GraphedStep(model)
    assert sample(model) == plain and recorder.replayed > 24


def test_conversations_are_the_same(recorder):
    """Their buffers grow between turns, and what was drawn behind a row's end is hidden."""
    tokenizer = Tokenizer.load(TINY)
    agents = [rollout.Agent(role, make_model(), tokenizer) for role in (rema.HIGH_TURNS, rema.LOW_TURNS)]
    rows = [{"id": str(i), "problem": f"{i}+1", "answer": "1"} for i in range(3)]
    how = dict(temperatures=[1.0, 1.0], max_new_tokens=8)
    plain = rollout.converse(agents, rows, 2, 3, **how)
    for agent in agents:
        agent.model.step = graphs.GraphedStep(agent.model)
    again = rollout.converse(agents, rows, 2, 3, **how)
    assert [[turn.tokens for turn in episode.turns] for episode in plain] == [
        [turn.tokens for turn in episode.turns] for episode in again]


def test_graphs_are_of_powers_of_two_and_go_with_their_buffers(recorder):
    model = make_model()
    model.step = step = graphs.GraphedStep(model)
    with torch.no_grad():
        cache = rollout.prefill(model, [[5, 6]] * 11)[0].repeat(1, 9)
        for rows in (11, 9, 8, 5, 3, 1):
            if rows < 11:
                cache.keep(torch.arange(rows))
            assert step(torch.ones(rows, dtype=torch.int64), cache).shape == (rows, model.config.vocab_size)
    assert sorted(step.graphs) == [1, 4, 8, 11]
    buffers = weakref.ref(cache.kv[0].untyped_storage())
    kv = weakref.ref(step.kv[0])
    del cache
    gc.collect()
    assert kv() is None and not step.graphs and step.cache is None, buffers


class Places(TorchDispatchMode):
    """Notes what each operation wrote in place, and which tensors were made."""

    def __init__(self):
        super().__init__()
        self.written, self.made = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = str(func).split(".")[1]
        if func._schema.is_mutable and name != "add_":       # which a norm does to what it has just made
            self.written.append((name, args[0].data_ptr()))
        elif isinstance(result, torch.Tensor):
            self.made.append(weakref.ref(result))
        return result


def test_a_step_keeps_its_places_and_leaves_nothing_behind(recorder):
    model = make_model()
    step = graphs.GraphedStep(model)
    found = []
    with torch.no_grad():
        cache = rollout.prefill(model, [[5, 6, 7], [8, 9]])[0].repeat(2, 9)
        step(torch.tensor([1, 2, 3, 4]), cache)              # records
        replay, logits = step.graphs[4]
        for i in range(3):
            step.slot.fill_(cache.filled + i)
            with Places() as places:
                replay()
            found.append((places.written, logits.data_ptr()))
            assert len(places.made) > 50 and not [one for one in places.made if one() is not None]
    assert found[0] == found[1] == found[2]
    # real, keys and values of both layers, logits
    assert [name for name, _ in found[0][0]] == ["index_fill_", "index_copy_", "index_copy_", "copy_"]


def test_a_replay_never_waits(recorder):
    with card.pretend() as here:
        model, _ = models.load("tiny", "cuda", torch.bfloat16)
        step = graphs.GraphedStep(model)
        with torch.inference_mode():
            cache = rollout.prefill(model, [[5, 6, 7], [8, 9]])[0].repeat(2, 9)
            token = torch.ones(4, dtype=torch.int64, device="cuda")
            step(token, cache)
            before = here.waits.total()
            step(token, cache)
        assert here.waits.total() == before


def test_without_a_card_it_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        rollout.main(["1+1", "--graphs", "--device", "cpu"])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and lines[-1].endswith("--graphs is for a CUDA card: leave it away")
