"""The table of speed and memory: this project, transformers and TRL side by side. Prints markdown, line by line.

    python tests/bench.py --model DIR --peers PYTHON                      all sections: half an hour or more
    python tests/bench.py --model DIR --only floor,growth                 what needs no other library
    python tests/bench.py --model DIR --peers PYTHON --device cuda --only sampling,step,floor,growth,prompt
                                                                          on a GPU: never tried, see README
    python tests/bench.py --model DIR --peers PYTHON --quick --repeats 1  does it run? figures mean nothing

DIR: a Hugging Face directory with weights (made for SmolLM2-135M). PYTHON: the interpreter of an environment
that has torch, transformers and trl, which this project does not need: without it the peers are skipped.

How to compare two programs fairly:
- Each runs in a process of its own that has loaded the weights and waits; this one asks them for one
  measurement in turn, and in the opposite order in the next round. A machine that slows down for a minute
  then slows all of them, and each round gives a ratio; the table has their median, lowest and highest.
- They get the same weights, token ids, number of samples, limits, end tokens, type and threads, and each runs
  once before it counts. What counts is what is kept: a row's tokens up to its end token, not the padding.
- Time alone is a poor judge of a decoder: `floor` compares with the matrix products that it cannot avoid.
- Memory is the process's own (anonymous resident) memory, read every 2 ms during a step that is not timed,
  beyond what it holds between two steps (weights, moments) and the gradients. Unlike the profiler's memory
  events it includes what the allocator and oneDNN hold, and it can be taken of a program that one has not
  written. Linux only. The step's section wants 22 GB: TRL without checkpointing alone takes 18.

Sections: sampling, against transformers' generate. step, a GRPO step and its memory, against TRL. floor, a
decoding step against its matrix products. growth, time against length, and how often a prompt is run. prompt,
a group's prompt run once, against once a sample. memory, of a large vocabulary. joined, whether q, k, v as one
product would be faster. worth, what two things are that the sampler does for speed. profile, what a decoding step
spends its time on.
"""
import argparse
import ctypes
import dataclasses
import functools
import gc
import importlib
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import torch
import torch.nn.functional as F
from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parent.parent
FULL = dict(questions=8, samples=8, new=128, groups=4, turn=64, lengths=(1024, 2048, 4096, 8192))
QUICK = dict(questions=2, samples=2, new=16, groups=2, turn=8, lengths=(256, 512))


# ------------------------------------------------------------------------------------------------------------
# Time and memory

def read_memory():
    """Bytes of this process's memory that are no file's: a checkpoint that is only mapped does not count."""
    fields = pathlib.Path("/proc/self/statm").read_text().split()
    total, shared = int(fields[1]), int(fields[2])
    return (total - shared) * os.sysconf("SC_PAGE_SIZE")


def give_back():
    """Freed memory goes back to the system, where the other worker finds it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def measure_rest(model):
    """Bytes in use between two steps, and gradients for all weights, be they there or not."""
    give_back()
    held = read_memory()
    if torch.cuda.is_available():
        held = torch.cuda.memory_allocated()
    for weight in model.parameters():
        if weight.grad is None:
            held += weight.numel() * weight.element_size()
    return held


class Watch(threading.Thread):
    """From its making to `stop`: a clock, or with `memory` a thread that sees every 2 ms what is in use."""

    def __init__(self, model, memory):
        super().__init__(daemon=True)
        self.base = 0
        if memory:
            self.base = measure_rest(model)
        self.peak, self.going = 0, memory
        self.began = time.perf_counter()
        self.start()

    def run(self):
        while self.going:
            self.peak = max(self.peak, read_memory() - self.base)
            time.sleep(0.002)

    def stop(self, kept):
        answer = tell_time(self.began, kept)
        self.going = False
        if torch.cuda.is_available():                        # what the process holds says nothing of a card
            self.peak = torch.cuda.max_memory_allocated() - self.base
            torch.cuda.reset_peak_memory_stats()
        give_back()
        answer["MiB"] = self.peak / 2**20
        return answer


def tell_time(start, kept=0, times=1):
    """An answer: seconds since `start`, each of so many times, and the tokens that were kept."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()                             # a GPU answers before it has worked
    seconds = (time.perf_counter() - start) / times
    return {"seconds": seconds, "tokens": kept, "speed": kept / seconds}


