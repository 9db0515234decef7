"""For the day a card is at hand: does all of it run there, how fast, and in how much memory?

    python tests/gpu.py                          at most 8 minutes on a card of 80 GB; nothing is downloaded
    python tests/gpu.py --device cpu --small     the same on toy shapes, to see that the program itself works

Prints a markdown table, a row as soon as it is known, and keeps the rows in --out: a run that is cut keeps what it
has. Each part has a time limit. Weights are random and made on the card, but for the embedded model's.
"""
import argparse
import contextlib
import pathlib
import signal
import sys
import time
from dataclasses import replace

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import model
import rema
import rollout
import train
from data.extensions import memory
from data.extensions.graphs import GraphedStep
from data.formats.hub import TINY
from data.formats.tokenizer import Tokenizer
from data.views.curves import read_metrics

GB = 10 ** 9
LARGE = dict(prompt=200, new=256, rows=(64, 256), questions=16, group=8, steps=60)
SMALL = dict(prompt=12, new=8, rows=(2, 4), questions=2, group=2, steps=1)


class Report:
    """The table: each row is printed and kept at once."""

    def __init__(self, path):
        self.path = path
        self.path.write_text("")
        self.add("what", "result")
        self.add("---", "---")

    def add(self, what, result):
        line = f"| {what} | {result} |"
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


class TooLong(Exception):
    pass


@contextlib.contextmanager
def limit_time(seconds):
    def stop(*_):
        raise TooLong(f"stopped after {seconds} s")
    if not hasattr(signal, "SIGALRM"):               # Windows: without limits
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------------------
# Models and measures

def take_config(name, small):
    """The shape of a named model, which the table of --fit knows; small: the embedded model's."""
    if small:
        return memory.config_of("tiny")
    return replace(memory.config_of(name), context=4096, eps=1e-5, rope_theta=5e5)


def make_model(config, device, dtype):
    """Random weights, made where they are used."""
    with torch.device("meta"):
        shapes = dict(model.Transformer(config).named_parameters())
    weights = {}
    for name, shape in shapes.items():
        weight = torch.ones(shape.shape, device=device, dtype=dtype)
        if weight.dim() == 2:
            weight.normal_(std=0.02)
        weights[name] = torch.nn.Parameter(weight)
    return model.assemble(config, weights)


def make_prompts(config, count, length):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, config.vocab_size, (count, length), generator=generator).tolist()


