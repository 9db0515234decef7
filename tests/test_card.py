"""The programs on a card, as far as that can be shown without one: see card.py."""
import json
import os
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import card
import gpu
import pytest
import torch

import eval as evaluation
import model
import rema
import rollout
import train
from data.extensions import memory
from data.formats.files import release_locks
from data.formats.hub import TINY
from data.formats.tokenizer import Tokenizer
from data.views.program import pick_device, run_program

FEW = ["--questions", "2", "--group", "2", "--eval-questions", "2", "--eval-every", "9", "--max-new-tokens", "6",
       "--device", "cuda", "--warmup", "1", "--batch", "4"]
slow = pytest.mark.skipif(not os.environ.get("REMA_SLOW"), reason="takes minutes: REMA_SLOW=1 runs it")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The embedded model's tokenizer and a model of one layer with random weights, for speed."""
    config = replace(memory.config_of("tiny"), layers=1, width=32, heads=4, kv_heads=2, head_width=8, hidden=64)
    made = model.Transformer(config)
    model.init_weights(made, torch.Generator().manual_seed(0))
    directory = tmp_path_factory.mktemp("models") / "small"
    model.save(made, Tokenizer.load(TINY), directory)
    return str(directory)


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """A file of a few problems: the generated ones are thousands, each of which has to be measured."""
    rows = [{"problem": f"{i}+{i * i}", "answer": str(i + i * i)} for i in range(40)]
    path = tmp_path_factory.mktemp("problems") / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


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
    """train.py on the pretend card, mistakes as they are -> what the card counted.

    Without what comes after the card's work: diagnostics (test_evaluations has them), report and curves.
    """
    with card.pretend() as here, mock.patch.object(train, "AFTER", []), mock.patch.object(train.report, "leave_report"):
        try:
            train.program([*flags], None, alternate)
        finally:
            release_locks()
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

def test_a_run_changes_its_learner_saves_and_resumes(small, sums, tmp_path, monkeypatch):
    """bfloat16 weights, float32 masters. Who is frozen has nothing but weights on the card."""
    watch = Watch(monkeypatch)
    out = str(tmp_path / "run")
    here = run("--model", small, *FEW, "--steps", "3", "--switch-every", "1", "--data", sums, "--out", out)
    assert here.peak > 0
    run("--resume", out, "--steps", "4")
    assert [note["learner"] for note in watch.notes] == ["high", "low", "high", "low"]
    for note in watch.notes:
        assert note["changed"] == [note["learner"]] and note["norm"] > 0
        assert note["types"] == (torch.bfloat16, torch.float32)
        other = {"high": "low", "low": "high"}[note["learner"]]
        assert note["devices"][note["learner"]] == {"cuda"} and note["devices"][other] == {"cpu"}
    saved, _ = model.load(f"{out}/high")
    assert saved.lm_head.weight.dtype == torch.float32


def test_a_run_with_shared_weights(small, sums, tmp_path, monkeypatch):
    watch = Watch(monkeypatch)
    run("--model", small, *FEW, "--steps", "2", "--share", "--data", sums, "--out", str(tmp_path / "run"))
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

