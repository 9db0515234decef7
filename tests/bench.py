"""The table of speed and memory: this project, transformers and TRL side by side. Prints markdown.

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
"""
import argparse
import ctypes
import dataclasses
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
from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECTIONS = ("sampling", "step", "floor", "growth", "prompt", "memory")


# ------------------------------------------------------------------------------------------------------------
# Memory

def anonymous():
    """Bytes of this process's memory that are no file's: a checkpoint that is only mapped does not count."""
    total, shared = map(int, pathlib.Path("/proc/self/statm").read_text().split()[1:3])
    return (total - shared) * os.sysconf("SC_PAGE_SIZE")


def resting(model):
    """Give freed memory back -> bytes in use now, and gradients for all weights, be they there or not."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    held = torch.cuda.memory_allocated() if torch.cuda.is_available() else anonymous()
    return held + sum(w.numel() * w.element_size() for w in model.parameters() if w.grad is None)


class Watch(threading.Thread):
    """From its making to `stop`: a clock, or with `memory` a thread that sees every 2 ms what is in use."""

    def __init__(self, model, memory):
        super().__init__(daemon=True)
        self.base = resting(model) if memory else None
        self.peak, self.going, self.began = 0, memory, time.perf_counter()
        self.start()

    def run(self):
        while self.going:
            self.peak = max(self.peak, anonymous() - self.base)
            time.sleep(0.002)

    def stop(self, kept):
        answer, self.going = timed(self.began, kept), False
        if torch.cuda.is_available():                        # what the process holds says nothing of a card
            self.peak = torch.cuda.max_memory_allocated() - (self.base or 0)
            torch.cuda.reset_peak_memory_stats()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)                     # room for the other worker
        return {**answer, "MiB": self.peak / 2**20}


def timed(start, kept=0, times=1):
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
        self.models, self.rema, self.rollout, self.train = map(
            importlib.import_module, ("model", "rema", "rollout", "train"))
        self.args = self.train.parse(["--model", model or "tiny", "--device", device, *flags.split()])
        self.learner = None
        self.model, self.tokenizer = self.models.load(model or "tiny", device, getattr(torch, dtype))
        if not model:                              # the vocabulary of Llama 3 and next to nothing below it
            config = dataclasses.replace(self.model.config, vocab_size=128_256, width=64, layers=2)
            self.model = self.models.Transformer(config).init_weights(torch.Generator().manual_seed(0))
            self.model.to(device)

    def words(self, seed, number):
        """Word problems, one after the other: text of so many words."""
        from data.problems.generate import generate
        text = " ".join(row["problem"] for row in generate(40, seed=seed, kind="words"))
        return " ".join(text.split()[:number])

    def prompts(self, number, shortest=80, longest=200):
        """Chat prompts of word problems, their lengths spread evenly over a range, as messages and as ids."""
        chosen = []
        for i in range(number):
            target, n = shortest + (longest - shortest) * i // max(1, number - 1), 1
            while len(self.tokenizer.chat(self.rema.VRP.prompt(self.words(i, n)))) < target:
                n += 1
            chosen.append(self.rema.VRP.prompt(self.words(i, n)))
        return {"messages": chosen, "ids": [self.tokenizer.chat(messages) for messages in chosen],
                "stop": sorted(self.tokenizer.stop_ids)}

    def generate(self, ids, samples, tokens, stop=(), seed=0):
        return self.rollout.generate(self.model, ids, samples, max_new_tokens=tokens, temperature=1.0,
                                     stop_ids=stop, generator=torch.Generator().manual_seed(seed))

    def sample(self, **how):
        start = time.perf_counter()
        kept = sum(len(c.tokens) for group in self.generate(**how) for c in group)
        return timed(start, kept)

    def decode(self, ids, samples, steps):
        """A decoding step: a call with 1 + steps tokens a row less one that stops after the first."""
        one, more = (self.sample(ids=ids, samples=samples, tokens=n)["seconds"] for n in (1, 1 + steps))
        return {"seconds": (more - one) / steps}

    @torch.no_grad()
    def floor(self, rows, steps):
        """The linear layers of one decoding step, the head included, and nothing else."""
        weights = [part.weight for part in self.model.modules() if isinstance(part, torch.nn.Linear)]
        inputs = {w.shape[1]: torch.randn(rows, w.shape[1]).to(w) for w in weights}
        timed(0)                                             # a GPU is idle from here on
        start = time.perf_counter()
        for weight in weights * steps:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)
        return timed(start, times=steps)

    def prefilled(self, questions, plans, answers):
        """Prompt tokens put through the model by questions -> plans -> answers, and the prompts' lengths."""
        counted, hidden = [], self.model.hidden

        def counting(ids, cache=None, lengths=None, **more):
            if ids.shape[1] > 1:                             # a prompt: decoding has one token a row
                counted.append(ids.numel() if lengths is None else int(lengths.sum()))
            return hidden(ids, cache, lengths, **more)

        self.model.hidden = counting
        words = [self.words(i, 60) for i in range(questions)]
        first = [self.tokenizer.chat(self.rema.HIGH.prompt(question)) for question in words]
        said = self.generate(first, plans, 8)
        second = [self.tokenizer.chat(self.rema.LOW.prompt(question, self.tokenizer.decode(c.tokens)))
                  for question, group in zip(words, said) for c in group]
        self.generate(second, answers, 8)
        del self.model.hidden                                # the class's own again
        return {"count": sum(counted)}, {"count": sum(map(len, first + second))}

    def train_on(self, work, tokens, memory):
        """Time of work(), or with `memory` its peak beyond weights, moments and gradients."""
        self.learner = self.learner or self.train.Learner(self.model, self.args)
        self.args.max_new_tokens = tokens
        watch = Watch(self.model, memory)
        return watch.stop(work() or 0)

    def step(self, ids, samples, tokens, stop, seed, memory=False):
        """A GRPO step: sample, reward at random (so that no group is dead), score and update."""
        def work():
            rng, flat = random.Random(seed), [(i, c) for i, group in enumerate(
                self.generate(ids, samples, tokens, stop, seed)) for c in group]
            values = self.rema.advantages([rng.random() for _ in flat], [i for i, _ in flat])
            self.train.update(self.learner, [
                self.rema.Sample(ids[i], c.tokens, c.logprobs, value, [0] * len(c.tokens))
                for (i, c), value in zip(flat, values)], self.args)
            return sum(len(c.tokens) for _, c in flat)
        return self.train_on(work, tokens, memory)

    def update(self, samples, tokens, prompt, plain=False, memory=False):
        """A training step on random tokens under one prompt; plain: a row with the prompt for each sample."""
        rng = random.Random(0)
        ids = rng.choices(range(1000, 40_000), k=prompt)
        batch = [self.rema.Sample(ids, rng.choices(range(1000, 40_000), k=tokens), [-11.0] * tokens,
                                  rng.gauss(0, 1), [0] * tokens) for _ in range(samples)]

        def one_row_each():
            rows = torch.tensor([sample.prompt + sample.tokens for sample in batch], device=self.args.device)
            hidden = self.model.hidden(rows[:, :-1])[:, prompt - 1:]                           # (B, T, D)
            new, _ = self.models.logprobs(self.model, hidden.flatten(0, 1), rows[:, prompt:].flatten())
            advantage = new.new_tensor([sample.advantage for sample in batch]).repeat_interleave(tokens)
            self.rema.policy_loss(new, torch.full_like(new, -11), advantage, 1 / len(new))[0].backward()
            self.learner.step()
        return self.train_on(one_row_each if plain else lambda: self.train.update(
            self.learner, batch, self.args) and None, tokens, memory)


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
        longest = max(map(len, ids))
        rows, mask = (torch.tensor(padded, device=self.model.device) for padded in (
            [[0] * (longest - len(row)) + row for row in ids],
            [[0] * (longest - len(row)) + [1] * len(row) for row in ids]))
        start = time.perf_counter()
        result = self.model.generate(
            rows, attention_mask=mask, num_return_sequences=samples, max_new_tokens=tokens, do_sample=True,
            temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0, eos_token_id=stop or None)[:, longest:]
        end = torch.isin(result, torch.tensor(stop, device=result.device)).long()              # (B, T)
        return timed(start, int((end.cumsum(-1) - end == 0).sum()))


