"""The trainer: gradients against the plain formula, who moves and who does not, resume, a user's mistakes."""
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import apart
import eval as evaluation
import model as models
import rema
import rollout
import train
from data import UserError
from data.extensions.guide import ACTIONS
from data.formats import runs
from data.formats.safetensors import read_tensors
from data.problems.choosing import choose_questions, load_data
from data.problems.generate import generate
from data.views import curves, terminal
from test_rollout import prompts, small

ROOT = pathlib.Path(__file__).resolve().parent.parent
slow = pytest.mark.skipif("REMA_SLOW" not in os.environ, reason="10 seconds each: set REMA_SLOW=1")
PLAIN = SimpleNamespace(device="cpu", dtype="float32", plan_format="text", graphs=False)     # what load_agents looks at


def settings(**changes):
    return SimpleNamespace(**{**dict(
        lr=1e-3, warmup=0, grad_clip=1e9, device="cpu", normalise="batch", clip=0.2, kl=0.0, temperature=1.0,
        updates=1, micro_tokens=10 ** 9, max_new_tokens=12, ratio="token", dual_clip=0.0,
        checkpointing=False), **changes})


@pytest.fixture
def exact(monkeypatch):
    """float64 all through: models norm in float32, and so are old log-probs, which would hide what is compared."""
    monkeypatch.setattr(train, "flatten", in_float64(train.flatten))


def in_float64(function):
    """The same function, with float64 as what torch makes of plain numbers."""
    def call(*given):
        torch.set_default_dtype(torch.float64)
        try:
            return function(*given)
        finally:
            torch.set_default_dtype(torch.float32)
    return call


def make_learner(model, args, reference=None, guide=None):
    """An agent that learns, as train.update needs it: nobody speaks with it."""
    if guide:
        return rollout.GuidedAgent(rema.HIGH_JSON, model, None, train.Optimizer(model, args), reference, guide)
    return rollout.Agent(rema.VRP, model, None, train.Optimizer(model, args), reference)


def catch_gradient(agent):
    """-> a list that train.update's gradient is put into; the optimizer makes no step."""
    caught = []

    def step():
        caught.append(gradient(agent.model))
        return 0.0
    agent.optimizer.step = step
    return caught


def batch(model, seed=0):
    """Turns about three prompts, three each, of unequal length, with made-up old log-probs and advantages."""
    asked = prompts([7, 2, 11])
    found = rollout.generate(model, asked, 3, max_new_tokens=12, stop_ids={3, 4, 5, 6},
                             generator=rollout.make_generator(seed))
    generator = torch.Generator().manual_seed(seed)
    turns = []
    for i, group in enumerate(found):
        for j, turn in enumerate(group):
            turn.place = (i, j)
            turn.logprobs = [x + 0.4 * float(torch.randn((), generator=generator)) for x in turn.logprobs]
            turn.advantage = float(torch.randn((), generator=generator))
            turns.append(turn)
    return turns


def talks(model, temperature, guided):
    """Conversations of unequal length, both signs, and guided plans if asked for -> (rows like batch()'s, a guide).

    numbers: of a row: which turn each of its tokens belongs to, -1 for what it only reads.
    """
    generator, found = torch.Generator().manual_seed(4), []
    guide = SimpleNamespace(FREE=-1, allowed=torch.rand(4, 50, generator=generator) < 0.3)
    guide.allowed[guide.FREE] = True
    rows = [[0, 0, -1, -1, 1, 1, 1, 1, 1], [0, -1, 1], [0, 0, 0, -1, -1, 1, -1, 2, 2], [0, -1, -1, 1, 1, 1]]
    plans = [[-1, 0, -1, 0, 0], [-1, -1, 0, 0, 0, 0, -1]]
    for i, numbers in enumerate(rows + plans * guided):
        tokens = torch.randint(1, 50, (len(numbers),), generator=generator).tolist()
        learned = [number >= 0 for number in numbers]
        row = rema.Turn(prompts([7, 2, 11])[i % 3], tokens, [], True, place=(i % 3, 3 + i), learned=learned)
        if i >= len(rows):
            states = [(i + j) % 3 if free else guide.FREE for j, free in enumerate(learned)]
            guide.allowed[states, tokens] = True
            row = rollout.GuidedTurn(**vars(row), states=states)
        row.numbers = numbers
        row.advantage = (0.5 + i % 4) * (-1) ** i
        with torch.no_grad():
            new = plain_logprobs(model, row, temperature, guide)
        noise = 0.6 * torch.randn(len(numbers), generator=generator)
        row.logprobs = [float(x) if free else 0.0 for x, free in zip(new + noise, learned)]
        found.append(row)
    return found, guide if guided else None


def plain_logprobs(model, turn, temperature, guide=None):
    """Of all tokens of a turn: one forward pass, the logits masked by hand."""
    logits = model(torch.tensor([turn.prompt + turn.tokens]))[0, len(turn.prompt) - 1:-1] / temperature
    if hasattr(turn, "states"):
        logits = logits.masked_fill(~guide.allowed[turn.states], -math.inf)
    return logits.log_softmax(-1)[range(len(turn.tokens)), turn.tokens]


def plain_loss(model, rows, args, reference=None, guide=None):
    """The objective as the paper has it: one turn of one sequence at a time, no cache, no padding."""
    talk = []                                                # row -> turn -> its places
    for row in rows:
        numbers = getattr(row, "numbers", [0] * len(row.tokens))
        talk.append([[j for j, t in enumerate(numbers) if t == turn] for turn in sorted({*numbers} - {-1})])
    N, total = len(rows), 0.0
    tokens = sum(len(places) for turns in talk for places in turns)
    for row, turns in zip(rows, talk):
        new, A = plain_logprobs(model, row, args.temperature, guide), row.advantage
        with torch.no_grad():
            ref = plain_logprobs(reference, row, args.temperature, guide) if args.kl else new
        for places in turns:
            n = len(places)
            scale = {"batch": tokens, "sequence": N * sum(map(len, turns)), "turn": N * len(turns) * n,
                     "turns": sum(map(len, talk)) * n, "constant": N * args.max_new_tokens}[args.normalise]
            log_ratios = [new[j] - row.logprobs[j] for j in places]
            if args.ratio == "turn":
                log_ratios = [sum(log_ratios) / n] * n
            for log_ratio, p, q in zip(log_ratios, new[places], ref[places]):
                r = log_ratio.clamp(max=3).exp()
                gain = torch.min(r * A, r.clamp(1 - args.clip, 1 + args.clip) * A)
                if args.dual_clip and A < 0:
                    gain = gain.clamp(min=args.dual_clip * A)
                total = total - (gain - args.kl * ((q - p).exp() - (q - p) - 1)) / scale
    return total


def gradient(model):
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.parametrize("normalise", ["batch", "sequence", "turn", "turns", "constant"])
@pytest.mark.parametrize("family, changes", [
    ("llama", dict(ratio="turn", dual_clip=1.5)), ("llama", dict(micro_tokens=40, temperature=0.7)),
    ("qwen3", dict(micro_tokens=1, kl=0.3, ratio="turn", temperature=1.3, checkpointing=True)),
    ("qwen2", dict(micro_tokens=60, kl=0.3, dual_clip=1.5)),
    ("smollm2", dict(micro_tokens=60, ratio="turn", checkpointing=True))])
def test_gradient_is_that_of_the_plain_formula(exact, normalise, family, changes):
    """However the batch is cut, padded and shared, the gradient is the paper's (float64, relative 1e-9).

    Among the rows are conversations and guided plans: a turn that shares its ratio with another row's,
    a setting that does not reach the loss, or logits that are not masked as they were sampled would show.
    """
    model, reference, args = small(family), small(family, seed=5), settings(normalise=normalise, **changes)
    others, guide = talks(model, args.temperature, args.ratio == "token" and "turn" not in normalise)
    turns = batch(model) + others
    assert len({len(turn.tokens) for turn in turns}) > 3     # unequal lengths, or padding is not tested
    loss = plain_loss(model, turns, args, reference, guide)
    loss.backward()
    expected = gradient(model)
    for name in changes.keys() - {"micro_tokens", "checkpointing"}:            # or it is not tested either
        without = settings(**{**vars(args), name: vars(settings())[name]})
        assert abs(plain_loss(model, turns, without, reference, guide) - loss) > 1e-6
    model.zero_grad()
    model.checkpointing = args.checkpointing
    learner = make_learner(model, args, reference, guide)
    caught = catch_gradient(learner)
    train.update(learner, turns, args)
    assert (caught[0] - expected).norm() < 1e-9 * expected.norm()


def count_padded(turns):
    """By hand: each different prompt once, all of them and all turns as long as the longest."""
    asked = {tuple(turn.prompt) for turn in turns}
    return len(asked) * max(map(len, asked)) + len(turns) * max(len(turn.tokens) for turn in turns)


def test_micro_batches_hold_each_turn_once_and_prompts_together():
    turns = batch(small())
    for budget in (1, 30, 60, 10 ** 6):
        cut = train.make_micro_batches(turns, budget)
        assert sorted(id(turn) for part in cut for turn in part) == sorted(map(id, turns))
        for part in cut:                          # (a prompt that was cut up may come twice in a batch)
            order = [tuple(turn.prompt) for turn in part]
            assert order == sorted(order, key=order.index)                # a prompt's turns side by side
            assert count_padded(part) <= budget or len(part) == 1
    assert len(train.make_micro_batches(turns, 10 ** 6)) == 1


def test_parts_of_one_prompt_that_meet_again_stand_side_by_side():
    """A group over the budget is cut up; its parts once came back on both sides of another prompt's."""
    turns = [rema.Turn(prompt, [1] * n, [0.0] * n, True, place=(prompt[0], i))
             for prompt, lengths in (([7], (1, 2, 40)), ([8], (1, 1, 2, 40))) for i, n in enumerate(lengths)]
    for part in train.make_micro_batches(turns, 41):
        order = [turn.prompt for turn in part]
        assert order == sorted(order)


def test_prompts_that_differ_within_a_group_all_count():
    """In conversations and lessons a group, or no place at all, has many prompts: they too are held to the budget."""
    def make_rows(*places):
        return [rema.Turn([i] * 30, [1] * 10, [0.0] * 10, True, place=place) for i, place in enumerate(places)]
    for turns in (make_rows((0, 0), (0, 1), (0, 2), (0, 3)), make_rows((), (), (), ())):
        cut = train.make_micro_batches(turns, 80)
        assert [len(part) for part in cut] == [2, 2]
    one = [rema.Turn([5] * 30, [1] * 10, [0.0] * 10, True) for _ in range(5)]              # the same prompt: once
    assert [len(part) for part in train.make_micro_batches(one, 80)] == [5]