def make_turns(new):
    """Two groups of two turns."""
    turns = []
    for i in range(4):
        prompt = [[5, 6, 7], [8, 9]][i // 2]
        turns.append(rema.Turn(prompt, [10 + i] * (new - i), [-1.0] * (new - i), True, advantage=(-1.0) ** i))
    return turns


def test_sampling_seldom_waits(small):
    """A look at who is done every 16 tokens, and what goes in and comes out: fewer than one in eight steps."""
    with card.pretend() as here:
        sampler, _ = model.load(small, "cuda", torch.bfloat16)
        sampler(torch.tensor([[5]], device="cuda"))          # makes the angles of positions, once a model
        before = here.waits.total()
        rollout.generate(sampler, [[5, 6, 7], [8, 9]], 2, max_new_tokens=128, stop_ids=(527,))
        found = here.waits.total() - before
    assert 128 / 16 <= found < 128 / 8


def test_rows_leave_without_waiting(small):
    """Whether any are done is asked once for 16 tokens, and which once for all layers."""
    with card.pretend() as here:
        sampler, _ = model.load(small, "cuda", torch.bfloat16)
        sampler(torch.tensor([[5]], device="cuda"))
        before = here.waits.total()
        groups = rollout.generate(sampler, [[5, 6, 7], [8, 9]], 8, max_new_tokens=48, stop_ids=range(0, 528, 16))
        found = here.waits.total() - before
    ended = [turn.stopped and len(turn.tokens) < 32 for group in groups for turn in group]
    assert 2 <= sum(ended) < 16 and here.waits["boolean index"] == 0
    assert found <= 9 + 48 / 16


def count_waits_of_an_update(learner, args, micro_tokens):
    args.micro_tokens = micro_tokens
    before = card.state.waits.total()
    train.update(learner, make_turns(9), args)
    return card.state.waits.total() - before


@pytest.mark.parametrize("flags, most", [([], 5), (["--checkpointing", "--ratio", "turn"], 8),
                                         (["--lora", "2", "--kl", "0.1"], 12)])
def test_learning_seldom_waits(small, flags, most):
    """At most 12 times a micro-batch, for what goes in, with KL for the reference again.

    Statistics and the gradient's norm are asked for once an update.
    """
    with card.pretend():
        args = train.parse(["--model", small, "--process", "vrp", *FEW, *flags])
        [learner] = train.load_learners(args, rema.PROCESSES["vrp"])
        whole = count_waits_of_an_update(learner, args, 10 ** 6)
        cut = count_waits_of_an_update(learner, args, 1)                       # four micro-batches
    assert (cut - whole) / 3 <= most and whole <= most + 5


def test_guided_plans_seldom_wait(small):
    with card.pretend() as here:
        args = rollout.parse(["1", "--model", small, "--device", "cuda"])
        agents = rollout.load_agents(small, rema.PROCESSES["rema"], args)
        rollout.guide_plans(agents)
        generators = [rollout.make_generator(i) for i in range(2)]
        agents[0].model(torch.tensor([[5]], device="cuda"))  # makes the angles of positions
        before = here.waits.total()
        agents[0].generate([[5, 6], [7]], 2, max_new_tokens=160, generator=generators)
        assert here.waits.total() - before < 160 / 8


# ------------------------------------------------------------------------------------------------------------
# Which device

def test_a_second_card_is_a_card():
    with card.pretend():
        for name in ("cuda", "cuda:0", "cuda:1"):
            args = train.parse(["--device", name, "--model", "llama-1b"])
            assert args.dtype == "bfloat16" and args.checkpointing and args.micro_tokens == 16384
        args = train.parse(["--device", "cpu", "--model", "llama-1b"])
        assert args.dtype == "float32" and not args.checkpointing and args.micro_tokens == 1200


@pytest.mark.parametrize("device, backend", [("cpu", "gloo"), ("cuda", "nccl"), ("cuda:1", "nccl")])
def test_processes_talk_as_their_device_wants(monkeypatch, device, backend):
    """torchrun --device cpu on a machine with cards: NCCL has no CPU."""
    found = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(train.dist, "init_process_group", found.append)
    monkeypatch.setattr(train.processes, "join", mock.Mock())
    monkeypatch.setattr(train.atexit, "register", lambda _: None)
    monkeypatch.setattr(train.processes, "Watch", lambda args: SimpleNamespace(rank=0, tell=None, finish=None))
    monkeypatch.setattr(train.processes, "program", SimpleNamespace(ON_FAILURE=[]))
    monkeypatch.setattr(train.processes.signal, "signal", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    with card.pretend():
        train.parse(["--device", device])
    assert [call for call in found if call != 0] == [backend]
    assert backend == "gloo" or found[0] == 0                                  # its own card, before all else


def test_a_process_takes_its_own_card_before_it_asks_any(monkeypatch):
    """Whoever makes a tensor on "cuda" before has a context on the first card, as every other process would."""
    found = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: found.append(device) or torch.ones(1))
    with card.pretend():
        assert pick_device(None) == "cuda" and found == [3, "cuda"]
        found.clear()
        assert pick_device("cpu") == "cpu" and found == ["cpu"]


def test_what_cannot_be_drawn_is_not_drawn():
    """A parallel sum may rise where a probability is 0, by rounding: here at token 1 and at token 3, and fall at 4."""
    probs = torch.tensor([[0.5, 0.0, 0.25, 0.0, 0.25, 0.0]])
    cdf = torch.tensor([[0.5, 0.5000001, 0.75, 0.7500001, 1.0, 0.9999999]])
    for u in (0.1, 0.5, 0.50000005, 0.6, 0.75, 0.75000005, 0.9, 0.99999985):
        token = torch.searchsorted(cdf, torch.tensor([[u]]), right=True)
        assert token < 6
        [[drawn]] = rollout.avoid_impossible(token, probs).tolist()
        assert drawn in (0, 2, 4) and (drawn == token or probs[0, token] == 0)


def test_a_card_draws_by_that_rule(monkeypatch):
    asked = []
    monkeypatch.setattr(rollout, "avoid_impossible", lambda tokens, probs: asked.append(tokens.shape) or tokens)
    logits, uniform = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 0.9])
    rollout.draw(logits, uniform, 1.0, 1.0)
    assert asked == []
    with card.pretend():
        rollout.draw(logits.to("cuda"), uniform.to("cuda"), 1.0, 1.0)
    assert asked == [(3, 1)]


