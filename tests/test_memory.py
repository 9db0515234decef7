"""data/extensions/memory.py: what it says a run needs, against counting by hand and against what was allocated."""
import gc
import itertools
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
if __name__ == "__main__":                       # the subprocess below
    sys.path.insert(0, str(ROOT))

import rema
import rollout
import train
from data import UserError
from data.extensions import memory
from data.formats.hub import NAMES, TINY
from data.formats.config import Config
from train import parse

PUBLISHED = {"llama-1b": 1_235_814_400, "llama-3b": 3_212_749_824, "llama-8b": 8_030_261_248,
             "llama3-8b": 8_030_261_248, "qwen-0.5b": 494_032_768, "qwen-1.5b": 1_543_714_304,
             "qwen-3b": 3_085_938_688, "qwen-7b": 7_615_616_512, "qwen3-0.6b": 596_049_920,
             "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096, "qwen3-8b": 8_190_735_360,
             "smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120, "smollm2-1.7b": 1_711_376_384,
             "deepseek-1.5b": 1_777_088_000, "deepseek-7b": 7_615_616_512, "deepseek-8b": 8_030_261_248,
             "mistral-nemo": 12_247_782_400}
SMALL = Config("llama", vocab_size=10, width=4, layers=3, heads=2, kv_heads=1, head_width=2, hidden=6,
               context=99, eps=1e-5, rope_theta=1e4, rope_scaling=None, tied=True, qkv_bias=False,
               qk_norm=False)


# ------------------------------------------------------------------------------------------------------------
# Counting

def test_the_named_models_have_the_published_numbers_of_parameters():
    assert PUBLISHED.keys() == NAMES.keys() - {"tiny"}
    for name, count in PUBLISHED.items():
        assert memory.parameters(memory.config_of(name)) == count, name
        assert memory.config_of(NAMES[name]) == memory.config_of(name)         # by its name on the hub
        assert memory.default_lora(memory.config_of(name)) == (16 if count > 4e9 else 0)


def test_a_directory_is_read_and_what_is_unknown_is_refused():
    config = memory.config_of(TINY)
    assert config == memory.config_of("tiny") == memory.config_of(str(TINY)) and config.width == 128
    for name in ("nobody/has-this", "nonsense"):
        with pytest.raises(UserError):
            memory.config_of(name)


def test_the_tiny_model_and_its_adapters_are_counted():
    for lora in (0, 4):
        learner, = train.load_learners(parse(["--lora", str(lora), "--process", "vrp"]), rema.PROCESSES["vrp"])
        found = sum(weight.numel() for weight in learner.optimizer.weights)
        assert memory.parameters(memory.config_of("tiny"), lora) == found


def test_by_hand():
    """V 10, D 4, Q 4, KV 2, F 6, L 3; 2 prompts of 5 tokens, 2 samples each of 3, in float32."""
    block = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 6 + 2 * 4        # q, k, v, o, the MLP, two norms
    weights = 10 * 4 + 3 * block + 4
    assert memory.parameters(SMALL) == weights == 428
    assert memory.parameters(SMALL, lora=2) == 3 * 2 * (8 + 6 + 6 + 8 + 10 + 10 + 10)

    # One block: each norm's input and its result before the gain; what matrix products see (q, k, v; gate,
    # up; o; down); gate, silu, up; queries, result, log-sum-exp; keys and values of all query heads.
    tokens = 2 * (4 + 4) + (4 + 4 + 4 + 6) + 3 * 6 + 4 + 4 + 2
    assert memory.kept(SMALL, 4, 2, 7, 4, lora=0) == 4 * (4 * 2 * tokens + 4 * 7 * 2 * 4)

    got = memory.estimate(SMALL, agents=1, dtype="float32", questions=2, group=2, prompt_tokens=5,
                          new_tokens=3, batch=4)
    assert (got["weights"], got["gradients"], got["optimizer"]) == (4 * weights, 4 * weights, 8 * weights)
    assert got["cache"] == 3 * 2 * 2 * 4 * 4 * (5 + 3)                         # layers, k and v, KV, float32, rows
    # Prefill: keys and values, gate, silu and up, three of D, the mask as bools and numbers; of 4 rows of 5
    assert got["sampling"] == 4 * 5 * (3 * 2 * 2 * 4 + 4 * 3 * 6 + 4 * 3 * 4 + 5 * (4 + 1))
    long = memory.estimate(SMALL, agents=1, dtype="float32", prompt_tokens=5, new_tokens=95, batch=4)
    assert long["sampling"] == long["cache"] + 4 * (2 * 100 * (4 + 3 * 4) + 10 * 4)      # scores and logits
    mask = 4 * (4 * 2 * 7 + 2 * 5 * 5)                                         # once for all blocks
    assert got["activations"] == (mask + 3 * (memory.kept(SMALL, 4, 2, 7, 4, 0) + memory.kept(SMALL, 2, 5, 5, 4, 0))
                                  + 12 * (2 * 4 * 6 + 16 * 4) + 4 * 8 * 2 * 4 * 4)
    assert got["logits"] == 5 * 4 * 12 * 10 + 4 * 4 * (2 * (12 + 10) + 2 * 12)
    assert got["total"] == 12 * weights + max(got["sampling"], got["learning"])
    twice = memory.estimate(SMALL, agents=1, dtype="float32", questions=4, group=2, prompt_tokens=5,
                            new_tokens=3, batch=4, micro_tokens=22)            # the same micro-batch, two times
    assert twice["learning"] == got["gradients"] + got["learning"]
    cut = memory.estimate(SMALL, agents=1, dtype="float32", questions=2, group=2, prompt_tokens=5,
                          new_tokens=3, batch=4, micro_tokens=19)              # a prompt, both samples; one, one sample
    assert cut["activations"] == (4 * (3 * 2 * 7 + 2 * 5 * 5) + 10 * (2 * 4 * 6 + 16 * 4) + 3 * 8 * 2 * 4 * 4
                                  + 3 * (memory.kept(SMALL, 3, 2, 7, 4, 0) + memory.kept(SMALL, 2, 5, 5, 4, 0)))