def serve_trl(model, messages, ids, samples, tokens, checkpointing, device, ask, answer):
    """TRL's trainer with its own loop: a callback holds it before each step until it is asked for one."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) != ids:
        raise SystemExit("the chat template gives other token ids here: that would be no fair comparison")
    rng, kept = random.Random(0), [0]

    def reward(completion_ids, **_):
        kept[0] = sum(map(len, completion_ids))
        return [rng.random() for _ in completion_ids]

    class Hold(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.watch = Watch(network, ask().get("memory", False))

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
        return json.loads(line) if line else sys.exit()      # also from the middle of TRL's loop

    if kind == "trl":
        return serve_trl(**settings, ask=ask, answer=answer)
    worker = {"ours": Ours, "transformers": Transformers}[kind](**settings)
    answer({})
    while True:
        question = ask()
        answer(getattr(worker, question.pop("do"))(**question))


# ------------------------------------------------------------------------------------------------------------
# The side that asks

class Worker:
    """A process that serves one kind of measurement. It ends (its stdin closes) when nobody refers to it."""

    def __init__(self, args, kind, **settings):
        self.kind, self.log = kind, tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable if kind == "ours" else args.peers, __file__, "--serve",
             json.dumps({"kind": kind, "threads": args.threads, "device": args.device, **settings})],
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"})
        self.hear()

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"bench: the {self.kind} worker ended (out of memory, if it says nothing):\n"
                             + "".join(self.log.readlines()[-12:]))
        return json.loads(line)

    def end(self):
        self.process.kill()
        self.process.wait()

    def __call__(self, do=None, **question):
        self.process.stdin.write(json.dumps({"do": do, **question}) + "\n")
        self.process.stdin.flush()
        return self.hear()


def rounds(label, repeats, calls):
    """Each call once a round, every second round backwards -> for each call its answers, round by round.

    Before that each is made once for nothing: caches, moments, and what a library builds on its first call.
    """
    table = [[call(99) for call in calls]]
    for i in tqdm(range(repeats), desc=label, disable=None):
        answers = {j: calls[j](i) for j in sorted(range(len(calls)), reverse=i % 2)}
        table.append([answers[j] for j in range(len(calls))])
    return list(zip(*table[1:]))


FORMAT = {"speed": "{:.0f} tokens/s", "seconds": "{:.3g} s", "MiB": "{:.0f} MiB", "count": "{}"}


def line(what, key, ours, other=None, bar="", invert=False):
    """A line of the table. ours, other: answers, compared by the entry `key`; bar: such as ">= 3"."""
    def text(answers):
        value, kept = (statistics.median(a.get(k, 0) for a in answers) for k in (key, "tokens"))
        return FORMAT[key].format(value) + (f" ({kept:.0f} kept)" if kept else "")
    if not other:
        return [what, text(ours), "skipped: no --peers", "", ""]
    ratios = [b[key] / a[key] if invert else a[key] / b[key] for a, b in zip(ours, other)]
    middle = statistics.median(ratios)
    if bar:
        met = middle >= float(bar[3:]) if bar[0] == ">" else middle <= float(bar[3:])
        bar += ": met" if met else ": missed"
    return [what, text(ours), text(other), f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", bar]


def sampling(args, size):
    """Tokens a second that are kept, with stops and without, in both types."""
    for dtype, bar in (("float32", ">= 3"), ("bfloat16", ">= 2.2")):
        workers = [Worker(args, kind, model=args.model, dtype=dtype)
                   for kind in ("ours", "transformers")[:1 + bool(args.peers)]]
        given = workers[0]("prompts", number=size["questions"])
        for stop, bar, label in ((given["stop"], bar, "stops"), ([], "", "no stops")):
            calls = [lambda i, w=worker: w("sample", ids=given["ids"], samples=size["samples"], stop=stop,
                                           tokens=size["new"], seed=i) for worker in workers]
            yield line(f"sampling, {dtype}, {label}, against transformers", "speed",
                       *rounds(f"sampling, {dtype}, {label}", args.repeats, calls), bar=bar)


def step(args, size):
    """A whole GRPO step, fp32: sampling, scoring, update. Its memory is measured in one more step."""
    ours = Worker(args, "ours", model=args.model, dtype="float32", flags=args.train_flags)
    given = ours("prompts", number=size["groups"])
    shape = {"ids": given["ids"], "samples": size["samples"], "tokens": size["turn"]}
    mine = lambda i, **more: ours("step", stop=given["stop"], seed=i, **shape, **more)       # noqa: E731
    found = []                           # TRL's two ways one after the other: together they need 24 GB
    for way in ("with", "without") if args.peers else ():
        worker = Worker(args, "trl", model=args.model, messages=given["messages"],
                        checkpointing=way == "with", **shape)
        calls = [mine, lambda i, w=worker, **more: w(**more)]
        try:
            times = rounds(f"GRPO step, TRL {way} checkpointing", args.repeats, calls)
            found.append((way, times, [[call(98, memory=True)] for call in calls]))
        except SystemExit as error:                          # what is measured already stays
            print(f"TRL {way} checkpointing: {error}", file=sys.stderr)
        worker.end()
    best = min(found, key=lambda one: statistics.median(a["seconds"] for a in one[1][1]), default=None)
    if not found:
        found = [("with", rounds("GRPO step", args.repeats, [mine]), [[mine(98, memory=True)]])]
    for one in found:
        way, times, peaks = one
        bars = (">= 3", "<= 0.5") if one is best else ("", "")       # the bars are those of TRL's faster way
        yield line(f"GRPO step, float32, against TRL {way} checkpointing", "seconds", *times, bar=bars[0],
                   invert=True)
        yield line(f"its memory beyond weights, gradients, moments, against TRL {way} checkpointing", "MiB",
                   *peaks, bar=bars[1])


def floor(args, size):
    """A decoding step against the matrix products that it consists of."""
    rows, steps = size["questions"] * size["samples"], size["turn"]
    for dtype, bar in (("float32", "<= 1.5"), ("bfloat16", "<= 2.2")):
        ours = Worker(args, "ours", model=args.model, dtype=dtype)
        ids = ours("prompts", number=size["questions"])["ids"]
        calls = [lambda i: ours("decode", ids=ids, samples=size["samples"], steps=steps),
                 lambda i: ours("floor", rows=rows, steps=steps)]
        label = f"a decoding step of {rows} rows, {dtype}, against its matrix products alone"
        yield line(label, "seconds", *rounds(label, args.repeats, calls), bar)


def growth(args, size):
    """Time against length, and how often a prompt is run."""
    ours = Worker(args, "ours", model=args.model, dtype="float32")
    ids, lengths = ours("prompts", number=size["questions"])["ids"], [size["new"] * n // 2 for n in (1, 2, 4)]
    results = rounds("growth", args.repeats, [lambda i, n=n: ours(
        "sample", ids=ids, samples=size["samples"], tokens=n, stop=[], seed=i) for n in lengths])
    for j in (1, 2):
        yield line(f"sampling {lengths[j]} tokens a row, no stops, float32, against {lengths[j - 1]}",
                   "seconds", results[j], results[j - 1], "<= 2.2")
    for answers in (1, 8):
        counted, prompts = ours("prefilled", questions=4, plans=2, answers=answers)
        yield line(f"tokens prefilled for 4 questions x 2 plans x {answers} answers, against the lengths of "
                   "the 12 prompts", "count", [counted], [prompts], "<= 1")


def prompt(args, size):
    """Training: a group's prompt run once, against once a sample."""
    shape = {"samples": 8, "tokens": size["turn"], "prompt": 8 * size["turn"]}
    ours = Worker(args, "ours", model=args.model, dtype="float32")
    calls = [lambda i: ours("update", **shape), lambda i: ours("update", plain=True, **shape)]
    yield line(f"training step, float32, 8 samples of {shape['tokens']} tokens under a prompt of "
               f"{shape['prompt']}, against a row with its prompt for each sample", "seconds",
               *rounds("training step", args.repeats, calls), ">= 3", invert=True)