def test_shared_prompt_on_smollm2(smollm2):
    model, tokenizer = models.load(str(smollm2))
    prompt = tokenizer.chat([{"role": "user", "content": "What is 2 + 3?"}])
    [group] = rollout.generate(model, [prompt], 3, max_new_tokens=6, stop_ids=tokenizer.stop_ids)
    for j, (turn, advantage) in enumerate(zip(group, (1.0, -1.0, 0.5))):
        turn.place, turn.advantage = (0, j), advantage
    plain_loss(model, group, settings()).backward()
    expected = gradient(model)
    model.zero_grad()
    learner = make_learner(model, settings())
    caught = catch_gradient(learner)
    stats = train.update(learner, group, settings())
    assert (caught[0] - expected).norm() < 3e-5 * expected.norm()
    assert stats["sampling_logp_difference"] < 2e-5


# ------------------------------------------------------------------------------------------------------------
# The optimizer

def test_bfloat16_weights_have_float32_masters():
    """An update of 1e-6 is lost in bfloat16 weights; in the masters it adds up until the weights move."""
    model = small(dtype=torch.bfloat16)
    learner = train.MasterOptimizer(model, settings(lr=1e-6))
    before, start = [m.clone() for m in learner.masters], [w.clone() for w in learner.weights]
    for _ in range(2):                                       # two micro-batches add up in float32
        (sum(w.float().square().sum() for w in learner.weights)).backward()
    assert all(m.grad.dtype == torch.float32 and w.grad is None
               for m, w in zip(learner.masters, learner.weights))
    assert torch.allclose(learner.masters[0].grad, 4 * start[0].float(), rtol=0.02)
    learner.step()
    assert any((m != b).any() for m, b in zip(learner.masters, before))
    assert all((m - b).abs().max() < 2e-6 for m, b in zip(learner.masters, before))
    for w, m in zip(learner.weights, learner.masters):
        assert torch.equal(w, m.bfloat16())
    assert all(w.dtype == torch.bfloat16 for w in learner.weights)
    moments = learner.adamw.state
    assert len(moments) == len(learner.masters)              # of the masters, in float32 as well
    for master in learner.masters:
        assert moments[master]["exp_avg"].dtype == moments[master]["exp_avg_sq"].dtype == torch.float32
        assert master.grad is None


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no card"))])
def test_masters_that_leave_and_come_back_learn_as_if_they_had_stayed(device):
    """Masters and moments go to and fro while an agent is frozen: before its first step, between two, twice over."""
    results = []
    for moving in (False, True):
        model = small(dtype=torch.bfloat16).to(device)
        learner = train.MasterOptimizer(model, settings(lr=1e-2, device=device))
        for step in range(3):
            if moving:
                learner.move("cpu")
                learner.move("cpu")
                tensors = learner.masters + [value for state in learner.adamw.state.values()
                                             for value in state.values()]
                assert all(tensor.device.type == "cpu" for tensor in tensors)
                assert len(tensors) == len(learner.masters) * (4 if step else 1)
                assert all(weight.device.type == device for weight in learner.weights)
                learner.move(device)
                assert all(master.device.type == device for master in learner.masters)
            sum((weight.float() ** 2).sum() for weight in learner.weights).backward()
            learner.step()
        results.append([weight.clone() for weight in learner.weights + learner.masters])
    assert all(torch.equal(stayed, moved) for stayed, moved in zip(*results))


def test_only_those_who_learn_are_on_the_card():
    """The others leave before they come; weights in float32 and adapters have no masters that could leave."""
    told = []

    def make_stub(name):
        return SimpleNamespace(optimizer=SimpleNamespace(move=lambda device: told.append((name, device))))
    train.move_optimizers([make_stub("a"), make_stub("b"), make_stub("c")], [1], "cuda")
    assert told == [("a", "cpu"), ("c", "cpu"), ("b", "cuda")]
    model = models.add_adapters(small(dtype=torch.bfloat16), 2, 4.0, torch.Generator().manual_seed(0))
    learner = train.MasterOptimizer(model, settings())
    learner.move("nowhere")
    assert all(master is weight and master.dtype == torch.float32
               for master, weight in zip(learner.masters, learner.weights))


def test_the_learning_rate_warms_up_and_the_gradient_is_clipped():
    """Update n of a warm-up of 4 takes n / 4 of the rate; what is longer than --grad-clip is made as long."""
    weight = torch.nn.Parameter(torch.zeros(2))
    model = SimpleNamespace(parameters=lambda: [weight])
    learner = train.Optimizer(model, settings(lr=0.1, warmup=4, grad_clip=1.0))
    rates, norms = [], []
    for _ in range(6):
        weight.grad = torch.tensor([3.0, 4.0])
        norms.append(learner.step())
        rates.append(learner.adamw.param_groups[0]["lr"])
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert norms == pytest.approx([5.0] * 6) and learner.updates == 6
    moments = learner.adamw.state[weight]                    # of the clipped gradient, (0.6, 0.8)
    assert moments["exp_avg"].tolist() == pytest.approx([0.6 * (1 - 0.9 ** 6), 0.8 * (1 - 0.9 ** 6)], rel=1e-4)
    assert moments["exp_avg_sq"].tolist() == pytest.approx([0.36 * (1 - 0.95 ** 6), 0.64 * (1 - 0.95 ** 6)], rel=1e-4)
    assert weight.tolist() == pytest.approx([-sum(rates)] * 2, rel=1e-4)       # AdamW: a rate a step, no decay


def test_state_restores_weights_and_moments_bit_for_bit(tmp_path):
    """Within the warm-up: a number of updates that is forgotten would show as well."""
    args, ends = settings(warmup=9), []
    turns = batch(small())
    for interrupted in (False, True):
        learner = make_learner(small(dtype=torch.float32), args)
        for i in range(4):
            if interrupted and i == 2:
                note = {"step": 7, "failures": 2, "unmeasured": True}
                runs.save_state(tmp_path, [learner], note)
                learner = make_learner(small(dtype=torch.float32, seed=9), args)
                found = runs.load_state(tmp_path, [learner])
                assert found == {**note, "updates": {"solo": 2}, "moments": ["exp_avg", "exp_avg_sq", "step"]}
            train.update(learner, turns, args)
        ends.append([weight.clone() for weight in learner.optimizer.weights])
    assert all(torch.equal(a, b) for a, b in zip(*ends))


def test_state_restores_masters_and_the_weights_of_several_agents(tmp_path):
    """In bfloat16 the weights follow from the masters, not the other way round; each agent gets its own."""
    def make_agents(seed):
        agents = []
        for i, role in enumerate(rema.PROCESSES["rema"]):
            model = small(dtype=torch.bfloat16, seed=seed + i)
            agents.append(rollout.Agent(role, model, None, train.MasterOptimizer(model, settings(lr=1e-5))))
        return agents

    def learn(agent):
        sum((weight.float() ** 2).sum() for weight in agent.optimizer.weights).backward()
        agent.optimizer.step()
    agents, others = make_agents(0), make_agents(5)
    for agent in (agents[0], agents[0], agents[1]):
        learn(agent)
    runs.save_state(tmp_path, agents, {"step": 3})
    runs.load_state(tmp_path, others)
    for agent, other in zip(agents, others):
        assert other.optimizer.updates == agent.optimizer.updates
        learn(agent)
        learn(other)
        for mine, theirs in zip(agent.optimizer.masters, other.optimizer.masters):
            assert torch.equal(mine, theirs)
        for mine, theirs in zip(agent.model.parameters(), other.model.parameters()):
            assert torch.equal(mine, theirs)
    assert not torch.equal(agents[0].optimizer.masters[0], agents[1].optimizer.masters[0])


def test_more_updates_meet_the_clip():
    model = small(dtype=torch.float32)
    [group] = rollout.generate(model, prompts([5]), 6, max_new_tokens=12, generator=rollout.make_generator(3))
    for j, turn in enumerate(group):
        turn.place, turn.advantage = (0, j), (1.0, -1.0)[j % 2]
    first = train.update(make_learner(small(dtype=torch.float32), settings()), group, settings())
    assert first["clip_share"] == 0 and first["sampling_logp_difference"] < 1e-5    # the ratio is 1 at first
    args = settings(updates=4, lr=0.01)
    again = train.update(make_learner(model, args), group, args)
    assert again["clip_share"] > 0 and again["sampling_logp_difference"] < 1e-5     # of the first update alone
    assert again["trained_tokens"] == 4 * first["trained_tokens"] == 4 * sum(len(turn.tokens) for turn in group)


def test_a_gradient_that_is_not_finite_changes_nothing():
    learner = train.Optimizer(small(dtype=torch.float32), settings())
    before = [w.clone() for w in learner.weights]
    learner.weights[0].grad = torch.full_like(learner.weights[0], math.nan)
    assert math.isnan(learner.step())
    assert all(torch.equal(a, b) for a, b in zip(before, learner.weights)) and learner.weights[0].grad is None
    assert not learner.adamw.state and learner.updates == 0


@pytest.mark.parametrize("norms", [[math.nan, 1.0], [1.0, math.nan], [2.0, math.inf], [math.inf, 2.0]])
def test_a_bad_gradient_in_any_update_is_not_hidden_by_a_good_one(norms):
    learner = make_learner(small(dtype=torch.float32), settings())
    to_come = iter(norms)
    learner.optimizer.step = lambda: next(to_come)
    found = train.update(learner, batch(small()), settings(updates=2))
    assert not math.isfinite(found["grad_norm"])


# ------------------------------------------------------------------------------------------------------------
# A step

def two_plans():
    """Eight episodes: the second plan leaks, four answers each; the plans' tokens are 1, the answers' 2."""
    row, found = {"id": 0, "problem": "2+3", "answer": "5"}, []
    for i, (text, answers) in enumerate((
            ("add", ("\\boxed{4}", "\\boxed{4}", "\\boxed{8/2}", "\\boxed{5}")),
            ("\\boxed{5}", ("\\boxed{5}", "\\boxed{5}", "\\boxed{5}", "5")))):
        plan = rema.Turn([7], [1], [-1.0], True, "high", text, (0, i))
        for k, answer in enumerate(answers):
            said = rema.Turn([8], [2], [-1.0], True, "low", answer, (0, i, k))
            found.append(rema.Episode(row, said.place, [plan, said]))
    return found