def test_a_large_embedding_is_held_back_by_adamw():
    """One short micro-batch: its peak is the optimizer's step, with quotients of the largest tensor, V x D."""
    config = replace(SMALL, vocab_size=1000, width=100, layers=1)
    got = memory.estimate(config, dtype="float32", questions=1, group=1, prompt_tokens=1, new_tokens=2)
    assert got["learning"] == got["gradients"] + 8 * 1000 * 100
    lora = memory.estimate(config, dtype="float32", questions=1, group=1, prompt_tokens=1, new_tokens=2, lora=1)
    assert lora["learning"] < 8 * 1000 * 100                                   # the embedding is frozen


@pytest.mark.parametrize("flags, expected", [
    ([], dict(agents=2, questions=3, group=4, prompt_tokens=300, new_tokens=100, batch=12, offload=True)),
    (["--process", "vrp"], dict(agents=1, questions=3, group=4, prompt_tokens=200, new_tokens=100, batch=12)),
    (["--share"], dict(agents=1, questions=6, prompt_tokens=300, batch=24, offload=False)),
    (["--example"], dict(prompt_tokens=500)),
    (["--turns", "3"], dict(agents=2, questions=3, group=4, prompt_tokens=200, new_tokens=600, batch=12)),
    (["--lora", "4"], dict(agents=2, lora=4, offload=False)),
    (["--switch-every", "0"], dict(agents=2, questions=6, offload=False)),
    (["--followers", "9"], dict(questions=3, batch=54)),
    (["--group", "5"], dict(questions=3, group=5, batch=15)),
    (["--batch", "5"], dict(batch=5)),
    (["--eval-questions", "70"], dict(batch=70))])
def test_what_settings_come_to(monkeypatch, flags, expected):
    """Groups of 2 plans and of 4 answers, of 100 tokens each, to 3 questions; an answer to a plan that is learned."""
    asked = {}
    monkeypatch.setattr(memory, "estimate", lambda config, **settings: asked.update(settings))
    base = ["--model", "qwen-0.5b", "--questions", "3", "--group", "2", "4", "--max-new-tokens", "100",
            "--eval-questions", "1"]
    memory.estimate_run(None, parse(base + flags), card=True)
    assert {name: asked[name] for name in expected} == expected
    assert asked["dtype"] == "bfloat16"
    memory.estimate_run(None, parse(base + flags + ["--dtype", "float32"]), card=False)
    assert asked["dtype"] == "float32" and not asked["offload"]


def test_advice_names_no_flag_that_is_not_needed():
    config = memory.config_of("llama-1b")
    base = "--model llama-1b --lora 0 --no-checkpointing --micro-tokens 16384 "
    args = parse(base.split())

    def fits(flags, size):
        words = (base + " ".join(flags)).split()
        return memory.advise(config, parse(words), size, card=True) == "fits"
    for size in (8 * memory.GB, 14 * memory.GB, 24 * memory.GB, 50 * memory.GB):
        said = memory.advise(config, args, size, card=True)
        flags = ["--" + flag for flag in said.removeprefix("does not fit as it is; fits with --").split(" --")]
        assert len(flags) < 6 and fits(flags, size), said
        for i in range(len(flags)):
            assert not fits(flags[:i] + flags[i + 1:], size), said