# ------------------------------------------------------------------------------------------------------------
# What runs in the worker processes

class Ours:
    """This project: each method is one measurement that answers with a dictionary."""

    def __init__(self, model, dtype, device="cpu", flags=""):
        sys.path.insert(0, str(ROOT))
        self.models = importlib.import_module("model")
        self.rema = importlib.import_module("rema")
        self.rollout = importlib.import_module("rollout")
        self.train = importlib.import_module("train")
        self.problems = importlib.import_module("data.problems.generate")
        threads = str(torch.get_num_threads())
        self.args = self.train.parse(["--model", model or "tiny", "--device", device, "--dtype", dtype,
                                      "--threads", threads, *flags.split()])
        self.model, self.tokenizer = self.models.load(model or "tiny", device, getattr(torch, dtype))
        if not model:                              # the vocabulary of Llama 3 and next to nothing below it
            config = dataclasses.replace(self.model.config, vocab_size=128_256, width=64, layers=2)
            self.model = self.models.Transformer(config)
            self.models.init_weights(self.model, torch.Generator().manual_seed(0))
            self.model.to(device)
        self.agent = self.rollout.Agent(self.rema.VRP, self.model, self.tokenizer)

    # Prompts

    def words(self, seed, number):
        """Word problems, one after the other, cut after so many words: a row."""
        rows = self.problems.generate(40, seed=seed, kind="words")
        text = " ".join(row["problem"] for row in rows)
        return {"problem": " ".join(text.split()[:number])}

    def prompts(self, number, shortest=80, longest=200):
        """Chat prompts of word problems, their lengths spread evenly over a range, as messages and as ids."""
        found = {"messages": [], "ids": [], "stop": sorted(self.tokenizer.stop_ids)}
        for i in range(number):
            target = shortest + (longest - shortest) * i // max(1, number - 1)
            n, ids = 0, []
            while len(ids) < target:
                n += 1
                messages = self.rema.VRP.prompt(self.words(i, n), {})
                ids = self.tokenizer.chat(messages)
            found["messages"].append(messages)
            found["ids"].append(ids)
        return found

    # Sampling

    def generate(self, ids, samples, tokens, stop=(), seed=0):
        generator = torch.Generator().manual_seed(seed)
        return self.rollout.generate(self.model, ids, samples, max_new_tokens=tokens, temperature=1.0,
                                     stop_ids=stop, generator=generator)

    def sample(self, **how):
        start = time.perf_counter()
        kept = 0
        for group in self.generate(**how):
            kept += sum(len(turn.tokens) for turn in group)
        return tell_time(start, kept)

    def decode(self, ids, samples, steps):
        """A decoding step: a call with 1 + steps tokens a row less one that stops after the first."""
        one = self.sample(ids=ids, samples=samples, tokens=1)["seconds"]
        more = self.sample(ids=ids, samples=samples, tokens=1 + steps)["seconds"]
        return {"seconds": (more - one) / steps}

    @torch.no_grad()
    def floor(self, rows, steps):
        """The linear layers of one decoding step, the head included, and nothing else."""
        weights = [part.weight for part in self.model.modules() if isinstance(part, torch.nn.Linear)]
        return self.multiply(weights, rows, steps)

    @torch.no_grad()
    def join(self, names, rows, steps, joined):
        """Some layers of each attention or MLP: a product each, or one for all of them."""
        weights = []
        for block in self.model.layers:
            for part in (block.self_attn, block.mlp):
                chosen = [layer.weight for name, layer in part.named_children() if name in names]
                if joined and chosen:
                    chosen = [torch.cat(chosen)]
                weights += chosen
        return self.multiply(weights, rows, steps)

    def multiply(self, weights, rows, steps):
        inputs = {}
        for weight in weights:
            inputs[weight.shape[1]] = torch.randn(rows, weight.shape[1]).to(weight)
        tell_time(0)                                         # a GPU is idle from here on
        start = time.perf_counter()
        for _ in range(steps):
            for weight in weights:
                F.linear(inputs[weight.shape[1]], weight)
        return tell_time(start, times=steps)

    def evaluate(self, number, tokens, without):
        """Two agents answer problems at temperature 1, without one thing that the sampler does for speed."""
        rows = self.problems.generate(number, split="heldout")
        agents = [self.rollout.Agent(role, self.model, self.tokenizer) for role in self.rema.PROCESSES["rema"]]
        attend, decode = self.models.attend, self.rollout.decode
        if without == "products":
            self.models.attend = attend_by_library
        if without == "leaving":
            self.rollout.decode = functools.partial(decode, drop_done=False)
        start = time.perf_counter()
        self.rollout.rollout(agents, rows, [1, 1], temperatures=[1.0, 1.0], max_new_tokens=tokens)
        answer = tell_time(start)
        self.models.attend, self.rollout.decode = attend, decode
        return answer

    def profile(self, ids, samples, steps):
        """What the decoding steps spend their time on, as the profiler's table."""
        self.generate(ids, samples, 2)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            self.generate(ids, samples, 1 + steps)
        averages = found.key_averages()
        return {"text": averages.table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=30)}

    def prefill(self, questions, plans, answers):
        """Prompt tokens put through the model by questions -> plans -> answers, and the prompts' lengths."""
        counted = []
        hidden = self.model.hidden

        def count(tokens, cache=None, real=None):
            if tokens.shape[1] > 1:                          # a prompt: decoding has one token a row
                counted.append(int(real.sum()))
            return hidden(tokens, cache, real)

        self.model.hidden = count
        rows = [self.words(i, 60) for i in range(questions)]
        first = [self.tokenizer.chat(self.rema.HIGH.prompt(row, {})) for row in rows]
        second = []
        for row, group in zip(rows, self.generate(first, plans, 8)):
            for turn in group:
                said = {"high": self.tokenizer.decode(turn.tokens)}
                second.append(self.tokenizer.chat(self.rema.LOW.prompt(row, said)))
        self.generate(second, answers, 8)
        del self.model.hidden                                # the class's own again
        lengths = [len(prompt) for prompt in first + second]
        return {"count": sum(counted)}, {"count": sum(lengths)}

    # Training

    def watch(self, work, tokens, memory):
        """Time of work(), or with `memory` its peak beyond weights, moments and gradients."""
        if self.agent.optimizer is None:
            self.train.add_optimizer(self.agent, self.args)
        self.args.max_new_tokens = tokens
        watch = Watch(self.model, memory)
        return watch.stop(work() or 0)

    def step(self, ids, samples, tokens, stop, seed, memory=False):
        """A GRPO step: sample, reward at random (so that no group is dead), score and update."""
        def work():
            rng = random.Random(seed)
            turns = []
            for i, group in enumerate(self.generate(ids, samples, tokens, stop, seed)):
                for j, turn in enumerate(group):
                    turn.place = (i, j)
                    turn.reward = rng.random()
                    turns.append(turn)
            self.rema.assign_advantages(turns)
            self.train.update(self.agent, turns, self.args)
            return sum(len(turn.tokens) for turn in turns)
        return self.watch(work, tokens, memory)

    def update(self, samples, tokens, prompt, plain=False, memory=False):
        """A training step on random tokens under one prompt; plain: a row with the prompt for each sample."""
        rng = random.Random(0)
        ids = rng.choices(range(1000, 40_000), k=prompt)
        turns = []
        for i in range(samples):
            said = rng.choices(range(1000, 40_000), k=tokens)
            turns.append(self.rema.Turn(ids, said, [-11.0] * tokens, True, place=(0, i), advantage=rng.gauss(0, 1)))

        def update():
            self.train.update(self.agent, turns, self.args)

        def update_plainly():
            rows = torch.tensor([turn.prompt + turn.tokens for turn in turns], device=self.args.device)
            hidden = self.model.hidden(rows[:, :-1])[:, prompt - 1:]                           # (B, T, D)
            new, _ = self.models.compute_logprobs(self.model, hidden.flatten(0, 1), rows[:, prompt:].flatten())
            self.rema.assign_weights(turns)
            old, advantages, weights = self.train.flatten(turns, self.args.device)
            loss, _ = self.rema.policy_loss(new, old, advantages, weights)
            loss.backward()
            self.agent.optimizer.step()

        work = update
        if plain:
            work = update_plainly
        return self.watch(work, tokens, memory)


