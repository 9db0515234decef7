"""Will it fit? The memory of a training run from a model's numbers alone: `python train.py --model M --fit`.

What a run holds has three parts. For its whole life: weights, and for each agent the two moments of AdamW.
While it samples: the KV cache, and what one forward pass needs. While it learns: gradients, and all that
autograd keeps of a micro-batch until its backward pass. Sampling and learning take turns, so

    total = weights + adapters + optimizer + max(sampling, learning)

Every term follows from a line of model.py, rollout.py or train.py; tests/test_memory.py measures the sum. All
sizes are in bytes and for the worst case: each prompt and each answer as long as it may be.

B rows, P prompts, Tp tokens of a prompt, T new tokens, S keys, V vocabulary, D width, Q = heads x head width (all
queries of a token), KV likewise (all its keys, or all its values), F hidden width of the MLP; e bytes a number of
the compute type.
"""
import math
import os
import pathlib
from argparse import Namespace

import torch

from data.formats.config import Config
from data.formats.files import read_json
from data.formats.hub import MODELS, resolve
from data.formats.runs import find_settings

GB = 10 ** 9            # a card "of 80 GB" has 85: the rest, and one more, is for CUDA and its allocator's holes
PROMPT = 200            # tokens of the system message and a long question; worked examples take as many again
RANK = 16               # of the adapters that a model too large for full weights gets


def config_of(name: str):
    """Config of a named model (data/formats/models.json), a directory, or a downloaded model of the hub.

    A named model's has no context, rope or eps: enough to count with, not to run. UserError: not known here.
    """
    for short, model in MODELS.items():
        if name in (short, model["hub"]):
            numbers = model["config"]
            return Config(**numbers, context=None, eps=None, rope_theta=None, rope_scaling=None,
                          qkv_bias=numbers["family"] == "qwen2", qk_norm=numbers["family"] == "qwen3")
    return Config.from_hf(read_json(resolve(name, download=False) / "config.json"))


def widths(config):
    """-> D, Q, KV, F."""
    head = config.head_width
    return config.width, config.heads * head, config.kv_heads * head, config.hidden


def parameters(config: Config, lora=0) -> int:
    """Number of weights, a tied head counted once; or, of adapters of rank `lora`, those of one agent."""
    D, Q, KV, F = widths(config)
    if lora:                             # A (lora, in) and B (out, lora) beside each linear layer of a block
        return config.layers * lora * (2 * (D + Q) + 2 * (D + KV) + 3 * (D + F))
    attention = 2 * D * (Q + KV)
    if config.qkv_bias:
        attention += Q + 2 * KV
    mlp = 3 * D * F
    norms = 2 * D
    if config.qk_norm:
        norms += 2 * config.head_width
    embedding = config.vocab_size * D
    if not config.tied:
        embedding *= 2
    return config.layers * (attention + mlp + norms) + embedding + D           # D: the last norm


def default_lora(config: Config) -> int:
    """Rank when no flag says otherwise: full weights (0) up to 4 billion, adapters beyond."""
    if parameters(config) > 4e9:
        return RANK
    return 0