def memory(args, size):
    """Peak of a training step with 128,256 entries in the vocabulary; rows of 128 tokens, one micro-batch."""
    ours = Worker(args, "ours", model=None, dtype="float32", flags="--micro-tokens 1000000")
    ours("update", samples=1, tokens=8, prompt=8)                            # moments are made here
    for T in tqdm(size["lengths"], desc="memory", disable=None):
        yield line(f"peak of training on T = {T} tokens, vocabulary 128,256, against T x V logits", "MiB",
                   [ours("update", samples=T // 128, tokens=128, prompt=8, memory=True)],
                   [{"MiB": T * 128_256 * 4 / 2**20}])


def main():
    if sys.argv[1:2] == ["--serve"]:
        return serve(**json.loads(sys.argv[2]))
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
    if sys.platform != "linux" and {"step", "memory"} & set(chosen):
        sys.exit("bench: step and memory read /proc, so they need Linux: see --only")
    if set(chosen) - set(SECTIONS):
        sys.exit(f"bench: --only {args.only}: there are {','.join(SECTIONS)}")
    if not (pathlib.Path(args.model) / "model.safetensors").exists():
        sys.exit(f"bench: {args.model} holds no model.safetensors: --model wants a real model's directory")
    args.model = str(pathlib.Path(args.model).resolve())
    about = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    if args.peers:
        code = "import torch as t, transformers as f, trl; print('torch', t.__version__, 'transformers', "
        found = subprocess.run([args.peers, "-c", code + "f.__version__, 'TRL', trl.__version__)"],
                               capture_output=True, text=True) if shutil.which(args.peers) else None
        if not found or found.returncode:
            sys.exit(f"bench: --peers {args.peers} cannot import torch, transformers and trl")
        about += "; peers: " + found.stdout.strip()
    else:
        print("bench: no --peers: transformers and TRL are skipped", file=sys.stderr)
    size = dict(zip(("questions", "samples", "new", "groups", "turn", "lengths"), (
        2, 2, 16, 2, 8, (256, 512)) if args.quick else (8, 8, 128, 4, 64, (1024, 2048, 4096, 8192))))
    rows = [row for name in chosen for row in globals()[name](args, size)]
    print(f"{about}; {args.threads} threads; medians of {args.repeats} rounds\n")
    header = ["measured", "this project", "compared with", "ratio (lowest to highest)", "bar"]
    print("\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * 5, *rows]))


if __name__ == "__main__":
    main()