def test_who_holds_what():
    def get(**changes):
        return memory.estimate(memory.config_of("llama-1b"), **changes)
    N = PUBLISHED["llama-1b"]
    both, rests = get(), get(offload=True)
    assert both["weights"] == rests["weights"] == 2 * 2 * N                    # two agents in bfloat16
    assert both["optimizer"] == 2 * 12 * N and rests["optimizer"] == rests["host"] == 12 * N
    assert get(kl=0.1)["weights"] == 3 * 2 * N                                 # and the reference
    assert get(lora=16)["weights"] == get(lora=16, kl=0.1)["weights"] == 2 * N             # one base for all
    assert get(lora=16)["optimizer"] == 2 * get(lora=16)["adapters"] < 0.2 * N


@pytest.mark.parametrize("fixed", [{}, {"lora": 16}, {"checkpointing": True}, {"dtype": "float32"}])
def test_more_of_anything_never_needs_less(fixed):
    """A budget of micro_tokens can be filled in many ways, so for the others it is out of the way."""
    def total(**changes):
        settings = {"micro_tokens": 10 ** 9, **fixed, **changes}
        return memory.estimate(memory.config_of("llama-1b"), **settings)["total"]
    for name, values in {"agents": (1, 2), "questions": (1, 2, 16, 64), "group": (1, 2, 8, 32), "kl": (0, 1),
                         "prompt_tokens": (8, 64, 200, 800), "new_tokens": (2, 64, 65, 512, 2048),
                         "batch": (1, 16, 256), "chunk": (64, 1024), "dtype": ("bfloat16", "float32"),
                         "micro_tokens": (1024, 2048, 16384, 65536)}.items():
        totals = [total(**{name: value}) for value in values]
        assert totals == sorted(totals), name
    assert total(checkpointing=True) <= total(checkpointing=False) and total(offload=True) <= total()


# ------------------------------------------------------------------------------------------------------------
# The table

def test_the_table_of_an_8b_model():
    full = memory.table("llama-8b", parse(["--model", "llama-8b", "--lora", "0", "--no-checkpointing"])).splitlines()
    assert full[0].startswith("llama-8b: 8,030,261,248 weights")
    card = next(line for line in full if line.startswith(" 80 GB"))
    assert card.startswith(" 80 GB: does not fit as it is; fits with --lora 16")
    flags = ["--model", "llama-8b", *card.partition(", with ")[2].split()]
    assert " 80 GB: fits" in memory.table("llama-8b", parse(flags))            # what it says is true
    assert "24 GB: does not fit as it is; fits with --" in memory.table("llama-8b", parse(flags))
    assert "16 GB: " + memory.TOO_LARGE in memory.table("llama-8b", parse(flags))


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_models_fit_one_80_gb_card_by_default(name):
    lora = memory.default_lora(memory.config_of(name))
    args = parse(["--model", name, "--lora", str(lora), "--checkpointing"])
    assert " 80 GB: fits" in memory.table(name, args)


def test_where_python_cannot_say_how_large_the_memory_is(monkeypatch):
    """Windows has no os.sysconf: the last line, about the memory here, is left out there."""
    args = parse(["--model", "qwen-0.5b"])
    before = memory.table("qwen-0.5b", args).splitlines()
    monkeypatch.delattr("os.sysconf")
    assert memory.table("qwen-0.5b", args).splitlines() == before[:-1]


def test_a_program_with_three_roles_needs_more(capsys):
    """Three sets of weights, and a third prompt that holds what two have said."""
    flags = ["--model", "llama-1b", "--fit"]
    train.main(flags)
    two = capsys.readouterr().out.splitlines()
    train.main(flags, roles=[*rema.PROCESSES["rema"], rema.LOW])
    three = capsys.readouterr().out.splitlines()
    numbers = []
    for lines in (two, three):
        numbers.append({line.split()[0]: float(line.split()[1]) for line in lines if line.startswith(("weights", "cache"))})
    assert numbers[1]["weights"] == pytest.approx(1.5 * numbers[0]["weights"], abs=0.01)
    assert numbers[1]["cache"] > numbers[0]["cache"] and two[-1].startswith("  here: ")


def test_a_run_is_as_large_as_what_it_trained(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "config.json").write_text('{"model": "qwen-0.5b"}')
    assert memory.find_weights(str(tmp_path)) == "qwen-0.5b"                   # adapters: what they were put on
    (tmp_path / "low").mkdir()
    (tmp_path / "low/config.json").write_text("{}")
    assert memory.find_weights(str(tmp_path)) == str(tmp_path / "low")
    assert memory.find_weights("qwen-0.5b") == "qwen-0.5b"


def test_all_settings_of_the_command_line_have_a_table():
    for flags in (["--process", "vrp"], ["--share"], ["--kl", "0.1"], ["--switch-every", "0"],
                  ["--turns", "3"], ["--preset", "paper"], ["--preset", "paper-turns"]):
        assert "total" in memory.table("qwen-0.5b", parse(["--model", "qwen-0.5b", *flags]))


