"""Will it fit? The memory of a training run from a model's numbers alone: `python train.py --model M --fit`.

What a run holds has three parts. For its whole life: weights, and for each agent the two moments of AdamW.
While it samples: the KV cache, and what one forward pass needs. While it learns: gradients, and all that
autograd keeps of a micro-batch until its backward pass. Sampling and learning take turns, so

    total = weights + adapters + optimizer + max(sampling, learning)

Every term follows from a line of model.py, rollout.py or train.py; tests/test_memory.py measures the sum. All
sizes are in bytes and for the worst case: each prompt and each answer as long as it may be.

Shapes: B rows, P prompts, T new tokens, S keys, V vocabulary, D width, H heads, K key-value heads, C head
width, L layers, Q = H C, KV = K C, F hidden width of the MLP; e bytes a number of the compute type.
"""
import os
from math import ceil, log2

import torch

from data.formats.files import read_json
from data.formats.hub import MODELS, resolve
from data.formats.config import Config

# A card "of 80 GB" has 85 of these: the rest, and one more, is for CUDA and the holes its allocator leaves.
# PROMPT: tokens of the system message and a long question; worked examples take as many again.
GB, PROMPT = 10 ** 9, 200


def config_of(name):
    """Config of a named model (data/formats/models.json), a directory, or a downloaded model of the hub.

    A named model's has no context, rope or eps: enough to count with, not to run. UserError: not known here.
    """
    for short, model in MODELS.items():
        if name in (short, model["hub"]):
            family = model["config"]["family"]
            return Config(**model["config"], context=None, eps=None, rope_theta=None, rope_scaling=None,
                          qkv_bias=family == "qwen2", qk_norm=family == "qwen3")
    return Config.from_hf(read_json(resolve(name, download=False) / "config.json"))


def widths(config):
    """-> D, Q, KV, F: of the residual stream, all queries, all keys (or values), the MLP."""
    return config.width, config.heads * config.head_width, config.kv_heads * config.head_width, config.hidden


def parameters(config, lora=0):
    """Number of weights, a tied head counted once; or, of adapters of rank `lora`, those of one agent.

    Adapters: A (lora, in) and B (out, lora) beside each of the seven linear layers of a block.
    """
    D, Q, KV, F = widths(config)
    adapters = config.layers * lora * (4 * D + 2 * Q + 2 * KV + 3 * (D + F))
    block = D * (2 * Q + 2 * KV + 3 * F + 2) + (Q + 2 * KV) * config.qkv_bias
    block += 2 * config.head_width * config.qk_norm
    return adapters or config.layers * block + D * (1 + config.vocab_size * (2 - config.tied))


def default_lora(config):
    """Rank when no flag says otherwise: full weights (0) up to 4 billion, adapters of rank 16 beyond."""
    return 16 if parameters(config) > 4e9 else 0


def kept(config, B, T, S, e, lora):
    """Bytes that autograd keeps of one block for B rows of T tokens that look at S keys each.

    RMSNorm keeps what it sees, in float32, and its result before the gain, for the gain's gradient. A matrix
    product keeps its input, for its weight's gradient. A frozen weight has none, but its adapter keeps the
    input, and in float32: so beside a bfloat16 base each of q, k, v, gate and up keeps a copy of its own.
    """
    D, Q, KV, F = widths(config)
    norms = (2 * D + (Q + KV) * config.qk_norm) * (4 + e * (not lora))
    inputs = (5 * D + Q + F + 7 * lora) * 4 if lora and e < 4 else (2 * D + Q + F + 7 * lora) * e
    # Attention: queries, result, log-sum-exp, the mask as numbers, keys and values; the MLP: gate, silu, up.
    return B * (T * (norms + inputs + (2 * Q + 3 * F + S) * e + 4 * config.heads) + 2 * S * KV * e)


