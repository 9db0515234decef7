"""The programs on a card, as far as that can be shown without one: see card.py."""
import os
import pathlib
from dataclasses import replace

import card
import pytest
import torch

import eval as evaluation
import model
import rema
import rollout
import train
from data.extensions import memory
from data.formats.hub import TINY
from data.formats.tokenizer import Tokenizer

FEW = ["--questions", "2", "--group", "2", "--eval-questions", "2", "--eval-every", "9", "--max-new-tokens", "10",
       "--device", "cuda", "--warmup", "1", "--batch", "4"]
slow = pytest.mark.skipif(not os.environ.get("REMA_SLOW"), reason="takes minutes: REMA_SLOW=1 runs it")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The embedded model's tokenizer and a model of two layers with random weights, for speed."""
    config = replace(memory.config_of("tiny"), layers=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=64)
    made = model.Transformer(config)
    model.init_weights(made, torch.Generator().manual_seed(0))
    directory = tmp_path_factory.mktemp("models") / "small"
    model.save(made, Tokenizer.load(TINY), directory)
    return str(directory)


def alternate(turns, kind):
    """Advantages of which no group is dead, so that every update happens."""
    for i, turn in enumerate(turns):
        turn.advantage = (-1.0) ** i


class Watch:
    """Notes of each update who learned, who changed, and on which device masters and moments lay."""

    def __init__(self, monkeypatch):
        self.agents, self.notes = [], []
        load, update = train.load_learners, train.update

        def load_learners(*args):
            self.agents = load(*args)
            return self.agents

        def watched(agent, turns, args):
            before = self.copy_weights()
            found = update(agent, turns, args)
            changed = [name for name, weight in self.copy_weights().items() if not weight.equal(before[name])]
            self.notes.append({"learner": agent.name, "changed": changed, "norm": found["grad_norm"],
                               "devices": self.find_devices(), "types": self.find_types()})
            return found
        monkeypatch.setattr(train, "load_learners", load_learners)
        monkeypatch.setattr(train, "update", watched)

    def copy_weights(self):
        return {agent.name: agent.optimizer.weights[0].detach().cpu().clone() for agent in self.agents}

    def find_devices(self):
        """Name of each agent -> devices of its masters and moments."""
        devices = {}
        for agent in self.agents:
            optimizer = agent.optimizer
            tensors = list(optimizer.masters)
            for moments in optimizer.adamw.state.values():
                tensors += moments.values()
            devices[agent.name] = {tensor.device.type for tensor in tensors}
        return devices

    def find_types(self):
        optimizer = self.agents[0].optimizer
        return optimizer.weights[0].dtype, optimizer.masters[0].dtype


def run(*flags):
    """train.py on the pretend card, mistakes as they are -> what the card counted."""
    with card.pretend() as here:
        train.program([*flags], None, alternate)
    return here


# ------------------------------------------------------------------------------------------------------------
# The card itself

def test_it_refuses_what_a_card_refuses():
    with card.pretend():
        here, there = torch.ones(2, 2), torch.ones(2, 2, device="cuda")
        assert there.device == torch.device("cuda:0") and there.is_cuda and there.cpu().device.type == "cpu"
        for mixed in (lambda: here + there, lambda: here @ there, lambda: here[there.long()],
                      lambda: torch.cat((here, there)), lambda: there.index_select(0, torch.tensor([0])),
                      lambda: torch.rand(2, device="cuda", generator=torch.Generator()), lambda: there.numpy()):
            with pytest.raises((RuntimeError, TypeError)):
                mixed()
        assert (there * torch.tensor(2.0)).sum().item() == 8                   # a CPU number may mix
        weight = torch.nn.Parameter(there.clone())
        for fused in (True, False):
            adamw = torch.optim.AdamW([weight], fused=fused)
            weight.grad = there.clone()
            adamw.step()
            adamw.state[weight]["step"] = adamw.state[weight]["step"].cpu()
            if fused:
                with pytest.raises(RuntimeError):
                    adamw.step()