def attend_by_library(q, k, v, mask):
    """As model.attend, when decoding as well."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)


class Transformers:
    """transformers' generate: left padding, sdpa, a growing cache; sampling from the whole distribution."""

    def __init__(self, model, dtype, device):
        from transformers import AutoModelForCausalLM
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype),
                                                          attn_implementation="sdpa").eval().to(device)
        self.model.generation_config.eos_token_id = None     # or no `stop` would mean the model's own

    @torch.no_grad()
    def sample(self, ids, samples, tokens, stop, seed):
        torch.manual_seed(seed)
        longest = max(len(row) for row in ids)
        rows, mask = [], []
        for row in ids:
            padding = longest - len(row)
            rows.append([0] * padding + row)
            mask.append([0] * padding + [1] * len(row))
        rows = torch.tensor(rows, device=self.model.device)
        mask = torch.tensor(mask, device=self.model.device)
        start = time.perf_counter()
        result = self.model.generate(
            rows, attention_mask=mask, num_return_sequences=samples, max_new_tokens=tokens, do_sample=True,
            temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0, eos_token_id=stop or None)[:, longest:]
        end = torch.isin(result, torch.tensor(stop, device=result.device)).long()              # (B, T)
        ended_before = end.cumsum(-1) - end
        return tell_time(start, int((ended_before == 0).sum()))