def estimate(config, *, agents=2, dtype="bfloat16", lora=0, questions=16, group=8, prompt_tokens=PROMPT,
             new_tokens=512, batch=256, per_prompt=1, micro_tokens=16384, checkpointing=False, chunk=1024,
             kl=0, offload=False):
    """Peak memory of a run -> {part: bytes}; `sampling` and `learning` are the phases, `total` is the peak.

    questions, group            prompts of an optimizer step, and samples of each
    prompt_tokens, new_tokens   of the longest prompt; what may be sampled after it
    batch, per_prompt           rows decoded at a time; how many of them share a prompt
    chunk                       positions whose logits exist at once while learning
    offload                     a frozen agent's masters and moments rest in `host` memory, not on the card
    """
    (D, _, KV, F), V, L, T, Tp = widths(config), config.vocab_size, config.layers, new_tokens, prompt_tokens
    e, learned = getattr(torch, dtype).itemsize, parameters(config, lora)
    one = learned * (12 if e < 4 and not lora else 8)        # moments; masters of half-precision weights
    fixed = dict(weights=parameters(config) * e * (1 if lora else agents + bool(kl)),      # --kl: a reference
                 adapters=4 * agents * learned * bool(lora), optimizer=one * (1 if offload else agents))
    extra = 12 if lora and e < 4 else 2 * e                  # beside an output of F: B A x, scaled, the sum

    # Sampling: rollout.prefill, then one token a row and step. A row's room doubles, a layer at a time.
    P, room = ceil(batch / per_prompt), T if T <= 64 else 64 * 2 ** ceil(log2((T - 1) / 64))
    prompts, own = (2 * L * KV * e * tokens for tokens in (P * Tp, batch * room))
    prefill = P * Tp * (F * (3 * e + extra * bool(lora)) + 3 * D * e + Tp * (e + 1))
    scores = batch * (config.heads * (Tp + T) * (4 + 3 * e) + V * e)           # of a layer; the last logits
    sampling = prompts + max(prefill, own + max(16 * batch * V, own // L + scores))    # 16 V: rollout.draw

    # Learning: one micro-batch (train.micro_batches), beside the gradients of those before it.
    rows = min(group, max(1, (micro_tokens - Tp) // T))      # of one prompt
    P = max(1, min(questions * ceil(group / rows), micro_tokens // (Tp + rows * T)))
    ours, theirs = P * rows * T, P * Tp                      # tokens of samples, of prompts
    blocks = kept(config, P * rows, T - 1, Tp + T - 1, e, lora), kept(config, P, Tp, Tp, e, lora)
    # Checkpointing holds each block's input, keys and values, and runs one block again for its gradients.
    held = L * (e * (D + 2 * KV) * (ours + theirs) if checkpointing else sum(blocks))
    block = max(blocks) * checkpointing + max(ours, theirs) * (extra * F + 16 * D)
    logits = 20 * min(chunk, ours) * V + D * (ours + theirs) * (4 + e) + 2 * D * ours * e      # 5 in float32
    alone = held + max(block, logits) + V * D * e * (not lora)                 # and the head's gradient
    # Beside all gradients: a later micro-batch, or AdamW's quotients (8 bytes a number of the embedding).
    learning = max(alone, 4 * learned + max(alone * (questions * group > P * rows), 8 * V * D * (not lora)))
    return dict(**fixed, cache=prompts + own, sampling=sampling, gradients=4 * learned, logits=logits,
                activations=held + block, learning=learning, host=one * (agents - 1) * offload,
                total=sum(fixed.values()) + max(sampling, learning))


def parts(config, args, card):
    """The estimate for train.py's settings; card: bfloat16, and the frozen agent rests in host memory."""
    two, both = args.process == "rema", args.switch_every == 0
    plans, turns = args.plans if two and args.turns == 1 else 1, 2 * args.turns - (args.turns == 1)
    rows = args.questions * max(plans * (args.answers if both else args.answers_high), args.answers)
    same = {name: getattr(args, name) for name in ("lora", "kl", "micro_tokens", "checkpointing")}
    return estimate(
        config, agents=1 + (two and not args.share), dtype="bfloat16" if card else args.dtype, **same,
        questions=args.questions * (plans if both else 1), group=max(plans, args.answers),
        prompt_tokens=PROMPT * (1 + args.example) + args.max_new_tokens * (two and turns == 1),
        new_tokens=args.max_new_tokens * turns, batch=min(args.batch, max(rows, args.eval_questions)),
        offload=card and not (args.lora or both))


def advice(config, args, size, card):
    """Whether the run fits into `size` bytes, and if not, which flags would make it fit.

    They are tried in this order, each beside those before it; what turns out not to be needed is dropped.
    """
    fits = lambda flags: parts(config, type(args)(**{**vars(args), **flags}), card)["total"] + GB <= size
    flags, halved = {}, ("micro_tokens", "batch", "max_new_tokens", "questions")
    for flag, value in [("lora", args.lora or 16), ("checkpointing", True)] + [
            (flag, max(1, getattr(args, flag) >> i)) for flag in halved for i in range(1, 5)]:
        flags = flags if fits(flags) else {**flags, flag: value}
    for flag in reversed(flags):
        fewer = {other: value for other, value in flags.items() if other != flag}
        flags = fewer if fits(fewer) else flags
    text = " ".join(f"--{f} {v}" for f, v in flags.items()).replace("_", "-").replace(" True", "")
    return "fits" if not flags else f"does not fit, {'with ' + text if fits(flags) else 'no flag helps'}"


def table(name, args):
    """What --fit prints. args: the settings of train.py."""
    config, cuda = config_of(name), torch.cuda.is_available()
    here = torch.cuda.mem_get_info()[1] if cuda else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    card, own = parts(config, args, True), parts(config, args, cuda)
    lines = [f"{name}: {parameters(config):,} weights; in GB, with the flags for a card, on a card and here "
             f"({here / GB:.0f} GB):"]
    lines += [f"{key:12}{card[key] / GB:10.2f}{own[key] / GB:10.2f}" for key in card]
    sizes = [(80 * GB, True), (24 * GB, True), (16 * GB, True), (here, cuda)]
    return "\n".join(lines + [f"{size / GB:3.0f} GB: {advice(config, args, size, on)}" for size, on in sizes])