class StubRun:
    """In place of train.Run: nothing is measured or written, what each step has found is kept."""
    def __init__(self, *_):
        self.steps = StubRun.steps = []

    def restore(self):
        return 0

    def finish_step(self, step, metrics, episodes, stop):
        self.steps.append((metrics, episodes))
        return stop

    def close(self):
        pass


LEARNED = {**dict.fromkeys(("entropy", "kl", "grad_norm", "clip_share", "sampling_logp_difference"), 0.0),
           "trained_tokens": 0}          # what train.update finds


def take_a_step(monkeypatch, tmp_path, flags, roles=None):
    """The program, for one step on two_plans() -> (metrics, episodes, turns of each update)."""
    taught = []

    def teach(agent, turns, args):
        taught.append(turns)
        return LEARNED
    monkeypatch.setattr(train, "sample_episodes", lambda *given, **how: two_plans())
    monkeypatch.setattr(train, "update", teach)
    monkeypatch.setattr(train, "Run", StubRun)
    monkeypatch.setattr(train, "AFTER", [])
    monkeypatch.setattr(curves, "read_metrics", lambda *_: [])
    monkeypatch.setattr(terminal, "print_closing", lambda *_: None)
    train.main(["--steps", "1", "--eval-questions", "1", "--out", str(tmp_path / "run"), *flags], roles=roles)
    [(metrics, episodes)] = StubRun.steps
    return metrics, episodes, taught


@pytest.mark.parametrize("flags, high", [
    ([], [0.25, 0.75 - 1]), (["--reward", "consistency"], [0.75, 0.75 - 1])])
def test_a_step_earns_what_the_flags_say_and_shared_weights_learn_both_roles(monkeypatch, tmp_path, flags, high):
    """A flag that does not reach the rewards, or a role that does not reach the update, would show."""
    metrics, episodes, taught = take_a_step(monkeypatch, tmp_path, ["--share", *flags])
    low = [-0.5] * 3 + [1] * 4 + [-1]                        # wrong but boxed, right, right without a box
    assert [episode.turns[0].reward for episode in episodes[::4]] == high
    assert metrics["reward_high"] == sum(high) / 2
    assert [episode.turns[1].reward for episode in episodes] == pytest.approx(low)
    assert metrics["reward_low"] == pytest.approx(sum(low) / 8) and metrics["accuracy"] == 0.5
    assert [[turn.tokens for turn in turns] for turns in taught] == [[[1]] * 2 + [[2]] * 8]   # each text once


def test_an_own_reward_reaches_the_update(monkeypatch, tmp_path):
    """A reward function of a role's own: here what the flag --box-weight did, 0.2 less for a wrong box."""
    def reward(turn, episodes):
        earned = rema.reward_answer(turn, episodes)
        return -0.2 if earned == -0.5 else earned
    roles = [rema.HIGH, rema.replace(rema.LOW, reward=reward)]
    metrics, episodes, taught = take_a_step(monkeypatch, tmp_path, ["--switch-every", "0"], roles)
    low = [-0.2] * 3 + [1] * 4 + [-1]
    assert [episode.turns[1].reward for episode in episodes] == low
    assert [len(turns) for turns in taught] == [2, 8]
    by_hand = torch.tensor(low).view(2, 4)
    by_hand = ((by_hand - by_hand.mean(1, keepdim=True)) / by_hand.std(1, keepdim=True)).flatten()
    assert [turn.advantage for turn in taught[1]] == pytest.approx(by_hand.tolist(), abs=1e-4)


@pytest.mark.parametrize("flags, kept", [
    ([], [[2] * 4]), (["--kl", "0.1"], [[2] * 8]), (["--advantage", "reinforce++"], [[2] * 8]),
    (["--advantage", "rloo"], [[2] * 4])])
def test_groups_that_teach_nothing_stay_out_of_the_update(monkeypatch, tmp_path, flags, kept):
    """The answers to the first plan all earn the same: they would only count in the denominator.

    The KL term has a gradient for them, too, and under reinforce++ they are compared with the whole batch.
    """
    def reward(turn, episodes):
        return 0.0 if turn.place[1] == 0 else rema.reward_answer(turn, episodes)
    roles = [rema.HIGH, rema.replace(rema.LOW, reward=reward)]
    metrics, _, taught = take_a_step(monkeypatch, tmp_path, ["--first", "low", *flags], roles)
    assert [[id for turn in turns for id in turn.tokens] for turns in taught] == kept
    assert metrics["frac_reward_zero_std"] == 0.5


def test_shared_weights_are_one_agent_with_two_names():
    for flags, number in ((["--share"], 1), ([], 2), (["--share", "--lora", "2"], 1), (["--lora", "2"], 2)):
        agents = train.load_learners(train.parse(flags), rema.PROCESSES["rema"])
        assert [agent.name for agent in agents] == ["high", "low"]
        assert len({id(agent.model) for agent in agents}) == len({id(agent.optimizer) for agent in agents}) == number
        learned = [{id(weight) for weight in agent.optimizer.weights} for agent in agents]
        assert (learned[0] == learned[1]) == (number == 1) and bool(learned[0] & learned[1]) == (number == 1)


def test_the_reference_is_the_model_before_it_learns():
    """With --kl each agent has its first weights beside it, which are none of those that learn."""
    for flags in ([], ["--share"], ["--lora", "2"]):
        for agent in train.load_learners(train.parse(["--kl", "0.1", *flags]), rema.PROCESSES["rema"]):
            learned = {id(weight) for weight in agent.optimizer.weights}
            assert not learned & {id(weight) for weight in agent.reference.parameters()}
            tokens = torch.tensor([[5, 6, 7]])
            assert torch.equal(agent.reference(tokens), agent.model(tokens))
    assert train.load_learners(train.parse([]), rema.PROCESSES["rema"])[0].reference is None


def test_flags_reach_the_sampler(monkeypatch):
    """How many, how warm, how long, for which problems, drawn from what: as the flags say, in each phase."""
    asked = []

    def playing(agents, rows, samples, **how):
        asked.append((len(rows), samples, how))
        return two_plans()
    flags = ["--steps", "2", "--switch-every", "1", "--questions", "3", "--group", "5", "4", "--followers", "2",
             "--temperature", "0.7", "--max-new-tokens", "9", "--batch", "6", "--seed", "8"]
    args = train.parse(flags)
    rows = [{"id": i, "problem": "2+3", "answer": "5"} for i in range(7)]
    for name, stub in (("sample_episodes", playing), ("Run", StubRun), ("update", lambda *_: LEARNED)):
        monkeypatch.setattr(train, name, stub)
    agents = [rollout.Agent(role, None, None) for role in rema.PROCESSES["rema"]]
    for first, samples in (("high", [[5, 2], [1, 4]]), ("low", [[1, 4], [5, 2]])):
        asked.clear()
        args.first = first
        train.train(args, agents, rows, [])
        assert [one[:2] for one in asked] == [(3, samples[0]), (3, samples[1])]
        assert [one[2]["key"] for one in asked] == [(8, 0), (8, 1)]
        for _, _, how in asked:
            assert how["temperatures"] == [0.7, 0.7] and how["max_new_tokens"] == 9 and how["batch"] == 6
            assert how["turns"] == 1


# ------------------------------------------------------------------------------------------------------------
# Whole runs of the embedded model

SMALL_RUN = ["--questions", "6", "--group", "4", "--eval-questions", "12",
             "--max-new-tokens", "20", "--warmup", "1", "--switch-every", "2", "--save-every", "3"]


def metrics(directory):
    timing = ("time_sample", "time_train")
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timing} for line in lines]


def copy_weights(agents):
    return {agent.name: [weight.clone() for weight in agent.model.parameters()] for agent in agents}


@pytest.fixture
def snapshots(monkeypatch):
    """Each agent's weights after each step of a run, in order."""
    found, plain = [], train.Run.finish_step

    def spying(run, *rest):
        found.append(copy_weights(run.agents))
        return plain(run, *rest)
    monkeypatch.setattr(train.Run, "finish_step", spying)
    return found


def find_unmoved(snapshots, start):
    """After each step: {agent: whether all of its weights are bitwise what they were before it}."""
    before = [{name: start for name in snapshots[0]}, *snapshots]
    return [{name: all(torch.equal(a, b) for a, b in zip(now[name], then[name])) for name in now}
            for then, now in zip(before, snapshots)]


