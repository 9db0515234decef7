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
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

import eval as evaluation
import model as models
import rema
import rollout
import train
from data import UserError
from data.formats import state
from data.problems import benchmarks
from data.views import plots
from data.extensions.guide import ACTIONS
from test_rollout import prompts, small

ROOT = pathlib.Path(__file__).resolve().parent.parent


def settings(**changes):
    return SimpleNamespace(**{**dict(
        lr=1e-3, warmup=0, grad_clip=1e9, device="cpu", normalise="batch", clip=0.2, kl=0.0, temperature=1.0,
        updates=1, micro_tokens=10 ** 9, max_new_tokens=12, ratio="token", dual_clip=0.0,
        checkpointing=False), **changes})


@pytest.fixture
def exact(monkeypatch):
    """float64 all through: the published models norm in float32, which would hide what is compared here."""
    monkeypatch.setattr(models.RMSNorm, "precision", torch.float64)


def batch(model, seed=0):
    """Samples of three prompts, three each, of unequal length, with made-up old log-probs and advantages."""
    found = rollout.generate(model, prompts([7, 2, 11]), 3, max_new_tokens=12, stop_ids={3, 4, 5, 6},
                             generator=rollout.stream(seed))
    generator = torch.Generator().manual_seed(seed)
    return [rema.Sample(prompt, c.tokens,
                        [x + 0.4 * float(torch.randn((), generator=generator)) for x in c.logprobs],
                        float(torch.randn((), generator=generator)), [0] * len(c.tokens))
            for prompt, group in zip(prompts([7, 2, 11]), found) for c in group]


def talks(model, temperature):
    """Conversations and guided plans of unequal length, both signs -> (samples like batch()'s, a guide)."""
    generator, found = torch.Generator().manual_seed(4), []
    guide = SimpleNamespace(FREE=-1, allowed=torch.rand(4, 50, generator=generator) < 0.3)
    guide.allowed[guide.FREE] = True
    for i, (turn, guided) in enumerate((
            ([0, 0, -1, -1, 1, 1, 1, 1, 1], False), ([0, -1, 1], False),
            ([0, 0, 0, -1, -1, 1, -1, 2, 2], False), ([0, -1, -1, 1, 1, 1], False),
            ([-1, 0, -1, 0, 0], True), ([-1, -1, 0, 0, 0, 0, -1], True))):
        tokens = torch.randint(1, 50, (len(turn),), generator=generator).tolist()
        states = [(i + j) % 3 if t >= 0 else guide.FREE for j, t in enumerate(turn)] * guided
        guide.allowed[states, tokens[:len(states)]] = True
        sample = rema.Sample(prompts([7, 2, 11])[i % 3], tokens, [], (0.5 + i % 4) * (-1) ** i, turn, states)
        with torch.no_grad():
            new = plain_logprobs(model, sample, temperature, guide)
        noise = 0.6 * torch.randn(len(turn), generator=generator)
        sample.logprobs = [float(x) for x, t in zip(new + noise, turn) if t >= 0]
        found.append(sample)
    return found, guide


def plain_logprobs(model, sample, temperature, guide=None):
    """Of all tokens of a sample: one forward pass, the logits masked by hand."""
    logits = model(torch.tensor([sample.prompt + sample.tokens]))[0, len(sample.prompt) - 1:-1] / temperature
    if sample.states:
        logits = logits.masked_fill(~guide.allowed[sample.states], -math.inf)
    return logits.log_softmax(-1)[range(len(sample.tokens)), sample.tokens]