# ------------------------------------------------------------------------------------------------------------
# Against what a run allocates

def settings(model, new, lora, micro, checkpointing):
    return parse(["--model", str(model), "--process", "vrp", "--lora", str(lora), "--max-new-tokens",
                  str(new), "--micro-tokens", str(micro)] + ["--checkpointing"] * checkpointing)


def one_step(learner, args, questions, group, prompt, new, phase=lambda name: None):
    """What train.py does in a step: sample, then learn; twice, since moments come with the first update."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(learner.model.config.vocab_size, (questions, prompt), generator=generator)
    prompts[:, 0] = torch.arange(questions)                                    # they share no beginning
    phase("sampling")
    found = rollout.generate(learner.model, prompts.tolist(), group, max_new_tokens=new, batch=10 ** 6)
    turns = [turn for those in found for turn in those]
    for i, turn in enumerate(turns):
        turn.advantage = (-1.0) ** i
    phase("learning")
    for _ in range(2):
        train.update(learner, turns, args)


def predicted(name, questions, group, prompt, new, lora=0, micro=10 ** 9, checkpointing=False):
    return memory.estimate(memory.config_of(name), agents=1, dtype="float32", lora=lora, questions=questions,
                           group=group, prompt_tokens=prompt, new_tokens=new, batch=questions * group,
                           micro_tokens=micro, checkpointing=checkpointing)


def allocated(work):
    """The most bytes of tensors that were alive at once while `work` ran, beyond those from before."""
    profiler = torch.profiler
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [(event.start_ns(), event.nbytes()) for event in profile.profiler.kineto_results.events()
              if event.name() == "[memory]"]
    return max(itertools.accumulate(size for _, size in sorted(events, key=lambda event: event[0])))


@pytest.mark.parametrize("questions, group, prompt, new, lora, micro, checkpointing", [
    (2, 3, 100, 20, 16, 10 ** 9, False), (3, 4, 25, 50, 0, 300, False), (2, 8, 40, 40, 16, 400, True),
    (2, 8, 40, 40, 0, 10 ** 9, True)])
def test_the_embedded_model_allocates_what_was_predicted(questions, group, prompt, new, lora, micro,
                                                         checkpointing):
    args = settings("tiny", new, lora, micro, checkpointing)

    def work():
        learner, = train.load_learners(args, rema.PROCESSES["vrp"])
        one_step(learner, args, questions, group, prompt, new)
    want = predicted("tiny", questions, group, prompt, new, lora, micro, checkpointing)["total"]
    found = allocated(work)
    print(f"predicted {want / 1e6:.2f} MB, allocated {found / 1e6:.2f} MB")
    assert want == pytest.approx(found, rel=0.15)


def anonymous():
    """Bytes of this process that no file stands for: weights that are mapped from a file do not count."""
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("RssAnon")).split()[1]) * 1024


def measure(model, questions, group, prompt, new, lora=0, micro=10 ** 9, checkpointing=False):
    """Peak bytes of a run above the process's own, looked at every millisecond -> {phase: bytes}."""
    peak, phase, done = {}, ["loading"], threading.Event()

    def watch():
        while not done.wait(0.001):
            peak[phase[0]] = max(peak.get(phase[0], 0), anonymous())
    gc.collect()
    base, watcher = anonymous(), threading.Thread(target=watch)
    watcher.start()
    args = settings(model, new, lora, micro, checkpointing)
    learner, = train.load_learners(args, rema.PROCESSES["vrp"])
    one_step(learner, args, questions, group, prompt, new, lambda name: phase.__setitem__(0, name))
    done.set()
    watcher.join()
    return {name: size - base for name, size in peak.items()}


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_smollm2_needs_what_was_predicted(smollm2):
    """One small shape with adapters, for speed; `python tests/test_memory.py JSON` measures any other one."""
    shape = dict(questions=2, group=2, prompt=48, new=20, lora=16)
    # glibc keeps freed blocks: give them back at once, so that the process is as large as its tensors
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
                   "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    found = subprocess.run([sys.executable, __file__, json.dumps({"model": str(smollm2), **shape})],
                           env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    print(found.stdout)
    measured = json.loads(found.stdout)["learning"]
    assert predicted(smollm2, **shape)["total"] == pytest.approx(measured, rel=0.15)


if __name__ == "__main__":
    started, given = time.perf_counter(), json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    measure("tiny", 2, 2, 20, 8, given.get("lora", 0))       # the process's own: imports at first use
    print(json.dumps({**measure(**given), "predicted": predicted(given.pop("model"), **given)["total"],
                      "seconds": time.perf_counter() - started}))