def serve_trl(ask, answer, model, messages, ids, samples, tokens, checkpointing, device):
    """TRL's trainer with its own loop: a callback holds it before each step until it is asked for one."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) != ids:
        raise SystemExit("the chat template gives other token ids here: that would be no fair comparison")
    rng = random.Random(0)
    kept = [0]

    def reward(completion_ids, **_):
        kept[0] = sum(len(row) for row in completion_ids)
        return [rng.random() for _ in completion_ids]

    class Hold(TrainerCallback):
        def on_step_begin(self, *_, **__):
            question = ask()
            self.watch = Watch(network, question.get("memory", False))

        def on_step_end(self, *_, **__):
            answer(self.watch.stop(kept[0]))

    with tempfile.TemporaryDirectory() as out:
        settings = GRPOConfig(
            out, per_device_train_batch_size=len(ids) * samples, num_generations=samples,
            max_completion_length=tokens, beta=0.0, num_iterations=1, temperature=1.0, learning_rate=1e-6,
            gradient_checkpointing=checkpointing, bf16=False, use_cpu=device == "cpu", shuffle_dataset=False,
            max_steps=10**6, save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True)
        rows = Dataset.from_list([{"prompt": message} for message in messages])
        trainer = GRPOTrainer(network, reward, settings, rows, processing_class=tokenizer, callbacks=[Hold()])
        answer({})
        trainer.train()


def serve(kind, threads, **settings):
    """A worker: a JSON object a line on stdin is a question, one on stdout its answer; EOF ends it."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                                            # what a library prints does not belong there
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)

    def answer(value):
        print(json.dumps(value), file=channel, flush=True)

    def ask():
        line = sys.stdin.readline()
        if not line:
            sys.exit()                                       # also from the middle of TRL's loop
        return json.loads(line)

    if kind == "trl":
        return serve_trl(ask, answer, **settings)
    if kind == "ours":
        worker = Ours(**settings)
    else:
        worker = Transformers(**settings)
    answer({})
    while True:
        question = ask()
        method = getattr(worker, question.pop("do"))
        answer(method(**question))


# ------------------------------------------------------------------------------------------------------------
# The side that asks