def plain_loss(model, samples, args, reference=None, guide=None):
    """The objective as the paper has it: one turn of one sequence at a time, no cache, no padding."""
    talk = [[[j for j, t in enumerate(s.turn) if t == turn] for turn in sorted({*s.turn} - {-1})]
            for s in samples]                                                 # sample -> turn -> its places
    N, tokens, total = len(samples), sum(len(s.logprobs) for s in samples), 0.0
    for s, turns in zip(samples, talk):
        new, old, A = plain_logprobs(model, s, args.temperature, guide), iter(s.logprobs), s.advantage
        with torch.no_grad():
            ref = plain_logprobs(reference, s, args.temperature, guide) if args.kl else new
        for places in turns:
            n = len(places)
            scale = {"batch": tokens, "sequence": N * len(s.logprobs), "turn": N * len(turns) * n,
                     "turns": sum(map(len, talk)) * n, "constant": N * args.max_new_tokens}[args.normalise]
            log_ratios = [new[j] - next(old) for j in places]
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
def test_gradient_is_that_of_the_plain_formula(exact, monkeypatch, normalise, family, changes):
    """However the batch is cut, padded and shared, the gradient is the paper's (float64, relative 1e-9).

    Among the samples are conversations and guided plans: a turn that shares its ratio with another sample's,
    a setting that does not reach the loss, or logits that are not masked as they were sampled would show.
    """
    model, reference, args = small(family), small(family, seed=5), settings(normalise=normalise, **changes)
    others, guide = talks(model, args.temperature)
    samples = batch(model) + others
    assert len({len(s.tokens) for s in samples}) > 3         # unequal lengths, or padding is not tested
    loss = plain_loss(model, samples, args, reference, guide)
    loss.backward()
    expected = gradient(model)
    for name in changes.keys() - {"micro_tokens", "checkpointing"}:            # or it is not tested either
        without = settings(**{**vars(args), name: vars(settings())[name]})
        assert abs(plain_loss(model, samples, without, reference, guide) - loss) > 1e-6
    model.zero_grad()
    model.checkpointing = args.checkpointing
    learner, caught = train.Learner(model, args), []
    monkeypatch.setattr(learner, "step", lambda: caught.append(gradient(model)) or 0.0)
    train.update(learner, samples, args, reference, guide)
    assert (caught[0] - expected).norm() < 1e-9 * expected.norm()


def test_micro_batches_hold_each_sample_once_and_prompts_together():
    samples = batch(small())
    for budget in (1, 30, 60, 10 ** 6):
        cut = train.micro_batches(samples, budget)
        assert sorted(id(s) for part in cut for s in part) == sorted(map(id, samples))
        for part in cut:                          # (a prompt that was cut up may come twice in a batch)
            order = [tuple(s.prompt) for s in part]
            assert order == sorted(order, key=order.index)                # a prompt's samples side by side
            cost = (len(set(order)) * max(map(len, order)) + len(part) * max(len(s.tokens) for s in part))
            assert cost <= budget or len(part) == 1
    assert len(train.micro_batches(samples, 10 ** 6)) == 1


def test_parts_of_one_prompt_that_meet_again_stand_side_by_side():
    """A group over the budget is cut up; its parts once came back on both sides of another prompt's."""
    samples = [rema.Sample(prompt, [1] * n, [0.0] * n, 1.0, [0] * n)
               for prompt, lengths in (([7], (1, 2, 40)), ([8], (1, 1, 2, 40))) for n in lengths]
    for part in train.micro_batches(samples, 41):
        order = [sample.prompt for sample in part]
        assert order == sorted(order)


def test_shared_prompt_on_smollm2(smollm2):
    model, tokenizer = models.load(str(smollm2))
    prompt = tokenizer.chat([{"role": "user", "content": "What is 2 + 3?"}])
    [group] = rollout.generate(model, [prompt], 3, max_new_tokens=6, stop_ids=tokenizer.stop_ids)
    samples = [rema.Sample(prompt, c.tokens, c.logprobs, a, [0] * len(c.tokens)) for c, a in zip(group, (1.0, -1.0, 0.5))]
    plain_loss(model, samples, settings()).backward()
    expected = gradient(model)
    model.zero_grad()
    learner, caught = train.Learner(model, settings()), []
    learner.step = lambda: caught.append(gradient(model)) or 0.0
    stats = train.update(learner, samples, settings())
    assert (caught[0] - expected).norm() < 3e-5 * expected.norm()
    assert stats["sampling_logp_difference"] < 2e-5


def test_bfloat16_weights_have_float32_masters():
    """An update of 1e-6 is lost in bfloat16 weights; in the masters it adds up until the weights move."""
    model = small(dtype=torch.bfloat16)
    learner = train.Learner(model, settings(lr=1e-6))
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


def test_state_restores_weights_and_moments_bit_for_bit(tmp_path):
    samples, runs = batch(small()), []
    for interrupted in (False, True):
        learner = train.Learner(small(dtype=torch.float32), settings())
        for i in range(4):
            if interrupted and i == 2:
                state.save_state(tmp_path / "state.safetensors", {"solo": learner}, 7, 0.5, 2)
                learner = train.Learner(small(dtype=torch.float32, seed=9), settings())
                assert state.load_state(tmp_path / "state.safetensors", {"solo": learner}) == (7, 0.5, 2)
            train.update(learner, samples, settings())
        runs.append([w.clone() for w in learner.weights])
    assert all(torch.equal(a, b) for a, b in zip(*runs))