@pytest.mark.closing
def test_a_run_trains_each_agent_in_its_phase_only(tmp_path, capsys, snapshots):
    train.main([*SMALL_RUN, "--max-new-tokens", "32", "--steps", "6", "--show-every", "3", "--out", str(tmp_path / "run")])
    start = list(models.load("tiny")[0].parameters())
    same = find_unmoved(snapshots, start)
    assert same == [{"high": False, "low": True}] * 2 + [{"high": True, "low": False}] * 2 \
        + [{"high": False, "low": True}] * 2

    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(7))
    assert [line["learner"] for line in lines[1:]] == ["high", "high", "low", "low", "high", "high"]
    fields = {"reward_high", "reward_low", "accuracy", "length", "truncated", "frac_reward_zero_std",
              "entropy", "grad_norm", "clip_share", "sampling_logp_difference"}
    for line in lines[1:]:
        assert fields <= line.keys()
        assert line["frac_reward_zero_std"] == 1 or line["sampling_logp_difference"] < 1e-5
    printed = capsys.readouterr()
    assert "temperature 1" in printed.out and "problem" in printed.err + printed.out
    for name in ("curves.png", "episodes.jsonl", "config.json", "high/model.safetensors",
                 "low/tokenizer.json", "best/high/config.json"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    agents = rollout.load_agents(str(tmp_path / "run"), rema.PROCESSES["rema"], PLAIN)
    assert all(torch.equal(a, b)
               for agent in agents for a, b in zip(agent.model.parameters(), snapshots[-1][agent.name]))


def reward_variety(turn, episodes):
    """How many different tokens: made up for a test, but different from turn to turn."""
    return float(len(set(turn.tokens)) + sum(len(set(episode.turns[-1].tokens)) for episode in episodes))


def three_roles():
    """A planner, a critic who sees the plan, and a solver who sees what both said."""
    return [rema.Role("planner", "Write a plan.", "{question}", reward_variety),
            rema.Role("critic", "Say what is wrong with the plan.", "{question}\n{planner}", reward_variety),
            rema.Role("solver", "Solve it.", "{question}\n{planner}\n{critic}", reward_variety)]


def test_three_agents_learn_one_after_the_other(tmp_path, snapshots, capsys):
    """Nothing in the loop or the log knows that there are two. One --group serves all of them."""
    train.main([*SMALL_RUN, "--switch-every", "1", "--steps", "3", "--max-new-tokens", "8", "--questions", "3",
                "--show-every", "1", "--save-every", "2", "--out", str(tmp_path / "run")], roles=three_roles())
    same = find_unmoved(snapshots, list(models.load("tiny")[0].parameters()))
    names = ["planner", "critic", "solver"]
    assert same == [{name: name != learner for name in names} for learner in names]
    lines = metrics(tmp_path / "run")
    assert [line["learner"] for line in lines[1:]] == names
    assert all(line["episodes"] == 3 * 4 and line["grad_norm"] > 0 for line in lines[1:])
    assert all(f"reward_{name}" in line for name in names for line in lines[1:])
    episodes = [json.loads(line) for line in (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()]
    assert all([turn["role"] for turn in episode["turns"]] == names for episode in episodes)
    places = {step: sorted({tuple(e["place"]) for e in episodes if e["step"] == step}) for step in (1, 2, 3)}
    group = range(4)                     # who spoke before the learner draws one, who speaks after it one for each
    assert places[1] == [(q, j, 0, 0) for q in range(3) for j in group]
    assert places[2] == [(q, 0, j, 0) for q in range(3) for j in group]
    assert places[3] == [(q, 0, 0, j) for q in range(3) for j in group]
    told = capsys.readouterr()
    assert all(f"gained in the phases of {name}" in told.out for name in names) and "planner, critic, solver" in told.out
    for name in names:
        kept, _ = models.load(str(tmp_path / "run" / name))
        assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), snapshots[-1][name]))


def test_a_run_of_three_agents_goes_on_where_it_was(tmp_path):
    """All three at once, two steps and one more, as three in one go; and the agents are where --model finds them."""
    flags = [*SMALL_RUN, "--switch-every", "0", "--group", "2", "--max-new-tokens", "6", "--questions", "2",
             "--eval-questions", "2"]
    train.main([*flags, "--steps", "3", "--out", str(tmp_path / "whole")], roles=three_roles())
    train.main([*flags, "--steps", "2", "--out", str(tmp_path / "part")], roles=three_roles())
    train.main(["--resume", str(tmp_path / "part"), "--steps", "3"], roles=three_roles())
    assert metrics(tmp_path / "whole")[3]["learner"] == "planner+critic+solver"
    assert metrics(tmp_path / "whole")[3] == metrics(tmp_path / "part")[3]
    agents = rollout.load_agents(str(tmp_path / "part"), three_roles(), PLAIN)
    others = rollout.load_agents(str(tmp_path / "whole"), three_roles(), PLAIN)
    for agent, other in zip(agents, others):
        assert agent.name == other.name
        assert all(torch.equal(a, b) for a, b in zip(agent.model.parameters(), other.model.parameters()))


def test_an_own_advantage_takes_the_place_of_the_usual_one(tmp_path, monkeypatch):
    """It is called with all turns of the learner, each once, and what it notes is what is learned."""
    asked, taught, plain = [], [], train.update

    def assign(turns, kind):
        asked.append((len(turns), {turn.agent for turn in turns}, kind))
        for i, turn in enumerate(turns):
            turn.advantage = float(i % 3 - 1)

    def learning(agent, turns, args):
        taught.append([turn.advantage for turn in turns])
        return plain(agent, turns, args)
    monkeypatch.setattr(train, "update", learning)
    train.main([*SMALL_RUN, "--steps", "2", "--switch-every", "1", "--group", "3", "--advantage", "rloo",
                "--out", str(tmp_path / "run")], assign_advantages=assign)
    assert asked == [(18, {"high"}, "rloo"), (18, {"low"}, "rloo")]
    assert taught == [[-1.0, 0.0, 1.0] * 6] * 2


@pytest.mark.parametrize("extra", [["--process", "vrp"], ["--process", "mrp", "--advantage", "reinforce++"],
                                   ["--switch-every", "0", "--kl", "0.1", "--updates", "2",
                                    "--temperature", "0.7"],
                                   pytest.param(["--advantage", "dr_grpo", "--followers", "2"], marks=slow),
                                   pytest.param(["--advantage", "rloo", "--normalise", "sequence", "--checkpointing"],
                                                marks=slow),
                                   ["--share", "--switch-every", "0", "--turns", "2", "--ratio", "turn",
                                    "--normalise", "turn", "--dual-clip", "3", "--updates", "2"],
                                   pytest.param(["--turns", "2", "--switch-every", "1", "--normalise", "turns"],
                                                marks=slow),
                                   ["--plan-format", "json", "--lora", "2", "--kl", "0.1", "--updates", "2"],
                                   pytest.param(["--plan-format", "json", "--share", "--switch-every", "0", "--kl", "0.1"],
                                                marks=slow),
                                   ["--dtype", "bfloat16"],
                                   ["--filter", "6", "--switch-every", "1", "--reward", "consistency",
                                    "--followers", "4"]])
def test_every_way_to_train_runs(tmp_path, extra, monkeypatch):
    """The trainer's log-probs are the sampler's: a temperature or guide that only one applies would show."""
    monkeypatch.setattr(curves, "draw_run", lambda *_: "")   # other tests look at those
    monkeypatch.setattr(terminal, "print_closing", lambda *_: "")
    train.main([*SMALL_RUN, "--steps", "2", "--switch-every", "1", "--eval-every", "2", "--eval-questions", "3",
                *extra, "--out", str(tmp_path / "run")])
    lines = metrics(tmp_path / "run")
    assert len(lines) == 3 and all(math.isfinite(line["reward_" + line["learner"].split("+")[0]])
                                   for line in lines[1:])
    if "--kl" in extra:
        assert lines[1]["kl"] >= 0 and max(line["kl"] for line in lines[1:]) > 0
        assert None not in [line["sampling_logp_difference"] for line in lines[1:]]      # no group left out
    most = 0.1 if "bfloat16" in extra else 1e-5              # its sums are rounded to 8 bits, in another order
    assert all((line["sampling_logp_difference"] or 0) < most for line in lines[1:])
    if "json" in extra:
        assert all(sum(line["share_" + name] for name in ACTIONS) == pytest.approx(1) for line in lines[1:])
        said = (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()
        answers = [json.loads(line)["turns"][1]["text"] for line in said]
        assert not any(text.startswith('{"action"') for text in answers)                 # only plans are guided


def test_the_filter_keeps_counts_fills_and_goes_on(tmp_path, monkeypatch):
    """Which problems are kept follows from the tries; a batch is filled up; --resume takes the old pool.

    The agent about to learn is tried ten times at temperature 1, the other one is greedy.
    """
    told, tries, plain, sample_turns = [], [], train.filter_problems, rollout.sample_turns

    def speaking(agent, conversations, samples, generators, **how):
        tries.append((agent.name, len(conversations), samples, how["temperature"]))
        return sample_turns(agent, conversations, samples, generators, **how)

    def filtering(*given):
        with monkeypatch.context() as patch:
            patch.setattr(rollout, "sample_turns", speaking)
            told.append(plain(*given))
        return told[-1]
    monkeypatch.setattr(train, "filter_problems", filtering)
    kept = iter([True, False] * 4 + [False] * 8 + [True] * 8)
    monkeypatch.setattr(rema, "is_worth_learning", lambda tries: len(tries) == 10 and next(kept))
    train.main([*SMALL_RUN, "--max-new-tokens", "8", "--filter", "8", "--steps", "1", "--temperature", "0.7",
                "--out", str(tmp_path / "run")])
    [(pool, found)] = told
    assert len(pool) == 6 and found["filter_kept"] == 0.5 and found["filter_refilled"] == 2
    line = metrics(tmp_path / "run")[1]
    assert line["filter_tokens"] == found["filter_tokens"] > 8 * 10 and line["filter_refilled"] == 2
    train.main(["--resume", str(tmp_path / "run"), "--steps", "5"])
    assert told[1] == (pool, {}) and told[3] == (told[2][0], {})               # phases of two steps
    assert told[2][1]["filter_kept"] == 0 and told[2][1]["filter_refilled"] == 6 == len(told[2][0])
    assert told[4][1]["filter_kept"] == 1 and told[4][1]["filter_refilled"] == 0 and len(told[4][0]) == 8
    high = [("high", 8, 10, 1.0), ("low", 80, 1, 0.0)]                         # ten plans, an answer to each
    assert tries == high + [("high", 8, 1, 0.0), ("low", 8, 10, 1.0)] + high


def test_killed_and_resumed_is_as_if_nothing_had_happened(tmp_path):
    flags = [*SMALL_RUN, "--steps", "5", "--eval-every", "3", "--eval-questions", "3", "--save-every", "2",
             "--threads", "1"]
    killed = apart.start(train.main, [*flags, "--out", str(tmp_path / "killed")])
    log = tmp_path / "killed" / "metrics.jsonl"
    while not (log.exists() and len(log.read_bytes().splitlines()) > 3):          # past the first checkpoint
        assert killed.is_alive()
        time.sleep(0.01)
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    with open(log, "a") as file:
        file.write('{"step": 4, "half a li')                                          # what a crash may leave
    with open(tmp_path / "killed" / "episodes.jsonl", "ab") as file:
        file.write('{"step": 99, "text": "\x85 \u2028"}\n{"half é'.encode()[:-1])   # ... or a model say
    train.main(["--resume", str(tmp_path / "killed")])
    train.main([*flags, "--out", str(tmp_path / "whole")])
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    for role in ("high", "low"):
        a, b = (read_tensors(tmp_path / run / role / "model.safetensors") for run in ("whole", "killed"))
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert ((tmp_path / "killed" / "episodes.jsonl").read_text()
            == (tmp_path / "whole" / "episodes.jsonl").read_text())


def test_threads_are_recorded_and_kept_on_resume(tmp_path, monkeypatch):
    """As many threads add in as many orders: bit for bit needs as many again."""
    before = torch.get_num_threads()
    try:
        take_a_step(monkeypatch, tmp_path, ["--threads", "2"])
        assert torch.get_num_threads() == 2
        assert json.loads((tmp_path / "run" / "config.json").read_text())["threads"] == 2
        assert train.parse([]).threads == torch.get_num_threads() == 1         # the embedded model's default
        with pytest.raises(UserError, match="only --steps, not --threads"):
            train.parse(["--resume", str(tmp_path / "run"), "--threads", "1"])
        assert train.parse(["--resume", str(tmp_path / "run"), "--steps", "2"]).threads == 2
        assert torch.get_num_threads() == 2
        assert train.parse(["--model", "nowhere"]).threads == 2                # of another model: those there are
    finally:
        torch.set_num_threads(before)


def test_ctrl_c_where_nothing_waits_for_it_is_one_line(capsys, monkeypatch):
    def interrupted(*_, **how):
        raise KeyboardInterrupt
    monkeypatch.setattr(train, "program", interrupted)
    with pytest.raises(SystemExit) as stop:
        train.main([])
    assert stop.value.code == 130 and capsys.readouterr().err == "train.py: interrupted\n"


def press_ctrl_c(monkeypatch, name, times):
    """train's function `name` is interrupted when it is called, as often as times says: {number of the call: presses}."""
    owner = evaluation if name == "measure_held_out" else train
    plain, calls = getattr(owner, name), []

    def pressed(*given, **how):
        calls.append(True)
        for _ in range(times.get(len(calls), 0)):
            os.kill(os.getpid(), signal.SIGINT)
        return plain(*given, **how)
    monkeypatch.setattr(owner, name, pressed)


@pytest.mark.parametrize("name, call, steps", [
    ("sample_episodes", 2, 2),           # a step after which the agents are measured, every second one
    pytest.param("sample_episodes", 3, 3, marks=slow), pytest.param("sample_episodes", 5, 5, marks=slow),
    ("measure_held_out", 2, 2), pytest.param("measure_held_out", 4, 5, marks=slow)])           # while they are measured
def test_ctrl_c_saves_and_measures_later(name, call, steps, tmp_path, monkeypatch, capsys):
    """The step ends and is saved; no evaluation is begun, or ended. What goes on is what was never interrupted."""
    flags = [*SMALL_RUN, "--steps", "5", "--eval-questions", "3", "--save-every", "4"]
    train.main([*flags, "--out", str(tmp_path / "whole")])
    capsys.readouterr()
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, name, {call: 1})
        train.main([*flags, "--out", str(tmp_path / "run")])
    lines = metrics(tmp_path / "run")
    assert len(lines) == steps + 1 and (tmp_path / "run" / "high" / "config.json").exists()
    assert "heldout_greedy" not in lines[-1]
    told = capsys.readouterr()
    assert f"to go on: python train.py --resume {tmp_path / 'run'}" in told.err and "gained" not in told.out
    train.main(["--resume", str(tmp_path / "run")])
    told = capsys.readouterr()
    assert "to go on" not in told.err and "gained" in told.out
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    for agent in ("high", "low", "best/low"):
        a, b = (read_tensors(tmp_path / run / agent / "model.safetensors") for run in ("whole", "run"))
        assert all(torch.equal(a[name], b[name]) for name in a)
    learned = Counter()
    for line in metrics(tmp_path / "run")[1:]:
        learned[line["learner"]] += line["trained_tokens"]
    assert learned["high"] > 0 and learned["low"] > 0