def test_when_the_cards_memory_is_full(capsys):
    def fill(argv):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB ...")
    with pytest.raises(SystemExit) as ended:
        run_program(fill, [], "train.py")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert all(flag in said for flag in ("--fit", "--batch", "--micro-tokens", "--lora"))


# ------------------------------------------------------------------------------------------------------------
# Launches: a decoding step of a small batch lasts as long as its kernels take to be launched

def count_kernels_of_a_step(family, layers):
    """From one token to the next, with the draw and all that is noted of it."""
    config = replace(memory.config_of("tiny"), layers=layers, width=32, heads=4, kv_heads=2, head_width=8, hidden=64,
                     family=family, qkv_bias=family == "qwen2", qk_norm=family == "qwen3")
    made = model.Transformer(config)
    model.init_weights(made, torch.Generator().manual_seed(0))
    weights = {name: weight.detach() for name, weight in made.named_parameters() if not name.startswith("lm_head")}
    with card.pretend() as here:
        moved = {}
        for name, weight in weights.items():
            moved[name] = torch.nn.Parameter(weight.to("cuda", torch.bfloat16))
        sampler = model.assemble(config, moved)
        counts = []
        sampler(torch.tensor([[5]], device="cuda"))
        for new in (3, 5):
            before = here.launches.total()
            rollout.generate(sampler, [[5, 6, 7], [8, 9]], 2, max_new_tokens=new, stop_ids=(527,))
            counts.append(here.launches.total() - before)
    return (counts[1] - counts[0]) / 2


@pytest.mark.parametrize("family, most", [("llama", 480), ("qwen2", 480), ("qwen3", 544)])
def test_kernels_of_a_decoding_step(family, most):
    """Of a model of 16 layers, which all launch the same ones: counted with 1 and 3."""
    one, three = count_kernels_of_a_step(family, 1), count_kernels_of_a_step(family, 3)
    found = one + 15 * (three - one) / 2
    print(f"{family}: {found:.0f} kernels")
    assert found <= most


# ------------------------------------------------------------------------------------------------------------
# Memory: of the tensors on the card, what autograd keeps among them, against what --fit says for a card's settings

@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    """Large enough for its matrices to matter, and small enough for seconds."""
    config = replace(memory.config_of("tiny"), layers=2, width=64, heads=4, kv_heads=2, head_width=16, hidden=192)
    made = model.Transformer(config)
    model.init_weights(made, torch.Generator().manual_seed(0))
    directory = tmp_path_factory.mktemp("models") / "middle"
    model.save(made, Tokenizer.load(TINY), directory)
    return str(directory)