def test_more_updates_meet_the_clip():
    model = small(dtype=torch.float32)
    [[*group]] = rollout.generate(model, prompts([5]), 6, max_new_tokens=12, generator=rollout.stream(3))
    samples = [rema.Sample(prompts([5])[0], c.tokens, c.logprobs, a, [0] * len(c.tokens))
               for c, a in zip(group, (1, -1, 1, -1, 1, -1))]
    first = train.update(train.Learner(small(dtype=torch.float32), settings()), samples, settings())
    assert first["clip_share"] == 0 and first["sampling_logp_difference"] < 1e-5    # the ratio is 1 at first
    args = settings(updates=4, lr=0.01)
    assert train.update(train.Learner(model, args), samples, args)["clip_share"] > 0


def test_a_gradient_that_is_not_finite_changes_nothing():
    learner = train.Learner(small(dtype=torch.float32), settings())
    before = [w.clone() for w in learner.weights]
    learner.weights[0].grad = torch.full_like(learner.weights[0], math.nan)
    assert math.isnan(learner.step())
    assert all(torch.equal(a, b) for a, b in zip(before, learner.weights)) and learner.weights[0].grad is None
    assert not learner.optimizer.state


def two_plans():
    """Eight episodes: the second plan leaks, four answers each; the plans' tokens are 1, the answers' 2."""
    row, found = {"id": 0, "problem": "2+3", "answer": "5"}, []
    for i, (text, answers) in enumerate((
            ("add", ("\\boxed{4}", "\\boxed{4}", "\\boxed{8/2}", "\\boxed{5}")),
            ("\\boxed{5}", ("\\boxed{5}", "\\boxed{5}", "\\boxed{5}", "5")))):
        plan = rema.Turn("high", [7], [1], [-1.0], True, text)
        found += [rema.Episode(row, 0, i, k, [plan, rema.Turn("low", [8], [2], [-1.0], True, answer)])
                  for k, answer in enumerate(answers)]
    return found


@pytest.mark.parametrize("flags, high, boxed", [
    ([], [0.25, 0.75 - 1], -0.5), (["--box-weight", "0.8"], [0.25, 0.75 - 1], -0.2),
    (["--leak-weight", "0.25"], [0.25, 0.75 - 0.25], -0.5),
    (["--reward", "consistency", "--answers-high", "4"], [0.75, 0.75 - 1], -0.5)])
def test_a_step_earns_what_the_flags_say_and_shared_weights_learn_both_roles(monkeypatch, flags, high, boxed):
    """A flag that does not reach the rewards, or a role that does not reach the update, would show."""
    learner, taught = Mock(), []
    monkeypatch.setattr(train, "play", lambda *given, **how: two_plans())
    monkeypatch.setattr(train, "update", lambda _, samples, *rest: taught.append(samples) or {})
    agents, args = {"high": learner, "low": learner}, train.parse(["--share", *flags])
    found, episodes = train.one_step(train.Run(args, rema.roles("rema"), agents, {}, None), 0, [])
    low = [boxed] * 3 + [1] * 4 + [-1]                       # wrong but boxed, right, right without a box
    assert [e.rewards["high"] for e in episodes[::4]] == high and found["reward_high"] == sum(high) / 2
    assert [e.rewards["low"] for e in episodes] == pytest.approx(low)
    assert found["reward_low"] == pytest.approx(sum(low) / 8)
    assert [[s.tokens for s in samples] for samples in taught] == [[[1]] * 2 + [[2]] * 8]     # each text once


def test_shared_weights_are_one_agent_with_two_names():
    for flags, number in ((["--share"], 1), ([], 2)):
        agents, _, _ = train.load_learners(train.parse(flags), rema.roles("rema"), torch.float32)
        assert list(agents) == ["high", "low"] and len({*agents.values()}) == number
        assert len({id(agent.model) for agent in agents.values()}) == number


# ------------------------------------------------------------------------------------------------------------
# Whole runs of the embedded model

SMALL_RUN = ["--questions", "6", "--plans", "4", "--answers", "4", "--eval-questions", "12",
             "--max-new-tokens", "32", "--warmup", "1", "--switch-every", "2", "--save-every", "3"]


def metrics(directory):
    timing = ("time_sample", "time_train")
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timing} for line in lines]