@pytest.mark.parametrize("name, times", [
    ("sample_episodes", {4: 2}), pytest.param("sample_episodes", {4: 1}, marks=slow),
    pytest.param("measure_held_out", {3: 1}, marks=slow), ("measure_held_out", {1: 1})])
def test_a_second_ctrl_c_leaves_at_once(name, times, tmp_path, monkeypatch, capsys):
    """So does a first one before the first step, when there is nothing to save. What was saved is there."""
    whole = [*SMALL_RUN, "--steps", "5", "--eval-questions", "3"]
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, name, times)
        if times in ({4: 1}, {3: 1}):    # and again while the run is saved
            press_ctrl_c(patch, "save_state", {2: 1})
        with pytest.raises(SystemExit) as stop:
            train.main([*whole, "--out", str(tmp_path / "run")])
    told = capsys.readouterr()
    assert stop.value.code == 130 and "gained" not in told.out
    assert f"to go on: python train.py --resume {tmp_path / 'run'}" in told.err
    assert (tmp_path / "run/state.safetensors").exists() == (name == "sample_episodes" or 3 in times)
    train.main(["--resume", str(tmp_path / "run")])
    assert [line["step"] for line in metrics(tmp_path / "run")] == [0, 1, 2, 3, 4, 5]
    assert "heldout_greedy" in metrics(tmp_path / "run")[0] and "gained" in capsys.readouterr().out