def test_it_counts():
    with card.pretend() as here:
        x = torch.tensor([[1.0, 0.0]], device="cuda")
        assert here.waits["copy"] == 1
        x.T.reshape(2), x[0], x.view(2)                      # views
        assert sum(here.launches.values()) == here.launches["_to_copy"] == 1
        x[x > 0], x.tolist(), x.sum().item(), x.cpu(), x.cpu()
        assert {name: n for name, n in here.waits.items() if n} == {
            "copy": 3, "boolean index": 1, "tolist": 1, "_local_scalar_dense": 1}
        before = here.bytes
        big = torch.zeros(1000, device="cuda")
        views = [big[1:], big.view(10, 100)]
        assert here.bytes == before + 4000
        del big
        assert here.bytes == before + 4000
        del views
        assert here.bytes == before and here.peak >= before + 4000


# ------------------------------------------------------------------------------------------------------------
# Runs

def test_a_run_changes_its_learner_saves_and_resumes(small, tmp_path, monkeypatch):
    """bfloat16 weights, float32 masters. Who is frozen has nothing but weights on the card."""
    watch = Watch(monkeypatch)
    out = str(tmp_path / "run")
    here = run("--model", small, *FEW, "--steps", "3", "--switch-every", "1", "--data", "arithmetic", "--out", out)
    assert here.peak > 0
    run("--resume", out, "--steps", "5")
    assert [note["learner"] for note in watch.notes] == ["high", "low", "high", "low", "high"]
    for note in watch.notes:
        assert note["changed"] == [note["learner"]] and note["norm"] > 0
        assert note["types"] == (torch.bfloat16, torch.float32)
        other = {"high": "low", "low": "high"}[note["learner"]]
        assert note["devices"][note["learner"]] == {"cuda"} and note["devices"][other] == {"cpu"}
    saved, _ = model.load(f"{out}/high")
    assert saved.lm_head.weight.dtype == torch.float32


def test_a_run_with_shared_weights(small, tmp_path, monkeypatch):
    watch = Watch(monkeypatch)
    run("--model", small, *FEW, "--steps", "2", "--share", "--data", "arithmetic", "--out", str(tmp_path / "run"))
    assert len(watch.notes) == 2 and all(note["norm"] > 0 and note["changed"] for note in watch.notes)


def test_float32_on_the_card_draws_the_cpus_tokens(small):
    prompts = [[5, 6, 7], [8, 9], [5, 6]]
    there = []
    with card.pretend():
        learner, _ = model.load(small, "cuda")
        there = rollout.generate(learner, prompts, 2, max_new_tokens=20, stop_ids=(3,))
        [turns] = [[turn for group in there for turn in group]]
        logprobs, _ = rollout.batch_logprobs(learner, turns)
        again = logprobs.tolist()
    learner, _ = model.load(small)
    here = rollout.generate(learner, prompts, 2, max_new_tokens=20, stop_ids=(3,))
    sampled = []
    for on_card, on_cpu in zip(there, here):
        for turn, other in zip(on_card, on_cpu):
            assert turn.tokens == other.tokens and turn.stopped == other.stopped
            assert turn.logprobs == pytest.approx(other.logprobs, abs=1e-4)
            sampled += turn.logprobs
    assert again == pytest.approx(sampled, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------
# Waits: the host runs ahead of a card, so that it never has to wait for work, unless it asks

def count_waits(work):
    with card.pretend() as here:
        before = here.waits.total()
        work()
        return here.waits.total() - before


def test_sampling_seldom_waits(small):
    """A look at who is done every 16 tokens, and what goes in and comes out."""
    with card.pretend() as here:
        sampler, _ = model.load(small, "cuda", torch.bfloat16)
        waits = {}
        for new in (32, 128):
            before = here.waits.total()
            rollout.generate(sampler, [[5, 6, 7], [8, 9]], 2, max_new_tokens=new, stop_ids=(527,))
            waits[new] = here.waits.total() - before
            print(new, waits, +here.waits)
    assert waits[128] < 128 / 8