def test_a_run_trains_each_agent_in_its_phase_only(tmp_path, capsys, monkeypatch):
    snapshots, plain = [], train.one_step

    def spying(run, *rest):
        result = plain(run, *rest)
        snapshots.append({role: [w.clone() for w in a.weights] for role, a in run.agents.items()})
        return result
    monkeypatch.setattr(train, "one_step", spying)
    train.main([*SMALL_RUN, "--steps", "6", "--show-every", "3", "--out", str(tmp_path / "run")])
    start = list(models.load("tiny")[0].parameters())
    same = [{role: all(torch.equal(a, b) for a, b in zip(now[role], then[role])) for role in now}
            for then, now in zip([{"high": start, "low": start}, *snapshots], snapshots)]
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
    agents, tokenizer = rollout.load_agents(str(tmp_path / "run"), rema.roles("rema"))
    assert all(torch.equal(a, b)
               for role in agents for a, b in zip(agents[role].parameters(), snapshots[-1][role]))


@pytest.mark.parametrize("extra", [["--process", "vrp"], ["--process", "mrp", "--advantage", "reinforce++"],
                                   ["--switch-every", "0", "--kl", "0.1", "--updates", "2",
                                    "--temperature", "0.7"],
                                   ["--advantage", "dr_grpo", "--answers-high", "2"],
                                   ["--advantage", "rloo", "--normalise", "sequence", "--checkpointing"],
                                   ["--share", "--turns", "2", "--ratio", "turn", "--normalise", "turn",
                                    "--dual-clip", "3", "--updates", "2"],
                                   ["--turns", "2", "--switch-every", "1", "--normalise", "turns"],
                                   ["--plan-format", "json", "--lora", "2", "--kl", "0.1", "--updates", "2"],
                                   ["--filter", "6", "--switch-every", "1", "--reward", "consistency",
                                    "--answers-high", "4"]])
def test_every_way_to_train_runs(tmp_path, extra, monkeypatch):
    """The trainer's log-probs are the sampler's: a temperature or guide that only one applies would show."""
    for part in ("curves", "before_and_after"):              # other tests look at those
        monkeypatch.setattr(plots, part, lambda *_: "")
    train.main([*SMALL_RUN, "--steps", "2", "--switch-every", "1", "--eval-every", "2", "--eval-questions", "3",
                *extra, "--out", str(tmp_path / "run")])
    lines = metrics(tmp_path / "run")
    assert len(lines) == 3 and all(math.isfinite(line["reward_" + line["learner"].split("+")[0]])
                                   for line in lines[1:])
    if "--kl" in extra:
        assert lines[1]["kl"] >= 0 and max(line["kl"] for line in lines[1:]) > 0
        assert None not in [line["sampling_logp_difference"] for line in lines[1:]]      # no group left out
    assert all((line["sampling_logp_difference"] or 0) < 1e-5 for line in lines[1:])
    if "json" in extra:
        assert all(sum(line["share_" + name] for name in ACTIONS) == pytest.approx(1) for line in lines[1:])