def test_three_bad_gradients_stop_the_run_and_keep_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rema, "policy_loss", lambda new, *rest, **named: (new.sum() * math.nan,
                                                                 {"clip_share": 0.0}))
    with pytest.raises(SystemExit) as stop:
        train.main([*SMALL_RUN, "--steps", "9", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2 and "three gradients" in capsys.readouterr().err
    start = models.load("tiny")[0].parameters()
    kept = models.load(str(tmp_path / "run" / "high"))[0].parameters()
    assert all(torch.equal(a, b) for a, b in zip(start, kept)) and len(metrics(tmp_path / "run")) == 4
    assert "NaN" not in (tmp_path / "run/metrics.jsonl").read_text()       # JSON has no such word
    assert [line["grad_norm"] for line in metrics(tmp_path / "run")[1:]] == [None] * 3


@pytest.mark.closing
def test_one_held_out_problem_has_no_standard_error(tmp_path, capsys):
    """Neither in the log nor in the closing table; the curves are drawn without."""
    train.main([*SMALL_RUN, "--eval-questions", "1", "--steps", "1", "--process", "vrp", "--out", str(tmp_path / "run")])
    first, last = metrics(tmp_path / "run")
    assert first["heldout_greedy_se"] is None and last["heldout_t1_se"] is None
    assert "+- - " in capsys.readouterr().out and (tmp_path / "run/curves.png").exists()


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_one_bad_reward_is_not_blamed_on_the_gradient(bad, tmp_path, capsys):
    """The step in which it was given ends the run with its response; what was logged before stays."""
    given = []

    def reward(turn, episodes):
        given.append(turn)
        return bad if len(given) == 40 else float(len(given) % 3)

    with pytest.raises(SystemExit) as stop:
        train.main([*SMALL_RUN, "--steps", "3", "--out", str(tmp_path / "run")],
                   roles=[replace(rema.VRP, reward=reward)])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and f"a reward of solo is {bad}" in told and "gradient" not in told
    assert repr(given[-1].text)[1:50] in told and len(given) == 40 and metrics(tmp_path / "run")[0]["step"] == 0


def test_the_data_cursor_goes_through_all_rows_before_it_repeats():
    rows = [{"id": i} for i in range(10)]
    seen = [row["id"] for step in range(1, 6) for row in choose_questions(rows, step, 4, seed=0)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]
    [row] = rows[:1]
    assert [one["copy"] for one in choose_questions([row], 1, 3, seed=0)] == [0, 1, 2]


@pytest.mark.parametrize("argv, message", [
    (["--model", "lama-1b"], "llama-1b"), (["--data", "gsm9k"], "gsm8k"), (["--group", "1"], "--group 1"),
    (["--group", "4", "1"], "--group 1"), (["--group"], "--group"), (["--followers", "0"], "--followers"),
    (["--process", "vrp", "--group", "1", "--advantage", "rloo"], "--group 1"),
    (["--questions", "0"], "--questions"), (["--data", "none.jsonl"], "none.jsonl"),
    (["--resume", "nowhere"], "nowhere"), (["--first", "nobody"], "--first nobody: the agents are high, low"),
    (["--lr", "-1"], "--lr"), (["--grad-clip", "0"], "--grad-clip"),
    (["--switch-every", "-1"], "--switch-every"),
    (["--resume", str(ROOT / "data" / "tiny")], "no run of train.py"),
    (["--device", "abacus"], "--device abacus"), (["--temperature", "0"], "--temperature: must be at least")])
def test_a_users_mistake_is_one_line(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        train.main(argv)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_an_out_that_holds_a_run_is_left_alone(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("precious")
    with pytest.raises(SystemExit) as stop:
        train.main(["--out", str(tmp_path)])
    assert stop.value.code == 2 and "--resume" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text() == "precious"


def test_rows_that_are_too_long_are_left_out_of_training_and_wrong_in_evaluation(tmp_path, capsys):
    rows = ([{"problem": f"{a}+2*{a}", "answer": str(3 * a)} for a in range(1, 9)]
            + [{"problem": "1+" * 600, "answer": "1"}])
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train.main(["--data", str(tmp_path / "mine.jsonl"), "--eval-data", str(tmp_path / "mine.jsonl"),
                *SMALL_RUN, "--steps", "1", "--out", str(tmp_path / "run")])
    told = capsys.readouterr().err
    assert "1 of 9 training problems do not fit" in told and "1 held-out ones do not fit" in told
    agents = rollout.load_agents("tiny", rema.PROCESSES["rema"], PLAIN)
    found = evaluation.evaluate(agents, load_data(str(tmp_path / "mine.jsonl"), "heldout", None), max_new_tokens=32)
    silent = [episode for episode in found if not episode.turns[0].tokens]
    assert len(found) == 9 and [episode.place[0] for episode in silent] == [8] and not silent[0].correct
    with pytest.raises(SystemExit):
        train.main(["--data", str(tmp_path / "mine.jsonl"), *SMALL_RUN, "--questions", "50",
                    "--out", str(tmp_path / "b")])
    assert "fewer than --questions" in capsys.readouterr().err and not (tmp_path / "b").exists()


# ------------------------------------------------------------------------------------------------------------
# A run of the code before the redesign: its log and agents stay readable, it can't be gone on with

OLD_SETTINGS = dict(
    model="tiny", process="rema", data="arithmetic", eval_data=None, data_dir=None, example=False, sft=None,
    sft_lr=1e-05, preset=None, lora=0, lora_alpha=0.0, lora_targets=None, share=False, fit=False, questions=8,
    plans=8, answers=8, answers_high=1, turns=1, plan_format="text", filter=0, max_new_tokens=24, temperature=1.0,
    batch=256, compile=False, steps=4, switch_every=10, first="high", updates=1, reward="base", box_weight=0.5,
    leak_weight=1.0, advantage="grpo", normalise="batch", ratio="token", lr=0.0003, warmup=5, clip=0.2,
    dual_clip=0.0, grad_clip=1.0, kl=0.0, micro_tokens=16384, checkpointing=False, eval_every=2, eval_questions=4,
    show_every=20, save_every=2, seed=0, device="cpu", dtype="float32", out="out/tiny-rema-s0", resume=None)


def make_old_run(directory, **changes):
    """What it left: settings with other flags, a log, episodes with plan and sample, agents, a state."""
    old = {**OLD_SETTINGS, **changes}
    names = ["solo"] if old["process"] == "vrp" else ["high", "low"]
    model, tokenizer = models.load("tiny")
    if old["lora"]:
        model = models.add_adapters(model, old["lora"], old["lora_alpha"], rollout.make_generator(1), name="tiny")
    for place in (directory, directory / "best"):
        for name in names:
            models.save(model, tokenizer, place / name)
    (directory / "config.json").write_text(json.dumps(old, indent=1))
    log = [{"step": 0, "heldout_greedy": 50.0, "heldout_greedy_se": 1.0, "heldout_t1": 40.0, "heldout_t1_se": 1.0}]
    log += [{"step": step, "learner": names[0], "accuracy": 0.5} for step in range(1, 5)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (directory / "episodes.jsonl").write_text('{"step": 1, "id": "a", "plan": 0, "sample": 0, "turns": []}\n')
    (directory / "state.safetensors").write_bytes(b"its own format")


@pytest.mark.parametrize("changes", [{}, dict(process="vrp"), dict(turns=2), dict(plan_format="json"),
                                     dict(lora=2, lora_alpha=4.0)])
def test_a_run_of_the_old_code_is_refused_in_one_line_and_measured(tmp_path, capsys, monkeypatch, changes):
    """With the process, turns and plan format that it was trained with, which no flag says."""
    run = tmp_path / "run"
    make_old_run(run, **changes)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for more in ([], ["--steps", "9"]):
        with pytest.raises(SystemExit) as stop:
            train.main(["--resume", str(run), *more])
        err = capsys.readouterr().err
        assert stop.value.code == 2 and "another version" in err and err.count("\n") == 1
    played, plain = [], evaluation.sample_episodes

    def playing(agents, rows, samples, **how):
        episodes = plain(agents, rows, samples, **how)
        played.append((agents, len(rows), how["turns"], how["max_new_tokens"], episodes))
        return episodes
    monkeypatch.setattr(evaluation, "sample_episodes", playing)
    for i, model in enumerate((run, run / "best")):
        evaluation.main(["--model", str(model), "--out", str(tmp_path / str(i))])
        agents, rows, turns, length, episodes = played[-1]
        assert (rows, turns, length) == (4, changes.get("turns", 1), 24)       # as it was trained, as it held out
        names = ["solo"] if "process" in changes else ["high", "low"]
        assert [agent.name for agent in agents] == names
        guided = [isinstance(agent, rollout.GuidedAgent) for agent in agents]
        assert guided == ([True, False] if "plan_format" in changes else [False] * len(names))
        assert ("[FINISH]" in agents[0].role.system) == ("turns" in changes)
        assert bool(agents[0].model.adapter) == ("lora" in changes)
        assert "accuracy" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_learning_goes_on_from_the_agents_of_an_old_run(tmp_path):
    """--model takes them, as a start of a new run: each agent has its own."""
    make_old_run(tmp_path / "old")
    model, tokenizer = models.load("tiny")
    with torch.no_grad():
        model.norm.weight *= 1.5
    models.save(model, tokenizer, tmp_path / "old" / "low")
    args = train.parse(["--model", str(tmp_path / "old"), "--device", "cpu"])
    high, low = train.load_learners(args, rema.PROCESSES["rema"])
    assert torch.allclose(low.model.norm.weight, 1.5 * high.model.norm.weight)
    assert torch.equal(low.model.embed_tokens.weight, high.model.embed_tokens.weight)


# ------------------------------------------------------------------------------------------------------------
# LoRA

def test_adapters_learn_and_the_base_does_not(tmp_path):
    """Two agents on one base: base and frozen adapter stay bitwise as they were; the run loads again."""
    base = [w.clone() for w in models.load("tiny")[0].parameters()]
    train.main([*SMALL_RUN, "--steps", "2", "--eval-every", "2", "--lora", "2", "--out", str(tmp_path / "run")])
    high, low = [agent.model for agent in rollout.load_agents(str(tmp_path / "run"), rema.PROCESSES["rema"], PLAIN)]
    names = [name for name, _ in high.named_parameters() if "lora" not in name]
    assert len(names) == len(base)
    for name, weight in zip(names, base):
        assert high.get_parameter(name) is low.get_parameter(name) and torch.equal(high.get_parameter(name), weight)
    assert any(w.any() for name, w in high.named_parameters() if name.endswith("lora_B"))          # high learned
    assert not any(w.any() for name, w in low.named_parameters() if name.endswith("lora_B"))       # low was frozen
    assert {p.name for p in (tmp_path / "run/high").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not (tmp_path / "run/high/model.safetensors").exists()


def test_an_adapter_is_a_low_rank_correction():
    """y = W x + b + (alpha / r) B A x against the merged matrix; off at first; alpha and targets count."""
    model = small()
    agent = models.add_adapters(model, 2, 6.0, rollout.make_generator("lora"), ("q_proj", "down_proj"))
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(agent(tokens), model(tokens))
    trained = [w for w in agent.parameters() if w.requires_grad]
    assert len(trained) == 2 * 2 * model.config.layers and all(w.dtype == torch.float64 for w in trained)
    generator = rollout.make_generator("more")
    with torch.no_grad():
        for weight in trained:
            weight.normal_(0, 0.1, generator=generator)
        shown = agent(tokens)
        merged = small()
        for name, layer in agent.named_modules():
            if isinstance(layer, models.LoRA):
                merged.get_submodule(name).weight += 3.0 * layer.lora_B @ layer.lora_A
        assert (shown - model(tokens)).abs().max() > 1e-4
        assert (shown - merged(tokens)).abs().max() < 1e-10


def test_two_agents_with_adapters_cost_little_more_than_one():
    model = small()
    def size(*agents):
        return sum(w.untyped_storage().nbytes() for w in
                   {w.data_ptr(): w for agent in agents for w in agent.parameters()}.values())
    agents = [models.add_adapters(model, 1, 2.0, rollout.make_generator(i)) for i in range(2)]
    assert size(*agents) < 1.2 * size(agents[0])


def test_two_agents_of_135m_with_adapters_cost_little_more_than_one(smollm2):
    """Weights, adapters, gradients and moments, by their bytes: rank 16, 1.13 times one agent's."""
    base, _ = models.load(str(smollm2))
    agents = [models.add_adapters(base, 16, 32.0, rollout.make_generator(i)) for i in range(2)]
    def size(*agents):
        weights = {id(w): w for agent in agents for w in agent.parameters()}.values()
        return sum(w.nbytes * (4 if w.requires_grad else 1) for w in weights)
    assert 1.1 < size(*agents) / size(agents[0]) < 1.2


def test_peft_reads_the_adapters(tmp_path, smollm2):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base, tokenizer = models.load(str(smollm2))
    tokens = torch.randint(0, 1000, (2, 17), generator=rollout.make_generator("peft"))
    for i in range(2):
        agent = models.add_adapters(base, 4, 8.0, rollout.make_generator(i), name=smollm2)
        generator = rollout.make_generator(i)
        with torch.no_grad():
            for weight in agent.parameters():
                if weight.requires_grad:
                    weight.normal_(0, 0.02, generator=generator)
            models.save(agent, tokenizer, tmp_path / str(i))
            theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
            theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / str(i))
            assert (theirs(tokens).logits - agent(tokens)).abs().max() < 5e-4
            assert (agent(tokens) - base(tokens)).abs().max() > 0.01
            assert torch.equal(models.load(str(tmp_path / str(i)))[0](tokens), agent(tokens))


def test_adapters_on_a_run_start_from_each_agents_own_weights(tmp_path):
    train.main([*SMALL_RUN, "--steps", "2", "--switch-every", "0", "--out", str(tmp_path / "run")])
    agents = train.load_learners(
        train.parse(["--model", str(tmp_path / "run"), "--lora", "2"]), rema.PROCESSES["rema"])
    tokenizer = agents[0].tokenizer
    ids = torch.tensor([tokenizer.encode("1+2*3")])
    for agent in agents:
        own, _ = models.load(str(tmp_path / "run" / agent.name))
        assert torch.equal(agent.model(ids), own(ids)) and torch.equal(agent.reference(ids), own(ids))
    low = agents[1].model
    models.save(low, tokenizer, tmp_path / "adapter")
    again, _ = models.load(str(tmp_path / "adapter"))
    assert torch.equal(again(ids), low(ids))
    with pytest.raises(UserError, match="adapters already"):
        models.add_adapters(again, 2, 4, None)


def test_going_on_with_adapters(tmp_path):
    """--model RUN: one base for both agents and their references, and the rate that adapters want."""
    run = str(tmp_path / "run")
    train.main([*SMALL_RUN, "--steps", "2", "--switch-every", "0", "--lora", "2", "--out", run])
    assert train.parse(["--model", run]).lr == pytest.approx(1e-5)                   # ten times that of weights
    assert train.parse(["--model", f"{run}/high"]).lr == pytest.approx(1e-5)
    assert train.parse(["--model", run, "--lr", "0.1"]).lr == 0.1
    args = train.parse(["--model", run, "--kl", "0.1"])
    high, low = train.load_learners(args, rema.PROCESSES["rema"])
    models_of_all = [high.model, low.model, high.reference, low.reference]
    for name, weight in high.model.named_parameters():
        same = len({id(model.get_parameter(name)) for model in models_of_all})
        assert same == (4 if "lora" in name else 1) and weight.requires_grad == ("lora" in name)
        assert torch.equal(weight, high.reference.get_parameter(name))               # where it begins, not the base
    learned = [name for name, _ in high.model.named_parameters() if "lora" in name]
    assert any(not torch.equal(high.model.get_parameter(name), low.model.get_parameter(name)) for name in learned)
    both = train.load_learners(train.parse(["--model", f"{run}/high", "--kl", "0.1"]), rema.PROCESSES["rema"])
    assert both[0].model.norm.weight is both[1].model.norm.weight is both[1].reference.norm.weight
    with pytest.raises(SystemExit):
        train.main([*SMALL_RUN, "--model", run, "--lora", "2", "--out", str(tmp_path / "no")])
    train.main([*SMALL_RUN, "--model", run, "--steps", "1", "--kl", "0.1", "--out", str(tmp_path / "again")])
    again, _ = models.load(str(tmp_path / "again/high"))
    assert any(not torch.equal(again.get_parameter(name), high.model.get_parameter(name)) for name in learned)
    base, _ = models.load("tiny")
    assert torch.equal(again.embed_tokens.weight, base.embed_tokens.weight)


# ------------------------------------------------------------------------------------------------------------
# Several processes

def work(path):
    """What one process does, of one or of two -> the gradients, episodes ... that it had, in a file."""
    torch.set_num_threads(1)
    rank = os.environ.get("RANK", "")
    if rank:
        torch.distributed.init_process_group("gloo")
    learner, found = make_learner(small(), settings()), {}
    plain = torch.nn.utils.clip_grad_norm_

    def spy(weights, *rest):
        weights = list(weights)
        found["gradient"] = [weight.grad.clone() for weight in weights]
        return plain(weights, *rest)
    torch.nn.utils.clip_grad_norm_ = spy
    found["stats"] = train.update(learner, batch(small()), settings(micro_tokens=40, updates=2))
    found["update"] = found["gradient"]
    agents = rollout.load_agents("tiny", rema.PROCESSES["rema"], PLAIN)
    how = dict(temperatures=[1.0, 1.0], key=(1, 2))
    episodes = rollout.sample_episodes(agents, generate(5), [2, 2], max_new_tokens=24, **how)
    found["episodes"] = [(one.row["id"], one.place, *(turn.place for turn in one.turns),
                          *(turn.tokens for turn in one.turns)) for one in episodes]
    found["shared"] = episodes[0].turns[0] is episodes[1].turns[0]
    talks = rollout.sample_episodes(agents, generate(3), [1, 2], 2, max_new_tokens=12, **how)
    found["talks"] = [(one.row["id"], one.place, *(turn.tokens for turn in one.turns)) for one in talks]
    with open(f"{path}.jsonl{rank}", "w") as file:
        for i in range(4):
            said = [dict(role="user", content="x" * (9 * i + 1)), dict(role="assistant", content="y" * (i + 1))]
            print(json.dumps(dict(messages=said)), file=file)
    args = settings(sft=file.name, sft_lr=1e-3, questions=4, micro_tokens=40, share=False, resume=None, seed=0)
    solo = rollout.load_agents("tiny", rema.PROCESSES["vrp"], PLAIN)
    solo[0].optimizer = train.Optimizer(solo[0].model, args)
    train.warm_start(args, solo)
    found["lessons"] = found["gradient"]
    torch.save(found, f"{path}{rank}")
    if rank:
        torch.distributed.destroy_process_group()            # without this one exit in twenty aborted


def test_two_processes_have_the_gradient_and_the_episodes_of_one(tmp_path):
    """Also of a supervised warm start: each process takes its share of the lessons."""
    everyone = [apart.start(work, str(tmp_path / "one"))]
    where = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(20000 + os.getpid() % 20000))
    for rank in ("0", "1"):
        everyone.append(apart.start(work, str(tmp_path / "two"), RANK=rank, **where))
    for process in everyone:
        process.join(timeout=300)
    assert [process.exitcode for process in everyone] == [0, 0, 0]
    one, *two = [torch.load(tmp_path / name, weights_only=True) for name in ("one", "two0", "two1")]
    for found in two:
        for name in ("update", "lessons"):
            for a, b in zip(one[name], found[name]):
                assert (a - b).norm() <= 1e-5 * a.norm() + 1e-12
            assert sum(a.norm() for a in one[name]) > 0
        assert found["stats"] == pytest.approx(one["stats"])
        assert found["episodes"] == one["episodes"] and found["shared"] and one["shared"]
        assert found["talks"] == one["talks"]


FAILING = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
import rema, train
from data import UserError
from data.extensions import processes
processes.PATIENCE = 4
steps = []
def fail(turns, kind):
    steps.append(1)
    if len(steps) == 2 and os.environ["RANK"] == {rank!r}:
        {what}
    elif len(steps) == 2 and {sleep}:
        time.sleep(60)                                       # not waiting for anybody just now
    rema.assign_advantages(turns, kind)
train.main(sys.argv[1:], assign_advantages=fail)
"""


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("rank, what, sleep, status, said", [
    pytest.param("1", KILL, True, -9, "rank 1 has given no sign of life", marks=slow),
    pytest.param("0", "raise UserError('no such')", False, 2, "no such", marks=slow),
    pytest.param("0", KILL, True, -9, "cannot be reached", marks=slow),
    pytest.param("1", KILL, False, -9, "ended", marks=slow), pytest.param("0", KILL, False, -9, "ended", marks=slow),
    pytest.param("1", "raise UserError('no such')", True, 2, "no such", marks=slow),
    pytest.param("0", "raise IndexError('of a user')", True, 1, "IndexError: of a user", marks=slow),
    pytest.param("1", "raise IndexError('of a user')", False, 1, "IndexError: of a user", marks=slow)])
def test_when_one_process_fails_all_end_and_say_why(rank, what, sleep, status, said, tmp_path):
    """Killed or by a mistake, in its second step: within 30 s, each with its own line; and --resume goes on."""
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(root=str(ROOT), rank=rank, what=what, sleep=sleep))
    flags = [*SMALL_RUN, "--steps", "3", "--process", "vrp", "--save-every", "1", "--eval-questions", "2"]
    port = str(22000 + (os.getpid() + 7 * len(said) + 100 * int(rank)) % 20000)
    both = [subprocess.Popen([sys.executable, str(script), *flags, "--out", str(tmp_path / "run")],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={
        **os.environ, "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}) for number in range(2)]
    failing, other = both[int(rank)], both[1 - int(rank)]
    assert failing.wait(timeout=200) == status
    ended = time.monotonic()
    told = {process: process.communicate(timeout=60)[1] for process in both}
    assert time.monotonic() - ended < 30 and other.returncode == 1
    [line] = [line for line in told[other].splitlines() if "train.py: ends, since" in line]
    assert said in line and "Traceback" not in told[other]
    assert line.startswith("rank 1: ") == (rank == "0") and (f"--resume {tmp_path / 'run'}" in line) == (rank == "1")
    if status > 0:
        assert said in told[failing] and ("rank 1: " in told[failing]) == (rank == "1")
    assert "train: " not in told[both[1]] and "step/s" not in told[both[1]]          # no bar
    assert [line["step"] for line in metrics(tmp_path / "run")] == [0, 1]
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["advantages"] = "rema.assign_advantages"          # its own ones: only failing.py would go on
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    train.main(["--resume", str(tmp_path / "run")])
    assert [line["step"] for line in metrics(tmp_path / "run")] == [0, 1, 2, 3]


@pytest.mark.skipif("REMA_SLOW" not in os.environ, reason="15 seconds: set REMA_SLOW=1")
def test_torchrun_trains_as_one_process_does(tmp_path):
    """The whole program on two ranks: the same steps as on one, written by the first alone."""
    flags = [*SMALL_RUN, "--steps", "1", "--questions", "4", "--eval-questions", "4"]
    train.main([*flags, "--out", str(tmp_path / "one")])
    port = str(21000 + os.getpid() % 20000)
    both = [subprocess.Popen([sys.executable, str(ROOT / "train.py"), *flags, "--out", str(tmp_path / "two")],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}) for rank in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two")):
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert b[key] == (pytest.approx(value, rel=1e-3, abs=1e-6) if isinstance(value, float) else value), key


# ------------------------------------------------------------------------------------------------------------
# The warm start

def test_a_supervised_warm_start_teaches_each_role_its_conversations(tmp_path, monkeypatch):
    """Each once: those with its own system message, and those with none or with another for all roles."""
    roles, row, said = rema.PROCESSES["rema"], {"problem": "2+3*4"}, {"high": "b"}
    rows = [role.prompt(row, said) + [{"role": "assistant", "content": text}]
            for role, text in zip(roles, ("zz", "qq"))]
    common = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yy"}]
    rows = rows * 60 + [common, [{"role": "system", "content": "Be brief."}, *common]]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    args = train.parse(["--sft", str(tmp_path / "sft.jsonl"), "--sft-lr", "3e-3", "--questions", "2", "--warmup", "0"])
    agents = train.load_learners(args, roles)
    tokenizer, plain = agents[0].tokenizer, rollout.Agent.compute_logprobs
    taught = {agent.name: Counter() for agent in agents}

    def spying(agent, turns, temperature):
        taught[agent.name].update(tokenizer.decode(turn.tokens) for turn in turns)
        return plain(agent, turns, temperature)
    monkeypatch.setattr(rollout.Agent, "compute_logprobs", spying)
    train.warm_start(args, agents)
    assert taught == {"high": {"zz": 60, "yy": 2}, "low": {"qq": 60, "yy": 2}}
    for agent, text in zip(agents, ("zz", "qq")):
        [[turn]] = rollout.generate(agent.model, [tokenizer.chat(agent.role.prompt(row, said))],
                                    max_new_tokens=8, temperature=0, stop_ids=tokenizer.stop_ids)
        assert tokenizer.decode(turn.tokens) == text
        assert agent.optimizer.updates == 0 and not agent.optimizer.adamw.state


def test_shared_weights_are_warm_started_once_with_everything(tmp_path, monkeypatch):
    rows = [[{"role": "system", "content": role.system}, {"role": "user", "content": "x"},
             {"role": "assistant", "content": role.name}] for role in rema.PROCESSES["rema"]]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    args = train.parse(["--sft", str(tmp_path / "sft.jsonl"), "--share", "--questions", "1"])
    agents, rates = train.load_learners(args, rema.PROCESSES["rema"]), []
    monkeypatch.setattr(agents[0].optimizer, "step", lambda: rates.append(agents[0].optimizer.lr))
    train.warm_start(args, agents)
    assert rates == [1e-5, 1e-5]                             # --sft-lr, for each of two conversations


def test_a_run_that_goes_on_has_its_warm_start_behind_it(tmp_path):
    (tmp_path / "sft.jsonl").write_text("no conversation at all\n")
    args = SimpleNamespace(resume=str(tmp_path), sft=str(tmp_path / "sft.jsonl"))
    with pytest.raises(UserError):
        train.read_lessons(args, [])                         # killed before its first checkpoint: once more
    (tmp_path / "state.safetensors").touch()
    assert train.read_lessons(args, []) == []


# ------------------------------------------------------------------------------------------------------------
# What a review found

def test_micro_tokens_are_few_on_a_cpu_only():
    for flags, expected in (([], 16384), (["--model", "nowhere"], 1200), (["--model", "llama-1b", "--fit"], 16384),
                            (["--model", "nowhere", "--micro-tokens", "7"], 7)):
        assert train.parse([*flags, "--device", "cpu"]).micro_tokens == expected


def test_what_no_flag_says_follows_from_the_others():
    """Defaults that are filled in: of the tiny model and others, of what is compared, of how large a model is."""
    for flags, expected in (
            ([], dict(lr=3e-4, steps=60, questions=32, data="arithmetic", lora=0, normalise="batch", eval_every=10,
                      checkpointing=False, first=None, group=[8], followers=1)),
            (["--model", "nowhere"], dict(lr=1e-6, steps=100, questions=16, data="words", lora=0)),
            (["--lora", "4"], dict(lr=pytest.approx(3e-3), lora_alpha=8.0)),
            (["--lora", "4", "--lr", "0.1", "--lora-alpha", "1"], dict(lr=0.1, lora_alpha=1.0)),
            (["--advantage", "dr_grpo"], dict(normalise="constant")),
            (["--advantage", "dr_grpo", "--normalise", "batch"], dict(normalise="batch")),
            (["--plan-format", "json", "--normalise", "turn"], dict(normalise="sequence")),    # of one turn: the same
            (["--normalise", "turns", "--turns", "2"], dict(normalise="turns")),
            (["--switch-every", "3"], dict(eval_every=3)), (["--switch-every", "0"], dict(eval_every=10)),
            (["--share"], dict(switch_every=0, eval_every=10)), (["--checkpointing"], dict(checkpointing=True)),
            (["--model", "llama-1b", "--fit"], dict(lora=0, checkpointing=True, lr=1e-6)),
            (["--model", "llama-1b", "--fit", "--no-checkpointing"], dict(checkpointing=False)),
            (["--model", "llama-8b", "--fit"], dict(lora=16, lora_alpha=32.0, lr=pytest.approx(1e-5))),
            (["--model", "llama-8b", "--fit", "--lora", "0"], dict(lora=0, lr=1e-6)),
            (["--preset", "paper", "--fit"], dict(first="low", group=[4], kl=0.01, updates=2, lr=5e-7)),
            (["--preset", "paper", "--fit", "--group", "6", "--kl", "0"], dict(group=[6], kl=0.0, updates=2)),
            (["--preset", "paper-turns", "--fit"], dict(share=True, switch_every=0, turns=30, ratio="turn"))):
        args = train.parse([*flags, "--device", "cpu"])
        assert {name: getattr(args, name) for name in expected} == expected, flags


def test_no_turn_of_the_learner_is_no_crash(tmp_path):
    train.main([*SMALL_RUN, "--turns", "2", "--first", "low", "--steps", "1", "--max-new-tokens", "1",
                "--out", str(tmp_path / "run")])
    assert metrics(tmp_path / "run")[1]["grad_norm"] is None


def test_who_learns_first_is_recorded_and_one_agent_has_no_choice(tmp_path, monkeypatch):
    """--preset paper says --first low: a single agent does not stumble over it, see test_messages.py."""
    for i, (flags, first, learner) in enumerate((
            ([], "high", "high"), (["--first", "low"], "low", "low"),
            (["--process", "vrp"], "solo", "solo"))):
        monkeypatch.setattr(rema, "collect_turns", lambda *_: [])
        monkeypatch.setattr(train, "describe_step", lambda episodes, names, learning, found: {
            "learner": names[learning[0]]})
        found, _, _ = take_a_step(monkeypatch, tmp_path / str(i), flags)
        assert found["learner"] == learner
        assert json.loads((tmp_path / str(i) / "run" / "config.json").read_text())["first"] == first


@pytest.mark.parametrize("flags, why", [
    (["--temperature", "nan"], "temperature"), (["--lr", "nan"], "lr"), (["--sft-lr", "-1"], "sft-lr"),
    (["--lr", "inf"], "lr"), (["--temperature", "inf"], "temperature"), (["--updates", "1.5"], "--updates: must be a whole number"),
    (["--stepz", "3"], "unrecognized"), (["--lora", "4", "--lora-alpha", "0"], "--lora-alpha"),
    (["--filter", "3", "--questions", "4"], "fewer problems"), (["--filter", "64", "--turns", "2"], "needs --turns 1"),
    (["--sft", "x.jsonl", "--kl", "0.1"], "warm start a run of its own"), (["--dual-clip", "1"], "above 1"),
    (["--reward", "consistency"], "with 1 answers"), (["--share", "--process", "vrp"], "needs two roles"),
    (["--reward", "consistency", "--switch-every", "0", "--group", "3"], "with 3 answers"),
    (["--reward", "consistency", "--switch-every", "0", "--group", "8", "3"], "with 3 answers"),
    (["--reward", "consistency", "--share", "--group", "2"], "with 2 answers"),
    (["--reward", "consistency", "--process", "vrp", "--followers", "4"], "--process rema"),
    (["--reward", "consistency", "--turns", "2", "--followers", "4"], "one turn"),
    (["--turns", "2", "--followers", "2"], "--followers is for one turn"),
    (["--plan-format", "json", "--ratio", "turn"], "json")])
def test_flags_that_make_no_sense_are_refused(flags, why):
    with pytest.raises(UserError, match=why):
        train.parse(flags)


def test_agreement_among_answers_counts_those_that_are_sampled():
    assert train.parse(["--reward", "consistency", "--switch-every", "0", "--group", "4"]).followers == 1


def test_a_preset_takes_the_learning_rate_of_adapters_with_adapters():
    rates = [train.parse(["--preset", "paper", "--fit", "--model", *flags]).lr for flags in (
        ["llama-1b"], ["llama-8b"], ["llama-8b", "--lr", "5e-7"])]         # 8b: too large for full weights here
    assert rates == [5e-7, pytest.approx(5e-6), 5e-7]


@pytest.mark.closing
def test_what_has_no_state_is_not_resumed(tmp_path, capsys):
    """A published run, or one whose state was deleted: its log used to be emptied."""
    train.main([*SMALL_RUN, "--steps", "2", "--out", str(tmp_path / "run")])
    with open(tmp_path / "run" / "metrics.jsonl", "a") as log:
        log.write('{"step": 3, "lea')                        # killed while it wrote: no reason to refuse
    with pytest.raises(UserError, match="has done 2 already"):
        train.parse(["--resume", str(tmp_path / "run"), "--steps", "1"])
    for flag in ("--lr", "--updates"):
        with pytest.raises(UserError, match=f"only --steps, not {flag}"):
            train.parse(["--resume", str(tmp_path / "run"), flag, "2"])
    (tmp_path / "run" / "state.safetensors").unlink()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(SystemExit):
        train.main(["--resume", str(tmp_path / "run"), "--steps", "3"])
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert "no state.safetensors" in capsys.readouterr().err
    kept = tmp_path / "published"                            # as most of the ablations: without curves, never at work
    kept.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(tmp_path / "run" / name, kept)
    with pytest.raises(UserError, match="no state.safetensors, as published runs"):
        train.parse(["--resume", str(kept)])
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "metrics.jsonl"]
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0}\nno JSON\n')
    with pytest.raises(UserError, match="metrics.jsonl: malformed"):
        train.parse(["--resume", str(tmp_path / "run")])
    with pytest.raises(UserError, match="holds two agents"):
        train.parse(["--share", "--model", str(tmp_path / "run")])
    shutil.rmtree(tmp_path / "run" / "low")
    shutil.rmtree(tmp_path / "run" / "high")
    with pytest.raises(UserError, match="has no agents"):
        train.load_agents(str(tmp_path / "run"), rema.PROCESSES["rema"], PLAIN)


def test_a_conversation_longer_than_the_context_is_refused(tmp_path, monkeypatch, capsys):
    turns = [{"role": "user", "content": "1+" * 400 + "1"}, {"role": "assistant", "content": "401"}]
    (tmp_path / "sft.jsonl").write_text(json.dumps({"messages": turns}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        train.main(["--sft", str(tmp_path / "sft.jsonl")])
    assert stop.value.code == 2 and "but a context of 512" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_broken_weights_are_one_line():
    model, tokenizer = models.load("tiny")
    model.norm.weight.data.fill_(math.nan)
    with pytest.raises(UserError, match="not finite"):
        rollout.generate(model, [tokenizer.encode("1+1")], max_new_tokens=2)


def test_judge_tasks_and_problems_do_not_mix(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"question": "q", "response_a": "a", "response_b": "b", "answer": "A"}\n')
    (tmp_path / "b.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n')
    with pytest.raises(SystemExit) as stop:
        train.main(["--data", str(tmp_path / "a.jsonl"), "--eval-data", str(tmp_path / "b.jsonl"),
                    "--out", str(tmp_path / "run")])
    assert stop.value.code == 2 and "judge tasks" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_messages_in_parts_are_refused_in_one_line(tmp_path):
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": "x"}]
    (tmp_path / "sft.jsonl").write_text(json.dumps({"messages": parts}))
    args = train.parse(["--sft", str(tmp_path / "sft.jsonl")])
    with pytest.raises(UserError, match="conversation 1"):
        train.warm_start(args, train.load_learners(args, rema.PROCESSES["rema"]))


def test_conversations_in_turn_draw_a_group_whoever_learns(tmp_path):
    """A conversation is one sample of all its agents: one of them alone would have nothing to be compared with."""
    train.main([*SMALL_RUN, "--turns", "2", "--switch-every", "1", "--steps", "2", "--questions", "3",
                "--out", str(tmp_path / "run")])
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["learner"] for line in lines[1:]] == ["high", "low"]
    assert [line["episodes"] for line in lines[1:]] == [12, 12]              # 3 questions, groups of 4