@pytest.mark.parametrize("flags", [
    ["--checkpointing"], ["--lora", "4", "--checkpointing"],
    pytest.param(["--no-checkpointing", "--micro-tokens", "500"], marks=slow),
    pytest.param(["--lora", "4", "--no-checkpointing"], marks=slow),
    pytest.param(["--dtype", "float32", "--no-checkpointing"], marks=slow)])
def test_a_card_holds_what_fit_says(middle, flags):
    """Two agents that learn in turn: a prompt of its own for each of 16 rows sampled, 4 groups of 4 learned."""
    Tp, T = 60, 20
    with card.pretend() as here:
        args = train.parse(["--model", middle, "--device", "cuda", "--questions", "4", "--group", "4",
                            "--max-new-tokens", str(T), *flags])
        rests = args.dtype == "bfloat16" and not args.lora
        said = memory.estimate(memory.config_of(middle), agents=2, dtype=args.dtype, lora=args.lora, questions=4, group=4,
                               prompt_tokens=Tp, new_tokens=T, batch=16, micro_tokens=args.micro_tokens,
                               checkpointing=args.checkpointing, offload=rests)
        agents = train.load_learners(args, rema.PROCESSES["rema"])
        held = said["weights"] + said["adapters"] + said["optimizer"]
        prompts = []
        for i in range(4):
            prompts += [[i + 5] * Tp] * 4
        found = {"change": 0}
        for position in (0, 1, 0):                   # moments come with each agent's first update
            here.peak = here.bytes
            if rests:
                train.move_optimizers(agents, [position], "cuda")
            found["change"] = max(found["change"], here.peak)
            here.peak = here.bytes
            groups = rollout.generate(agents[position].model, prompts, max_new_tokens=T)
            found["sampling"], here.peak = here.peak, here.bytes
            turns = [turn for [turn] in groups]
            alternate(turns, None)
            train.update(agents[position], turns, args)
            found["learning"] = here.peak
    wanted = {"sampling": held + said["sampling"], "learning": held + said["learning"]}
    for phase, size in wanted.items():
        print(f"{phase}: --fit says {size / 1e6:.2f} MB, {found[phase] / 1e6:.2f} MB were held")
        assert size == pytest.approx(found[phase], rel=0.15), phase
    assert found["change"] <= 1.01 * held


def test_a_resumed_run_reads_moments_into_memory(small, sums, tmp_path):
    """Moments of all agents at once would be 16 bytes a weight more than --fit says."""
    out = str(tmp_path / "run")
    run("--model", small, *FEW, "--data", sums, "--steps", "2", "--switch-every", "1", "--out", out)
    weights = memory.parameters(memory.config_of(small))
    with card.pretend() as here:
        args = train.parse(["--resume", out])
        agents = train.load_learners(args, rema.PROCESSES["rema"])
        here.peak = here.bytes
        train.Run(args, agents, []).restore()
        assert here.bytes <= 2 * 2 * weights + 1000                            # both agents' weights, nothing else
        assert here.peak <= 2 * (2 + 4) * weights + 1000                       # and the masters, as they were made


# ------------------------------------------------------------------------------------------------------------
# All else that the programs do

SLOW = {
    "adapters with KL": ["--lora", "2", "--kl", "0.1", "--switch-every", "1"],
    "full weights with KL": ["--kl", "0.1", "--switch-every", "0"],
    "conversations": ["--turns", "2", "--ratio", "turn", "--normalise", "turn", "--switch-every", "0"],
    "conversations that share": ["--turns", "2", "--share", "--dual-clip", "3"],
    "guided plans": ["--plan-format", "json", "--max-new-tokens", "40", "--switch-every", "1"],
    "filter": ["--filter", "2", "--switch-every", "1"],
    "checkpointing": ["--checkpointing", "--dtype", "float32"],
    "several updates": ["--updates", "2", "--advantage", "reinforce++", "--micro-tokens", "60"],
    "one agent, adapters on float32": ["--process", "mrp", "--lora", "2", "--dtype", "float32"],
    "the second card": ["--device", "cuda:0", "--followers", "2"]}