def test_the_filter_keeps_counts_fills_and_goes_on(tmp_path, monkeypatch):
    """Which problems are kept follows from the tries; a batch is filled up; --resume takes the old pool.

    The agent about to learn is tried ten times at temperature 1, the other one is greedy.
    """
    told, tries, plain, speak = [], [], train.refilter, rollout.speak

    def speaking(model, tokenizer, role, prompts, samples, keys, limit, temperature, *rest):
        tries.append((role.name, len(prompts), samples, temperature))
        return speak(model, tokenizer, role, prompts, samples, keys, limit, temperature, *rest)

    def filtering(*given):
        with monkeypatch.context() as patch:
            patch.setattr(rollout, "speak", speaking)
            told.append(plain(*given))
        return told[-1]
    monkeypatch.setattr(train, "refilter", filtering)
    kept = iter([True, False] * 4 + [False] * 8 + [True] * 8)
    monkeypatch.setattr(rema, "worth_learning", lambda tries: len(tries) == 10 and next(kept))
    train.main([*SMALL_RUN, "--filter", "8", "--steps", "1", "--temperature", "0.7",
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
    command = [sys.executable, "train.py", *SMALL_RUN, "--steps", "7", "--eval-every", "4", "--eval-questions", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = dict(cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = subprocess.Popen([*command, "--out", str(tmp_path / "whole")], **quiet)
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], **quiet)
    log = tmp_path / "killed" / "metrics.jsonl"
    while not (log.exists() and len(log.read_bytes().splitlines()) > 5):          # past the first checkpoint
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with open(log, "a") as file:
        file.write('{"step": 6, "half a li')                                          # what a crash may leave
    with open(tmp_path / "killed" / "episodes.jsonl", "ab") as file:
        file.write('{"step": 99, "text": "\x85 \u2028"}\n{"half é'.encode()[:-1])   # ... or a model say
    subprocess.run([sys.executable, "train.py", "--resume", str(tmp_path / "killed")], check=True, **quiet)
    assert whole.wait() == 0
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    for role in ("high", "low"):
        a, b = (models.read_tensors(tmp_path / run / role) for run in ("whole", "killed"))
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert ((tmp_path / "killed" / "episodes.jsonl").read_text()
            == (tmp_path / "whole" / "episodes.jsonl").read_text())


def test_ctrl_c_where_nothing_waits_for_it_is_one_line(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(train, "program", interrupted)
    with pytest.raises(SystemExit) as stop:
        train.main([])
    assert stop.value.code == 130 and capsys.readouterr().err == "train.py: interrupted\n"


def test_ctrl_c_saves_and_a_second_one_does_no_harm(tmp_path, monkeypatch, capsys):
    """Pressed in the last step it changes nothing: the run is complete, and closes as one."""
    plain, fatal = train.one_step, [1, 3]

    def pressed(run, step, *rest):
        if step in fatal:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return plain(run, step, *rest)
    monkeypatch.setattr(train, "one_step", pressed)
    train.main([*SMALL_RUN, "--steps", "9", "--out", str(tmp_path / "run")])
    assert len(metrics(tmp_path / "run")) == 3 and (tmp_path / "run" / "high" / "config.json").exists()
    told = capsys.readouterr()
    assert f"to go on: python train.py --resume {tmp_path / 'run'}" in told.err and "gained" not in told.out
    train.main(["--resume", str(tmp_path / "run"), "--steps", "4"])
    told = capsys.readouterr()
    assert "to go on" not in told.err and "gained" in told.out
    assert [line["step"] for line in metrics(tmp_path / "run")] == [0, 1, 2, 3, 4]


def test_three_bad_gradients_stop_the_run_and_keep_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rema, "policy_loss", lambda new, *rest: (new.sum() * math.nan,
                                                                 {"clip_share": 0.0}))
    with pytest.raises(SystemExit) as stop:
        train.main([*SMALL_RUN, "--steps", "9", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2 and "three gradients" in capsys.readouterr().err
    start = models.load("tiny")[0].parameters()
    kept = models.load(str(tmp_path / "run" / "high"))[0].parameters()
    assert all(torch.equal(a, b) for a, b in zip(start, kept)) and len(metrics(tmp_path / "run")) == 4


def test_collapse_is_named():
    healthy = dict(entropy=0.5, grad_norm=1.0, truncated=0.0, repeated=0.1, length=20)
    assert plots.watch(healthy) == []
    for change, word in (({"entropy": 1e-4}, "entropy"), ({"truncated": 0.9}, "cut off"),
                         ({"repeated": 0.9}, "repeat"), ({"length": 1}, "empty"), ({"grad_norm": math.nan}, "finite")):
        assert word in plots.watch({**healthy, **change})[0]
    assert plots.repeated_share([1, 2, 3, 4] * 10) > 0.8 and plots.repeated_share(list(range(40))) == 0


def test_the_data_cursor_goes_through_all_rows_before_it_repeats():
    rows, args = [{"id": i} for i in range(10)], SimpleNamespace(questions=4, seed=0)
    seen = [row["id"] for step in range(1, 6) for row in train.pick(rows, step, args)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]


@pytest.mark.parametrize("argv, message", [
    (["--model", "lama-1b"], "llama-1b"), (["--data", "gsm9k"], "gsm8k"), (["--answers", "1"], "--answers 1"),
    (["--plans", "1"], "--plans 1"),
    (["--process", "vrp", "--answers", "1", "--advantage", "rloo"], "--answers 1"),
    (["--questions", "0"], "--questions"), (["--data", "none.jsonl"], "none.jsonl"),
    (["--resume", "nowhere"], "nowhere"),
    (["--lr", "-1"], "--lr"), (["--grad-clip", "0"], "--grad-clip"),
    (["--switch-every", "-1"], "--switch-every"),
    (["--resume", str(ROOT / "data" / "tiny")], "no run of train.py"),
    (["--device", "abacus"], "--device abacus"), (["--temperature", "0"], "--temperature 0")])
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
    agents, tokenizer = rollout.load_agents("tiny", rema.roles("rema"))
    found = evaluation.evaluate(agents, tokenizer,
                                benchmarks.load_data(str(tmp_path / "mine.jsonl"), "heldout", None),
                                rema.roles("rema"), max_new_tokens=32)
    assert len(found) == 9 and [e.question for e in found if e.question < 0] == [-9]
    assert not [e for e in found if e.question < 0][0].correct
    with pytest.raises(SystemExit):
        train.main(["--data", str(tmp_path / "mine.jsonl"), *SMALL_RUN, "--questions", "50",
                    "--out", str(tmp_path / "b")])
    assert "fewer than --questions" in capsys.readouterr().err




# ------------------------------------------------------------------------------------------------------------
# LoRA

def test_adapters_learn_and_the_base_does_not(tmp_path):
    """Two agents on one base: base and frozen adapter stay bitwise as they were; the run loads again."""
    base = [w.clone() for w in models.load("tiny")[0].parameters()]
    train.main([*SMALL_RUN, "--steps", "2", "--eval-every", "2", "--lora", "2", "--out", str(tmp_path / "run")])
    agents, _ = rollout.load_agents(str(tmp_path / "run"), rema.roles("rema"))
    high, low = agents["high"], agents["low"]
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
    agent = models.adapt(model, 2, 6.0, rollout.stream("lora"), ("q_proj", "down_proj"))
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(agent(tokens), model(tokens))
    trained = [w for w in agent.parameters() if w.requires_grad]
    assert len(trained) == 2 * 2 * model.config.layers and all(w.dtype == torch.float64 for w in trained)
    with torch.no_grad():
        for weight in trained:
            weight.normal_(0, 0.1, generator=rollout.stream("more"))
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
    agents = [models.adapt(model, 1, 2.0, rollout.stream(i)) for i in range(2)]
    assert size(*agents) < 1.2 * size(agents[0])


def test_two_agents_of_135m_with_adapters_cost_little_more_than_one(smollm2):
    """Weights, adapters, gradients and moments, by their bytes: rank 16, 1.13 times one agent's."""
    base, _ = models.load(str(smollm2))
    agents = [models.adapt(base, 16, 32.0, rollout.stream(i)) for i in range(2)]
    def size(*agents):
        weights = {id(w): w for agent in agents for w in agent.parameters()}.values()
        return sum(w.nbytes * (4 if w.requires_grad else 1) for w in weights)
    assert 1.1 < size(*agents) / size(agents[0]) < 1.2


def test_peft_reads_the_adapters(tmp_path, smollm2):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base, tokenizer = models.load(str(smollm2))
    tokens = torch.randint(0, 1000, (2, 17), generator=rollout.stream("peft"))
    for i in range(2):
        agent = models.adapt(base, 4, 8.0, rollout.stream(i), name=smollm2)
        with torch.no_grad():
            for weight in agent.parameters():
                if weight.requires_grad:
                    weight.normal_(0, 0.02, generator=rollout.stream(i))
            models.save(agent, tokenizer, tmp_path / str(i))
            theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
            theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / str(i))
            assert (theirs(tokens).logits - agent(tokens)).abs().max() < 5e-4
            assert (agent(tokens) - base(tokens)).abs().max() > 0.01
            assert torch.equal(models.load(str(tmp_path / str(i)))[0](tokens), agent(tokens))


# ------------------------------------------------------------------------------------------------------------
# Several processes

WORKER = """
import sys, os, torch, torch.distributed as dist
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
torch.set_num_threads(1)
import rema, rollout, train, model as models
from data.problems import arithmetic
from test_train import batch, settings
from test_rollout import small
if "WORLD_SIZE" in os.environ:
    dist.init_process_group("gloo")
learner, found = train.Learner(small(), settings()), {{}}
plain = torch.nn.utils.clip_grad_norm_
def spy(weights, *rest):
    found["gradient"] = [w.grad.clone() for w in learner.masters]
    return plain(weights, *rest)
torch.nn.utils.clip_grad_norm_ = spy
found["stats"] = train.update(learner, batch(small()), settings(micro_tokens=40, updates=2))
model, tokenizer = models.load("tiny")
episodes = rollout.play(dict(high=model, low=model), tokenizer, arithmetic.generate(5), rema.roles("rema"),
                        plans=2, answers=2, max_new_tokens=24, key=(1, 2))
found["episodes"] = [(e.row["id"], e.plan, e.sample, *(t.tokens for t in e.turns)) for e in episodes]
found["shared"] = episodes[0].turns[0] is episodes[1].turns[0]
torch.save(found, sys.argv[1] + os.environ.get("RANK", ""))
if dist.is_initialized():
    dist.destroy_process_group()             # without this one exit in twenty aborted
"""


def test_two_processes_have_the_gradient_and_the_episodes_of_one(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT)))
    subprocess.run([sys.executable, script, str(tmp_path / "one")], check=True, timeout=100)
    port = str(20000 + os.getpid() % 20000)
    both = [subprocess.Popen([sys.executable, script, str(tmp_path / "two")], env={
        **os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
        for rank in range(2)]
    assert [process.wait(timeout=100) for process in both] == [0, 0]
    one, *two = [torch.load(tmp_path / name, weights_only=True) for name in ("one", "two0", "two1")]
    for found in two:
        for a, b in zip(one["gradient"], found["gradient"]):
            assert (a - b).norm() <= 1e-5 * a.norm() and a.norm() > 0
        assert found["stats"] == pytest.approx(one["stats"])
        assert found["episodes"] == one["episodes"] and found["shared"]


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
    assert [process.wait(timeout=100) for process in both] == [0, 0]
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two")):
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert b[key] == (pytest.approx(value, rel=1e-3, abs=1e-6) if isinstance(value, float) else value), key


# ------------------------------------------------------------------------------------------------------------
# The warm start

def test_a_supervised_warm_start_teaches_each_role_its_conversations(tmp_path, monkeypatch):
    """Each once: those with its own system message, and those with none or with another for all roles."""
    rows = [role.prompt("2+3*4", "b") + [{"role": "assistant", "content": text}]
            for role, text in zip(rema.roles("rema"), ("zz", "qq"))]
    common = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yy"}]
    rows = rows * 60 + [common, [{"role": "system", "content": "Be brief."}, *common]]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    run, _, _ = train.prepare(train.parse(
        ["--sft", str(tmp_path / "sft.jsonl"), "--sft-lr", "3e-3", "--questions", "2", "--warmup", "0"]))
    agents, tokenizer, plain = run.agents, run.tokenizer, train.batch_logprobs
    taught = {id(agent.model): Counter() for agent in agents.values()}

    def spying(model, samples):
        taught[id(model)].update(tokenizer.decode(sample.tokens) for sample in samples)
        return plain(model, samples)
    monkeypatch.setattr(train, "batch_logprobs", spying)
    train.warm_start(run)
    assert taught[id(agents["high"].model)] == {"zz": 60, "yy": 2}
    assert taught[id(agents["low"].model)] == {"qq": 60, "yy": 2}
    for role, text in zip(rema.roles("rema"), ("zz", "qq")):
        [[said]] = rollout.generate(agents[role.name].model, [tokenizer.chat(role.prompt("2+3*4", "b"))],
                                    max_new_tokens=8, temperature=0, stop_ids=tokenizer.stop_ids)
        assert tokenizer.decode(said.tokens) == text
        assert agents[role.name].updates == 0 and not agents[role.name].optimizer.state


# ------------------------------------------------------------------------------------------------------------
# What a review found

def test_micro_tokens_are_few_on_a_cpu_only():
    for flags, expected in (([], 16384), (["--model", "nowhere"], 1200), (["--model", "llama-1b", "--fit"], 16384),
                            (["--model", "nowhere", "--micro-tokens", "7"], 7)):
        assert train.parse([*flags, "--device", "cpu"]).micro_tokens == expected


def test_adapters_on_a_run_start_from_each_agents_own_weights(tmp_path):
    train.main([*SMALL_RUN, "--steps", "2", "--switch-every", "0", "--out", str(tmp_path / "run")])
    agents, _, tokenizer = train.load_learners(
        train.parse(["--model", str(tmp_path / "run"), "--lora", "2"]), rema.roles("rema"), torch.float32)
    ids = torch.tensor([tokenizer.encode("1+2*3")])
    for role in ("high", "low"):
        own, _ = models.load(str(tmp_path / "run" / role))
        assert torch.equal(agents[role].model(ids), own(ids))
    models.save(agents["low"].model, tokenizer, tmp_path / "adapter")
    again, _ = models.load(str(tmp_path / "adapter"))
    assert torch.equal(again(ids), agents["low"].model(ids))
    with pytest.raises(UserError, match="adapters already"):
        models.adapt(again, 2, 4, None)


def test_no_turn_of_the_learner_is_no_crash(tmp_path):
    train.main([*SMALL_RUN, "--turns", "2", "--first", "low", "--steps", "1", "--max-new-tokens", "1",
                "--out", str(tmp_path / "run")])
    assert metrics(tmp_path / "run")[1]["grad_norm"] is None


@pytest.mark.parametrize("flags, why", [
    (["--temperature", "nan"], "temperature"), (["--lr", "nan"], "lr"), (["--sft-lr", "-1"], "sft-lr"),
    (["--lr", "inf"], "lr"), (["--temperature", "inf"], "temperature"), (["--updates", "1.5"], "invalid int"),
    (["--stepz", "3"], "unrecognized"), (["--lora", "4", "--lora-alpha", "0"], "switches"), (["--filter", "3", "--questions", "4"], "fewer problems"),
    (["--sft", "x.jsonl", "--kl", "0.1"], "warm start a run of its own"),
    (["--reward", "consistency"], "--answers-high 1"),
    (["--reward", "consistency", "--switch-every", "0", "--answers", "3", "--answers-high", "8"], "--answers 3"),
    (["--reward", "consistency", "--share", "--answers", "2"], "--answers 2"),
    (["--reward", "consistency", "--process", "vrp", "--answers-high", "4"], "--process rema"),
    (["--reward", "consistency", "--turns", "2", "--answers-high", "4"], "in one turn")])
def test_flags_that_make_no_sense_are_refused(flags, why):
    with pytest.raises(UserError, match=why):
        train.parse(flags)


def test_agreement_among_answers_counts_those_that_are_sampled():
    assert train.parse(["--reward", "consistency", "--switch-every", "0", "--answers", "4"]).answers_high == 1


def test_a_preset_takes_the_learning_rate_of_adapters_with_adapters():
    rates = [train.parse(["--preset", "paper", "--fit", "--model", *flags]).lr for flags in (
        ["llama-1b"], ["llama-8b"], ["llama-8b", "--lr", "5e-7"])]         # 8b: too large for full weights here
    assert rates == [5e-7, pytest.approx(5e-6), 5e-7]


def test_what_has_no_state_is_not_resumed(tmp_path, capsys):
    """A published run, or one whose state was deleted: its log used to be emptied."""
    train.main([*SMALL_RUN, "--steps", "2", "--out", str(tmp_path / "run")])
    with open(tmp_path / "run" / "metrics.jsonl", "a") as log:
        log.write('{"step": 3, "lea')                        # killed while it wrote: no reason to refuse
    with pytest.raises(UserError, match="has done 2 already"):
        train.parse(["--resume", str(tmp_path / "run"), "--steps", "1"])
    with pytest.raises(UserError, match="only --steps, not --lr, --updates"):
        train.parse(["--resume", str(tmp_path / "run"), "--lr", "1", "--updates", "2"])
    (tmp_path / "run" / "state.safetensors").unlink()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(SystemExit):
        train.main(["--resume", str(tmp_path / "run"), "--steps", "3"])
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert "no state.safetensors" in capsys.readouterr().err
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0}\nno JSON\n')
    with pytest.raises(UserError, match="metrics.jsonl: malformed"):
        train.parse(["--resume", str(tmp_path / "run")])
    with pytest.raises(UserError, match="holds two agents"):
        train.parse(["--share", "--model", str(tmp_path / "run")])
    shutil.rmtree(tmp_path / "run" / "low")
    shutil.rmtree(tmp_path / "run" / "high")
    with pytest.raises(UserError, match="killed ones .*run/best"):
        train.load_agents(str(tmp_path / "run"), rema.roles("rema"))


def test_a_conversation_longer_than_the_context_is_refused(tmp_path):
    turns = [{"role": "user", "content": "1+" * 400 + "1"}, {"role": "assistant", "content": "401"}]
    (tmp_path / "sft.jsonl").write_text(json.dumps({"messages": turns}))
    with pytest.raises(UserError, match="but a context of 512"):
        train.prepare(train.parse(["--sft", str(tmp_path / "sft.jsonl")]))
    assert not (tmp_path / "out").exists()


def test_broken_weights_are_one_line():
    model, tokenizer = models.load("tiny")
    model.norm.weight.data.fill_(math.nan)
    with pytest.raises(UserError, match="not finite"):
        rollout.generate(model, [tokenizer.encode("1+1")], max_new_tokens=2)


def test_judge_tasks_and_problems_do_not_mix(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "q", "response_a": "a", "response_b": "b", "answer": "A"}\n')
    (tmp_path / "b.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n')
    with pytest.raises(UserError, match="judge tasks"):
        train.prepare(train.parse(["--data", str(tmp_path / "a.jsonl"), "--eval-data", str(tmp_path / "b.jsonl")]))


def test_messages_in_parts_are_refused_in_one_line(tmp_path):
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": "x"}]
    (tmp_path / "sft.jsonl").write_text(json.dumps({"messages": parts}))
    with pytest.raises(UserError, match="conversation 1"):
        train.warm_start(train.prepare(train.parse(["--sft", str(tmp_path / "sft.jsonl")]))[0])