class Worker:
    """A process that serves one kind of measurement. It ends (its stdin closes) when nobody refers to it."""

    def __init__(self, args, kind, **settings):
        self.kind, self.log = kind, tempfile.TemporaryFile("w+")
        python = args.peers
        if kind == "ours":
            python = sys.executable
        settings.update(kind=kind, threads=args.threads, device=args.device)
        self.process = subprocess.Popen(
            [python, __file__, "--serve", json.dumps(settings)], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.log,
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"})
        self.read_answer()

    def read_answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            last = "".join(self.log.readlines()[-12:])
            raise SystemExit(f"bench: the {self.kind} worker ended (out of memory, if it says nothing):\n{last}")
        return json.loads(line)

    def end(self):
        self.process.kill()
        self.process.wait()

    def __call__(self, do=None, **question):
        self.process.stdin.write(json.dumps({"do": do, **question}) + "\n")
        self.process.stdin.flush()
        return self.read_answer()


def ask_in_turn(label, repeats, calls):
    """Each call once a round, every second round backwards -> for each call its answers, round by round.

    calls: functions of the round's number. Before that each is made once for nothing: caches, moments, and what a
    library builds on its first call.
    """
    for call in calls:
        call(99)
    answers = [[] for _ in calls]
    for i in tqdm(range(repeats), desc=label, disable=None):
        order = list(range(len(calls)))
        if i % 2:
            order.reverse()
        for j in order:
            answers[j].append(calls[j](i))
    return answers


def asker(worker, do=None, seeded=False, **question):
    """A function of a round's number that asks a worker; seeded: the number is what it draws from."""
    def ask(i, **more):
        if seeded:
            more["seed"] = i
        return worker(do, **question, **more)
    return ask


# ------------------------------------------------------------------------------------------------------------
# Lines of the table

FORMAT = {"speed": "{:.0f} tokens/s", "seconds": "{:.3g} s", "MiB": "{:.0f} MiB", "count": "{}"}


def show_median(answers, key):
    value = statistics.median(answer[key] for answer in answers)
    kept = statistics.median(answer.get("tokens", 0) for answer in answers)
    text = FORMAT[key].format(value)
    if kept:
        text += f" ({kept:.0f} kept)"
    return text


def make_line(what, key, ours, other=None, bar="", invert=False):
    """A line of the table. ours, other: answers, compared by the entry `key`; bar: such as ">= 3".

    invert: the ratio says how many times more the other takes.
    """
    if not other:
        return [what, show_median(ours, key), "skipped: no --peers", "", ""]
    ratios = []
    for our, their in zip(ours, other):
        ratio = our[key] / their[key]
        if invert:
            ratio = 1 / ratio
        ratios.append(ratio)
    middle = statistics.median(ratios)
    if bar:
        sign, limit = bar.split()
        met = middle <= float(limit)
        if sign == ">=":
            met = middle >= float(limit)
        bar += ": met" if met else ": missed"
    return [what, show_median(ours, key), show_median(other, key),
            f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", bar]


# ------------------------------------------------------------------------------------------------------------
# Sections: each gives lines of the table

def sampling(args, size):
    """Tokens a second that are kept, with stops and without, in both types."""
    kinds = ["ours"]
    if args.peers:
        kinds.append("transformers")
    for dtype, bar in (("float32", ">= 1.8"), ("bfloat16", ">= 2")):
        workers = [Worker(args, kind, model=args.model, dtype=dtype) for kind in kinds]
        given = workers[0]("prompts", number=size["questions"])
        for stop, goal, label in ((given["stop"], bar, "stops"), ([], "", "no stops")):
            calls = [asker(worker, "sample", seeded=True, ids=given["ids"], samples=size["samples"], stop=stop,
                           tokens=size["new"]) for worker in workers]
            answers = ask_in_turn(f"sampling, {dtype}, {label}", args.repeats, calls)
            yield make_line(f"sampling, {dtype}, {label}, against transformers", "speed", *answers, bar=goal)


def step(args, size):
    """A whole GRPO step, fp32: sampling, scoring, update. Its memory is measured in one more step."""
    ours = Worker(args, "ours", model=args.model, dtype="float32", flags=args.train_flags)
    given = ours("prompts", number=size["groups"])
    shape = {"ids": given["ids"], "samples": size["samples"], "tokens": size["turn"]}
    mine = asker(ours, "step", seeded=True, stop=given["stop"], **shape)
    if not args.peers:
        times = ask_in_turn("GRPO step", args.repeats, [mine])
        yield make_line("GRPO step, float32", "seconds", *times)
        yield make_line("its memory beyond weights, gradients, moments", "MiB", [mine(98, memory=True)])
        return
    for way in ("with", "without"):      # one after the other: together they need 24 GB
        worker = Worker(args, "trl", model=args.model, messages=given["messages"],
                        checkpointing=way == "with", **shape)
        theirs = asker(worker)
        label = f"against TRL {way} checkpointing"
        try:
            times = ask_in_turn(f"GRPO step, {label}", args.repeats, [mine, theirs])
            yield make_line(f"GRPO step, float32, {label}", "seconds", *times, bar=">= 3", invert=True)
            peaks = [[mine(98, memory=True)], [theirs(98, memory=True)]]
            yield make_line(f"its memory beyond weights, gradients, moments, {label}", "MiB", *peaks, bar="<= 0.5")
        except SystemExit as error:                          # what is measured already stays
            print(f"TRL {way} checkpointing: {error}", file=sys.stderr)
        worker.end()


def floor(args, size):
    """A decoding step against the matrix products that it consists of."""
    rows, steps = size["questions"] * size["samples"], size["turn"]
    for dtype in ("float32", "bfloat16"):
        ours = Worker(args, "ours", model=args.model, dtype=dtype)
        ids = ours("prompts", number=size["questions"])["ids"]
        calls = [asker(ours, "decode", ids=ids, samples=size["samples"], steps=steps),
                 asker(ours, "floor", rows=rows, steps=steps)]
        label = f"a decoding step of {rows} rows, {dtype}, against its matrix products alone"
        yield make_line(label, "seconds", *ask_in_turn(label, args.repeats, calls))


def growth(args, size):
    """Time against length, and how often a prompt is run."""
    ours = Worker(args, "ours", model=args.model, dtype="float32")
    ids = ours("prompts", number=size["questions"])["ids"]
    lengths = [size["new"] // 2, size["new"], 2 * size["new"]]
    calls = [asker(ours, "sample", seeded=True, ids=ids, samples=size["samples"], tokens=length, stop=[])
             for length in lengths]
    answers = ask_in_turn("growth", args.repeats, calls)
    for j in (1, 2):
        yield make_line(f"sampling {lengths[j]} tokens a row, no stops, float32, against {lengths[j - 1]}",
                        "seconds", answers[j], answers[j - 1], "<= 2.2")
    for n in (1, 8):
        counted, prompts = ours("prefill", questions=4, plans=2, answers=n)
        yield make_line(f"tokens prefilled for 4 questions x 2 plans x {n} answers, against the lengths of "
                        "the 12 prompts", "count", [counted], [prompts], "<= 1")


def prompt(args, size):
    """Training: a group's prompt run once, against once a sample."""
    shape = {"samples": 8, "tokens": size["turn"], "prompt": 8 * size["turn"]}
    ours = Worker(args, "ours", model=args.model, dtype="float32")
    calls = [asker(ours, "update", **shape), asker(ours, "update", plain=True, **shape)]
    answers = ask_in_turn("training step", args.repeats, calls)
    yield make_line(f"training step, float32, 8 samples of {shape['tokens']} tokens under a prompt of "
                    f"{shape['prompt']}, against a row with its prompt for each sample", "seconds", *answers,
                    bar=">= 3", invert=True)


def memory(args, size):
    """Peak of a training step with 128,256 entries in the vocabulary; rows of 128 tokens, one micro-batch."""
    ours = Worker(args, "ours", model=None, dtype="float32", flags="--micro-tokens 1000000")
    ours("update", samples=1, tokens=8, prompt=8)                            # moments are made here
    for T in tqdm(size["lengths"], desc="memory", disable=None):
        peak = ours("update", samples=T // 128, tokens=128, prompt=8, memory=True)
        logits = {"MiB": T * 128_256 * 4 / 2**20}
        yield make_line(f"peak of training on T = {T} tokens, vocabulary 128,256, against T x V logits", "MiB",
                        [peak], [logits])


def joined(args, size):
    """Products of all layers that read the same input, one each, against one for all of them."""
    rows, steps = size["questions"] * size["samples"], size["turn"]
    for dtype in ("float32", "bfloat16"):
        ours = Worker(args, "ours", model=args.model, dtype=dtype)
        for names in (["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]):
            calls = [asker(ours, "join", names=names, rows=rows, steps=steps, joined=one) for one in (False, True)]
            label = f"{', '.join(names)} of all layers, {rows} rows, {dtype}, against joined ones"
            yield make_line(label, "seconds", *ask_in_turn(label, args.repeats, calls))


def worth(args, size):
    """An evaluation as it is, against one in which the library attends, or rows that are done stay."""
    number = 64
    if pathlib.Path(args.model).name == "tiny":
        number = 500
    for dtype in ("float32", "bfloat16"):
        ours = Worker(args, "ours", model=args.model, dtype=dtype)
        for without in ("products", "leaving"):
            calls = []
            for what in ("", without):
                calls.append(asker(ours, "evaluate", number=number, tokens=size["turn"], without=what))
            label = f"an evaluation of {number} problems, {dtype}, against one without {without}"
            yield make_line(label, "seconds", *ask_in_turn(label, args.repeats, calls), invert=True)


def profile(args, size):
    """Printed at once: it is no line of the table."""
    ours = Worker(args, "ours", model=args.model, dtype="float32")
    ids = ours("prompts", number=size["questions"])["ids"]
    print(ours("profile", ids=ids, samples=size["samples"], steps=8)["text"])
    return []


SECTIONS = {"sampling": sampling, "step": step, "floor": floor, "growth": growth, "prompt": prompt,
            "memory": memory, "joined": joined, "worth": worth, "profile": profile}


# ------------------------------------------------------------------------------------------------------------
# The program

def describe_peers(python):
    """The versions of an environment's libraries. Exits where one is missing."""
    code = ("import torch, transformers, trl; print('torch', torch.__version__, 'transformers', "
            "transformers.__version__, 'TRL', trl.__version__)")
    if shutil.which(python):
        found = subprocess.run([python, "-c", code], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    sys.exit(f"bench: --peers {python} cannot import torch, transformers and trl")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory with weights")
    parser.add_argument("--peers", help="interpreter of an environment with transformers and trl (skipped)")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"some of {','.join(SECTIONS)} (all)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each measurement (5)")
    parser.add_argument("--threads", type=int, default=2, help="of torch, in every process (2)")
    parser.add_argument("--device", default="cpu", help="cuda was never tried (cpu)")
    parser.add_argument("--train-flags", default="", help="more flags of train.py for our side of `step`")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    args = parser.parse_args()
    chosen = args.only.split(",")
    for name in chosen:
        if name not in SECTIONS:
            sys.exit(f"bench: --only {name}: there are {','.join(SECTIONS)}")
        if name in ("step", "memory") and sys.platform != "linux":
            sys.exit("bench: step and memory read /proc, so they need Linux: see --only")
    if not (pathlib.Path(args.model) / "model.safetensors").exists():
        sys.exit(f"bench: {args.model} holds no model.safetensors: --model wants a real model's directory")
    args.model = str(pathlib.Path(args.model).resolve())
    about = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    if args.peers:
        about += f"; peers: {describe_peers(args.peers)}"
    else:
        print("bench: no --peers: transformers and TRL are skipped", file=sys.stderr)
    size = FULL
    if args.quick:
        size = QUICK
    print(f"{about}; {args.threads} threads; medians of {args.repeats} rounds\n")
    print_row(["measured", "this project", "compared with", "ratio (lowest to highest)", "bar"])
    print_row(["---"] * 5)
    for name in chosen:
        for row in SECTIONS[name](args, size):
            print_row(row)


def print_row(cells):
    """At once: a run that is cut off keeps what it has measured."""
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(**json.loads(sys.argv[2]))
    else:
        main()