def finish(device):
    """A card answers before it has worked."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(device, work):
    """-> (seconds, peak bytes on the card, what work returned)."""
    finish(device)
    peak = 0
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    result = work()
    finish(device)
    seconds = time.perf_counter() - started
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return seconds, peak, result


def measure_bandwidth(device, small):
    """Bytes a second that a copy reads and writes."""
    x = torch.zeros(10 ** 6 if small else GB, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    y.copy_(x)
    seconds, _, _ = measure(device, lambda: [y.copy_(x) for _ in range(5)])
    return 5 * 2 * len(x) / seconds


def make_learner(made, args):
    agent = rollout.Agent(rema.VRP, made, Tokenizer.load(TINY))
    train.add_optimizer(agent, args)
    return agent


def take_args(settings, device, dtype, *flags):
    args = train.parse(["--process", "vrp", "--device", str(device), "--dtype", str(dtype).removeprefix("torch."),
                        "--questions", str(settings["questions"]), "--group", str(settings["group"]),
                        "--max-new-tokens", str(settings["new"]), *flags])
    args.checkpointing = True                        # as for any model but the embedded one
    return args


def time_a_step(report, name, agent, args, settings, device, lora=0):
    """A whole step of one agent, the second one: its moments are there."""
    config = agent.model.config
    prompts = make_prompts(config, settings["questions"], settings["prompt"])
    for _ in range(2):
        sampling, high, groups = measure(device, lambda: rollout.generate(
            agent.model, prompts, settings["group"], max_new_tokens=settings["new"]))
        turns = [turn for group in groups for turn in group]
        for i, turn in enumerate(turns):
            turn.advantage = (-1.0) ** i
        learning, higher, _ = measure(device, lambda: train.update(agent, turns, args))
    tokens = sum(len(turn.tokens) for turn in turns)
    report.add(f"{name}: a step of {settings['questions']} x {settings['group']} x {settings['new']} tokens",
               f"sampling {sampling:.2f} s, learning {learning:.2f} s, {tokens / (sampling + learning):.0f} tokens/s")
    said = memory.estimate(config, agents=1, dtype=args.dtype, lora=lora, questions=settings["questions"],
                           group=settings["group"], prompt_tokens=settings["prompt"], new_tokens=settings["new"],
                           batch=args.batch, micro_tokens=args.micro_tokens, checkpointing=True)["total"]
    report.add(f"{name}: peak memory", f"{max(high, higher) / GB:.2f} GB, --fit says {said / GB:.2f} GB")
    return turns


# ------------------------------------------------------------------------------------------------------------
# The parts

def compare_with_cpu(report, settings, device, dtype, small):
    """Parity of the embedded model."""
    here, _ = model.load("tiny")
    there, _ = model.load("tiny", str(device))
    half, _ = model.load("tiny", str(device), dtype)
    prompts = make_prompts(here.config, 4, settings["prompt"])
    tokens = torch.tensor(prompts)
    with torch.no_grad():
        wanted = here(tokens).log_softmax(-1)
        for name, found in (("float32", there(tokens.to(device))), (str(dtype), half(tokens.to(device)))):
            difference = (found.float().log_softmax(-1).cpu() - wanted).abs().max().item()
            report.add(f"tiny, {name}: largest difference of log-probs to the CPU's", f"{difference:.1e}")
    how = dict(max_new_tokens=settings["new"], stop_ids=())
    same, count = 0, 0
    for pair in zip(rollout.generate(here, prompts, 2, **how), rollout.generate(there, prompts, 2, **how)):
        for on_cpu, on_card in zip(*pair):
            same += on_cpu.tokens == on_card.tokens
            count += 1
    report.add("tiny, float32: samples that are the CPU's", f"{same} of {count}")


def learn(report, settings, device, dtype, small):
    """The default run."""
    out = report.path.with_suffix(".run")
    number = 2
    while out.exists():
        out = report.path.with_suffix(f".run-{number}")
        number += 1
    flags = ["--device", str(device), "--out", str(out), "--steps", str(settings["steps"])]
    if small:
        flags += ["--questions", "2", "--eval-questions", "2", "--max-new-tokens", "8"]
    started = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        train.main(flags)
    lines = [line for line in read_metrics(out) if "heldout_t1" in line]
    report.add("python train.py: held-out accuracy at temperature 1", f"{lines[0]['heldout_t1']:.1f} -> "
               f"{lines[-1]['heldout_t1']:.1f} %, {time.perf_counter() - started:.0f} s")


def sample_1b(report, settings, device, dtype, small):
    config = take_config("llama-1b", small)
    made = make_model(config, device, dtype)
    prompt, new = settings["prompt"], settings["new"]
    bandwidth = measure_bandwidth(device, small)
    report.add("copying in the card's memory", f"{bandwidth / GB:.0f} GB/s")
    for rows in settings["rows"]:
        prompts = make_prompts(config, rows // 2, prompt)

        weights = memory.parameters(config) * dtype.itemsize
        keys = memory.estimate_sampling(config, dtype.itemsize, 0, rows, prompt, new // 2)[0]
        floor = new * (weights + keys) / bandwidth
        seconds = time_sampling(made, prompts, rows, new, device)
        report.add(f"llama-1b, {rows} rows: tokens a second", f"{rows * new / seconds:.0f} "
                   f"({1000 * seconds / new:.1f} ms a step; reading weights and keys alone {1000 * floor / new:.1f})")
        if device.type == "cuda":
            made.step = GraphedStep(made)
            faster = time_sampling(made, prompts, rows, new, device)
            del made.step
            report.add("the same with --graphs, recording them included", f"{rows * new / faster:.0f} "
                       f"({1000 * faster / new:.1f} ms a step, {seconds / faster:.2f} times as fast)")
        compare_with_transformers(report, made, prompts, rows, new, device)


def time_sampling(made, prompts, rows, new, device):
    """Seconds of the second time."""
    for _ in range(2):
        seconds, _, _ = measure(device, lambda: rollout.generate(made, prompts, 2, max_new_tokens=new, batch=rows))
    return seconds


def compare_with_transformers(report, made, prompts, rows, new, device):
    """Its generate, on the very weights, where it is installed."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return
    dtype = made.lm_head.weight.dtype
    with torch.device(device):
        other = LlamaForCausalLM(LlamaConfig(**made.config.to_hf(str(dtype), [0]))).to(dtype)
    weights = {model.to_file_name(name): weight for name, weight in made.named_parameters()}
    other.load_state_dict(weights, strict=False)             # a head that is tied is none of its own
    tokens = torch.tensor(prompts, device=device).repeat_interleave(2, 0)

    def sample():
        return other.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=True, top_k=0,
                              min_new_tokens=new, max_new_tokens=new, pad_token_id=0)
    sample()
    seconds, _, _ = measure(device, sample)
    report.add(f"transformers, {rows} rows: tokens a second", f"{rows * new / seconds:.0f}")