def estimate(config: Config, *, agents=2, dtype="bfloat16", lora=0, questions=16, group=8, prompt_tokens=PROMPT,
             new_tokens=512, batch=256, micro_tokens=16384, checkpointing=False, chunk=1024,
             kl=0.0, offload=False) -> dict:
    """Peak memory of a run -> {part: bytes}; `sampling` and `learning` are the phases, `total` is the peak.

    questions, group            prompts of an optimizer step, and samples of each
    prompt_tokens, new_tokens   of the longest prompt; what may be sampled after it
    batch                       rows decoded at a time, each with a prompt of its own
    chunk                       positions whose logits exist at once while learning
    offload                     a frozen agent's masters and moments rest in `host` memory, not on the card
    """
    D, Q, KV, F = widths(config)
    V = config.vocab_size
    Tp, T = prompt_tokens, new_tokens
    e = getattr(torch, dtype).itemsize

    # For the whole run
    learned = parameters(config, lora)                   # numbers that one agent learns
    copies = agents
    if kl:
        copies += 1                                      # the reference
    adapters = 0
    if lora:
        copies = 1                                       # the base, which serves all agents and as reference
        adapters = agents * learned * 4
    weights = copies * parameters(config) * e
    moments = learned * 8
    if e < 4 and not lora:
        moments += learned * 4                           # float32 masters of half-precision weights
    resting = agents - 1 if offload else 0
    optimizer = moments * (agents - resting)

    cache, sampling = estimate_sampling(config, e, lora, batch, Tp, T)

    # Learning: as train.make_micro_batches, prompts with all their samples, then some samples of the next one
    P = min(questions, micro_tokens // (Tp + group * T))
    B = P * group
    left = micro_tokens - P * (Tp + group * T)
    if P < questions:
        of_next = min(group, max(0, (left - Tp) // T))
        if P == 0:
            of_next = max(1, of_next)                    # one is always taken
        B += of_next
        P += min(1, of_next)
    new = B * T                                          # tokens of samples
    old = P * Tp                                         # and of prompts
    of_samples = kept(config, B, T - 1, Tp + T - 1, e, lora)
    of_prompts = kept(config, P, Tp, Tp, e, lora)
    mask = (B * (T - 1) * (Tp + T - 1) + P * Tp * Tp) * e                      # as numbers, for all layers
    held = config.layers * (of_samples + of_prompts) + mask
    outputs = 2 * e                                      # beside each number that a layer makes
    if lora and e < 4:
        outputs = 12                                     # B A x, the same scaled, the sum, in float32
    block = max(new, old) * (F * outputs + 16 * D)       # gradients on their way through a block, and those
    block += B * (Tp + T) * 2 * Q * e                    # of keys and values
    if checkpointing:                                    # a block's input is held, and three caches; it runs again
        cached = old + B * Tp + B * (Tp + T)             # prompts, a copy for each sample, all
        held = config.layers * ((new + old) * D + cached * 2 * KV) * e + mask
        block += max(of_samples, of_prompts)
    logits = 5 * 4 * min(chunk, new) * V                 # five in float32
    logits += (new + old) * D * (4 + e)                  # the last norm
    logits += 2 * new * D * e                            # what it makes of the samples, and that one's gradient
    batch_alone = held + max(block, logits)
    gradients = learned * 4
    beside = 0                                           # what there is beside all gradients:
    if not lora:
        batch_alone += V * D * e                         # the head's gradient
        beside = V * D * 8                               # AdamW's quotients for its largest tensor
    if questions * group > B:
        beside = max(beside, batch_alone)                # a second micro-batch
    learning = max(batch_alone, gradients + beside)

    total = weights + adapters + optimizer + max(sampling, learning)
    return {"weights": weights, "adapters": adapters, "optimizer": optimizer, "cache": cache,
            "sampling": sampling, "gradients": gradients, "logits": logits, "activations": held + block,
            "learning": learning, "host": moments * resting, "total": total}


def estimate_sampling(config, e, lora, batch, Tp, T):
    """rollout.generate: the prompts are run, then each row draws a token a step -> (cache, peak)."""
    D, _, KV, F = widths(config)
    token = 2 * config.layers * KV * e                   # keys and values of a token
    prompts = batch * Tp * token
    cache = batch * (Tp + T) * token                     # a row has room for its prompt and all new tokens

    mlp = 3 * F * e                                      # gate, silu, up
    if lora:
        mlp += 3 * F * 4                                 # B A x, the same scaled, the sum, in float32
    mask = Tp * (e + 1)                                  # as bools and as numbers
    prefill = batch * Tp * (mlp + 3 * D * e + mask)

    scores = batch * config.heads * (Tp + T) * (4 + 3 * e)
    logits = batch * config.vocab_size * e
    drawing = batch * config.vocab_size * 16             # four copies in float32
    step = max(drawing, scores + logits)
    return cache, max(prompts + prefill, cache + step)   # a layer of prompts goes when the cache has taken it over


def kept(config, B, T, S, e, lora):
    """Bytes that autograd keeps of one block for B rows of T tokens that look at S keys each.

    RMSNorm keeps what it sees, in float32, and its result before the gain, for the gain's gradient. A matrix
    product keeps its input, for its weight's gradient. A frozen weight has none, but its adapter keeps the
    input, and in float32: so beside a bfloat16 base each of q, k, v, gate and up keeps a copy of its own.
    """
    D, Q, KV, F = widths(config)
    normed = 2 * D
    if config.qk_norm:
        normed += Q + KV
    norms = normed * 4
    if not lora:
        norms += normed * e
    inputs = (2 * D + Q + F + 7 * lora) * e
    if lora and e < 4:
        inputs = (5 * D + Q + F + 7 * lora) * 4
    attention = 2 * Q * e + config.heads * 4             # queries, result; log-sum-exp
    mlp = 3 * F * e                                      # gate, silu, up
    keys_and_values = 2 * S * Q * e                      # repeated for all query heads
    return B * (T * (norms + inputs + attention + mlp) + keys_and_values)


# ------------------------------------------------------------------------------------------------------------
# The table of --fit, and what of it stands at the end of --help

CARDS = """
what a card holds, with the flags that it then needs (--fit says it of any model and any flags):
   T4    qwen-0.5b --lora 16 --batch 64; llama-1b --lora 16 --micro-tokens 1024 --batch 32
  16 GB  qwen-0.5b; llama-1b --lora 16 --batch 64; llama-3b --lora 16 --micro-tokens 1024 --batch 32
  24 GB  llama-1b --lora 16; llama-3b --lora 16 --batch 64; llama-8b --micro-tokens 1024 --batch 16
  48 GB  llama-1b; llama-3b --lora 16; llama-8b --batch 64
  80 GB  llama-1b; llama-3b; llama-8b
when its memory runs out while sampling: --batch 64, or --max-new-tokens 256, which cuts off longer
answers; while learning: --micro-tokens 4096; for both: --lora 16
"""

def find_weights(name: str) -> str:
    """Of a run the directory of an agent with weights of its own, or what its adapters were put on."""
    settings = find_settings(name)
    if not settings or (pathlib.Path(name) / "model.safetensors").exists():
        return name
    for config in sorted(pathlib.Path(name).glob("*/config.json")):
        if config.parent.name != "best":
            return str(config.parent)
    return find_weights(settings["model"])


def table(name: str, args) -> str:
    """What --fit prints. args: the settings of train.py, and voices, the number of its roles."""
    config = config_of(find_weights(name))
    cuda = torch.cuda.is_available()
    size = 0                                             # of the memory here: Python can't say it on Windows
    if cuda:
        size = torch.cuda.mem_get_info()[1]
    elif hasattr(os, "sysconf"):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    on_card = estimate_run(config, args, card=True)
    here = estimate_run(config, args, card=cuda)
    lines = [f"{name}: {parameters(config):,} weights; in GB, with the flags for a card, on a card and here:"]
    for part in here:
        lines.append(f"{part:12}{on_card[part] / GB:10.2f}{here[part] / GB:10.2f}")
    for card_size in (80, 48, 24, 16):
        lines.append(f"{card_size:3} GB: {advise(config, args, card_size * GB, card=True)}")
    plain = Namespace(**{**vars(args), "dtype": "float32"})              # what train.py takes without bfloat16
    lines.append(f"    T4: {advise(config, plain, 16 * GB, card=False)} (16 GB, but no bfloat16)")
    if size:
        kind = "card" if cuda else "memory"
        lines.append(f"  here: {advise(config, args, size, card=cuda)} (a {kind} of {size / GB:.0f} GB)")
    return "\n".join(lines)


def estimate_run(config, args, card):
    """The estimate for train.py's settings; card: bfloat16, and the frozen agent rests in host memory."""
    both = args.switch_every == 0                        # do all agents learn in every step?
    voices = 2 if args.process == "rema" else 1
    voices = getattr(args, "voices", voices)             # of a program with roles of its own
    agents = 1 if args.share else voices                 # with weights of their own
    prompt = 2 * PROMPT if args.example else PROMPT
    new = args.max_new_tokens
    prompts = args.questions                             # that are answered by a group each
    groups = args.group
    if len(groups) == 1:
        groups = groups * voices
    rows = prompts * groups[-1]                          # sampled in a step
    if args.turns > 1:                                   # a conversation is one row
        new *= voices * args.turns
    else:
        prompt += (voices - 1) * args.max_new_tokens     # the last agent is shown what the others said
        if both:
            prompts *= math.prod(groups[:-1])
            rows = prompts * groups[-1]
        for position, group in enumerate(groups):        # of the learner; those after it answer each turn of its group
            rows = max(rows, args.questions * group * args.followers ** (voices - 1 - position))
    return estimate(config, agents=agents, dtype="bfloat16" if card else args.dtype, lora=args.lora, kl=args.kl,
                    questions=prompts, group=max(groups), prompt_tokens=prompt, new_tokens=new,
                    batch=min(args.batch, max(rows, args.eval_questions)), micro_tokens=args.micro_tokens,
                    checkpointing=args.checkpointing, offload=card and not args.lora and not both)


TOO_LARGE = "does not fit, nor with --lora and a sixteenth of --micro-tokens, --batch, --max-new-tokens, --questions"


def advise(config, args, size, card):
    """Whether the run fits into `size` bytes, and if not, which flags would make it fit.

    They are tried in this order, each beside those before it; what turns out not to be needed is dropped.
    """
    def fits(flags):
        changed = Namespace(**{**vars(args), **flags})
        return estimate_run(config, changed, card)["total"] + GB <= size

    if fits({}):
        return "fits"
    candidates = [("lora", args.lora or RANK), ("checkpointing", True)]
    for flag in ("micro_tokens", "batch", "max_new_tokens", "questions"):        # halved, up to four times
        for divisor in (2, 4, 8, 16):
            candidates.append((flag, max(1, getattr(args, flag) // divisor)))
    flags = {}
    for flag, value in candidates:
        if not fits(flags):
            flags[flag] = value
    if not fits(flags):
        return TOO_LARGE
    for flag in reversed(list(flags)):
        fewer = dict(flags)
        del fewer[flag]
        if fits(fewer):
            flags = fewer
    text = "does not fit as it is; fits with"
    for flag, value in flags.items():
        text += f" --{flag.replace('_', '-')}"
        if value is not True:
            text += f" {value}"
    return text