@slow
@pytest.mark.parametrize("name", SLOW)
def test_every_way_to_train(small, tmp_path, monkeypatch, name):
    watch = Watch(monkeypatch)
    run("--model", small, *FEW, "--data", "arithmetic", "--steps", "2", *SLOW[name], "--out", str(tmp_path / "run"))
    assert len(watch.notes) >= 2 and all(note["norm"] > 0 for note in watch.notes)


@slow
def test_a_warm_start(small, tmp_path, monkeypatch):
    lesson = {"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]}
    (tmp_path / "lessons.jsonl").write_text(json.dumps(lesson) + "\n" + json.dumps(lesson) + "\n")
    watch = Watch(monkeypatch)
    run("--model", small, *FEW, "--data", "arithmetic", "--steps", "1", "--sft", str(tmp_path / "lessons.jsonl"),
        "--out", str(tmp_path / "run"))
    assert watch.notes[0]["devices"]["high"] == {"cuda"}


@slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_evaluations(small, tmp_path, dtype):
    """Votes, diagnostics and judge tasks; one episode to look at."""
    rows = [{"problem": f"Which is right? A: {i} B: 2", "answer": "A", "judge": True} for i in range(2)]
    (tmp_path / "judge.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["--model", small, "--device", "cuda", "--dtype", dtype, "--max-new-tokens", "8"]
    with card.pretend() as here:
        evaluation.program([*common, "--limit", "2", "--plans", "2", "--answers", "2", "--diagnose", "--data", "arithmetic",
                            "--top-p", "0.9", "--out", str(tmp_path / "votes")])
        evaluation.program([*common, "--data", str(tmp_path / "judge.jsonl"), "--out", str(tmp_path / "judge")])
        evaluation.program([*common, "--turns", "2", "--limit", "2", "--data", "arithmetic",
                            "--out", str(tmp_path / "turns")])
        rollout.program(["1+1", *common, "--answer", "2", "--temperature", "1"])
        assert here.launches.total() > 0


# ------------------------------------------------------------------------------------------------------------
# gpu.py, for the day a card is at hand

def check_table(path):
    table = path.read_text()
    assert "failed" not in table, table
    for row in ("largest difference", "samples that are", "python train.py", "llama-1b, 4 rows", "llama-1b: a step",
                "llama-1b: peak", "llama-8b --lora 16: peak", "decoding steps: ", "a micro-batch: "):
        assert row in table, row


def test_the_program_for_a_real_card(tmp_path, monkeypatch):
    monkeypatch.setattr(train.report, "leave_report", lambda _: None)          # nothing of it is a card's
    assert gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path / "gpu.md")]) == 0
    check_table(tmp_path / "gpu.md")


def test_a_part_that_fails_or_takes_too_long_spares_the_others(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("the card\nis on fire")

    def sleep(*_):
        time.sleep(30)

    def succeed(report, *_):
        report.add("the last part", "done")
    monkeypatch.setattr(gpu, "PARTS", [(fail, 5), (sleep, 1), (succeed, 5)])
    assert gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path / "gpu.md")]) == 2
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert lines[3:] == ["| fail failed | RuntimeError: the card is on fire |",
                         "| sleep failed | TooLong: stopped after 1 s |", "| the last part | done |"]


@slow
def test_the_program_for_a_real_card_on_the_pretended_one(tmp_path, monkeypatch):
    found = dict(synchronize=lambda: None, empty_cache=lambda: None, get_device_name=lambda _: "pretended",
                 max_memory_allocated=lambda: card.state.peak)
    monkeypatch.setattr(gpu, "profile", lambda report, name, device, work: report.add(f"{name}: {work()}", ""))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: setattr(card.state, "peak", card.state.bytes))
    with card.pretend(), mock.patch.multiple(torch.cuda, **found):
        assert gpu.main(["--device", "cuda", "--small", "--out", str(tmp_path / "gpu.md")]) == 0
    check_table(tmp_path / "gpu.md")