def step_1b(report, settings, device, dtype, small):
    """One agent's full weights; then where the time goes."""
    args = take_args(settings, device, dtype)
    agent = make_learner(make_model(take_config("llama-1b", small), device, dtype), args)
    turns = time_a_step(report, "llama-1b", agent, args, settings, device)
    few = train.make_micro_batches(turns, args.micro_tokens)[0]
    prompts = make_prompts(agent.model.config, settings["rows"][0], settings["prompt"])
    steps = min(4 if small else 16, settings["new"])

    def learn():
        train.update(agent, few, args)
    profile(report, f"{steps} decoding steps", device, lambda: rollout.generate(agent.model, prompts,
                                                                               max_new_tokens=steps))
    profile(report, "a micro-batch", device, learn)


def profile(report, name, device, work):
    """The ten costliest kernels."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as found:
        work()
        finish(device)
    costs = {}
    for event in found.key_averages():
        own = event.self_cpu_time_total
        if device.type == "cuda":
            own = getattr(event, "self_device_time_total", 0)
        costs[event.key] = (own, event.count)
    total = sum(own for own, _ in costs.values()) or 1
    for key, (own, count) in sorted(costs.items(), key=lambda item: -item[1][0])[:10]:
        report.add(f"{name}: {key[:60].replace('|', '/')}", f"{100 * own / total:.1f} %, {count} times")


def step_8b(report, settings, device, dtype, small):
    """Adapters of rank 16 on 8 billion weights."""
    args = take_args(settings, device, dtype, "--lora", "16")
    base = make_model(take_config("llama-8b", small), device, dtype)
    made = model.add_adapters(base, 16, 32.0, torch.Generator().manual_seed(0))
    time_a_step(report, "llama-8b --lora 16", make_learner(made, args), args, settings, device, lora=16)


PARTS = [(compare_with_cpu, 30), (learn, 180), (sample_1b, 90), (step_1b, 80), (step_8b, 100)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="(cuda)")
    parser.add_argument("--small", action="store_true", help="toy shapes")
    parser.add_argument("--out", default="gpu.md", help="where the table is kept (gpu.md)")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    settings, dtype = LARGE, torch.bfloat16
    if args.small:
        settings = SMALL
    report = Report(pathlib.Path(args.out))
    name = "CPU"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    report.add("machine", f"{name}, torch {torch.__version__}")
    failed = 0
    for part, seconds in PARTS:
        started = time.perf_counter()
        try:
            with limit_time(seconds):
                part(report, settings, device, dtype, args.small)
        except (Exception, SystemExit) as error:     # the other parts are still worth their time
            failed += 1
            report.add(f"{part.__name__} failed", f"{type(error).__name__}: {str(error)[:200]}".replace("\n", " "))
        print(f"{part.__name__}: {time.perf_counter() - started:.1f} s", file=sys.stderr)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return failed


if __name__ == "__main__":
    sys.exit(main())
