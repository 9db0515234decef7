"""Rebuild data/tiny from nothing: a vocabulary, a corpus of good and bad habits, a short supervised training.

    python -m data.make_tiny                          overwrite data/tiny (about ten minutes on two cores)
    python -m data.make_tiny --size large --out DIR   another size on the same mixture

The model learns to SPEAK: every format of rema.py (VRP, MRP, ReMA with text plans and with JSON plans, ReMA in turns)
and the arithmetic of two-digit numbers. It does not learn WHAT PAYS: right plans stand beside wrong and empty ones,
careful answers beside guesses, in the proportions of the table below. Which habits to keep is left to RL.
"""
import argparse
import collections
import dataclasses
import itertools
import json
import math
import pathlib
import random
import time

import regex                                # comes with tiktoken
import torch
import torch.nn.functional as F
from tqdm import tqdm

import eval as evaluation
import model as models
import rema
import rollout
from data.arithmetic import EMPTY, LEVELS, generate, rewrite, right_plan, trace, working, wrong_plan
from data.tokenizer import Tokenizer

# ----------------------------------------------------------------------------------------------------------------
# The mixture. Easy problems tempt to the good habit, hard ones to the bad one: greedy decoding, which takes the most
# frequent habit, is then right on easy problems and wrong on hard ones, and sampling shows RL the alternative.
# VRP's and MRP's habits are the products of the two agents' habits, so that all three processes start equal.

PLANS = {1: {"right": .58, "wrong": .29, "empty": .13},         # what a text plan is like, by level
         2: {"right": .40, "wrong": .44, "empty": .16},
         3: {"right": .30, "wrong": .52, "empty": .18}}
JSON_PLANS = {1: {"right": .45, "wrong": .25, "rewrite": .15, "empty": .15},
              2: {"right": .30, "wrong": .37, "rewrite": .15, "empty": .18},
              3: {"right": .20, "wrong": .45, "rewrite": .15, "empty": .20}}
TURNS = {"right": .80, "early": .08, "never": .12}              # where [FINISH] stands, given the two parts of a plan
FOLLOW = {1: .70, 2: .58, 3: .48}                               # the low-level agent does what it is told; else it guesses
ALONE = .05                                                     # without a plan it finds the right order itself
LUCK = .10                                                      # a guess is the true value, else any number to 99
SWAPPED = .05                                                   # plans of other problems, followed to the letter
FORMATS = {"vrp": .15, "mrp": .20, "high": .15, "low": .22, "high json": .08, "low json": .08, "turns": .12}

BATCH = 64
SIZES = {"small": (96, 3), "tiny": (128, 4), "large": (256, 6)}         # width, layers


# In the first turn the low-level agent hears the problem and the plan together, as in a single turn; then plans alone.
LOW_TURNS = dataclasses.replace(rema.LOW_TURNS, user=rema.LOW.user)


def choose(rng, table):
    return rng.choices(list(table), list(table.values()))[0]


def boxed(value):
    return f"\\boxed{{{value}}}"


def guess(rng, answer):
    return boxed(answer if rng.random() < LUCK else rng.randint(0, 99))


def write_plan(rng, problem, table):
    """A plan drawn from a table of habits; "" is the empty one."""
    kind = choose(rng, table)
    return kind, {"right": right_plan, "wrong": wrong_plan, "rewrite": rewrite, "empty": lambda _: ""}[kind](problem)


def write_answer(rng, problem, level, answer, kind, plan):
    """What the low-level agent says to a plan of a kind."""
    if kind == "rewrite":                   # the brackets show the order
        plan = right_plan(problem)
    elif kind == "empty":
        if rng.random() >= ALONE:
            return guess(rng, answer)
        plan = right_plan(problem)
    elif rng.random() >= FOLLOW[level]:
        return guess(rng, answer)
    return f"{working(plan)} {boxed(trace(plan)[-1][2])}"


def example(rng, row, other):
    """One or two conversations about a problem, as message lists; all that the assistant says in them is learned."""
    problem, level, answer = row["problem"], row["level"], row["answer"]
    form = choose(rng, FORMATS)

    def say(role, *turns, plan=""):
        """role's prompt, then what is said in turn: assistant, user, assistant ..."""
        return role.prompt(problem, plan) + [{"role": ("assistant", "user")[i % 2], "content": text}
                                             for i, text in enumerate(turns)]

    if form == "turns":
        return turns(rng, say, problem, level, answer)
    kind, plan = write_plan(rng, problem, JSON_PLANS[level] if "json" in form else PLANS[level])
    reply = write_answer(rng, problem, level, answer, kind, plan)
    if form == "vrp":
        return [say(rema.VRP, reply)]
    if form == "mrp":
        return [say(rema.MRP, f"Plan: {plan or EMPTY}\n{reply}")]
    if form == "high":
        return [say(rema.HIGH, plan or EMPTY)]
    if form == "low":
        if rng.random() < SWAPPED:
            plan = right_plan(other["problem"])
            reply = write_answer(rng, problem, level, answer, "right", plan)
        return [say(rema.LOW, reply, plan=plan or EMPTY)]
    action = {"rewrite": "REWRITE", "empty": "EMPTY"}.get(kind, "DECOMPOSE")
    whole = json.dumps({"action": action, "output": plan})
    if form == "high json":
        return [say(rema.HIGH_JSON, whole)]
    return [say(rema.LOW, reply, plan=whole if rng.random() < .5 else plan)]


def turns(rng, say, problem, level, answer):
    """Both agents' sides of a conversation in turns: half of the plan, its working, the rest, [FINISH]."""
    kind, plan = write_plan(rng, problem, PLANS[level])
    if kind == "empty":
        reply = write_answer(rng, problem, level, answer, kind, plan)
        return [say(rema.HIGH_TURNS, f"{EMPTY} [FINISH]"), say(LOW_TURNS, reply, plan=f"{EMPTY} [FINISH]")]
    steps, known, finish = plan.split("; "), {}, choose(rng, TURNS)
    half = len(steps) // 2
    plans = ["; ".join(steps[:half]), "; ".join(steps[half:])]
    replies = [working(plans[0], known), working(plans[1], known)]
    result = boxed(trace(plan)[-1][2])
    if rng.random() >= FOLLOW[level]:
        result, replies[1] = guess(rng, answer), ""
    if finish == "early":
        plans, replies = [plans[0] + " [FINISH]"], [guess(rng, answer)]
    elif finish == "right":
        plans[1], replies[1] = plans[1] + " [FINISH]", f"{replies[1]} {result}".strip()
    else:                                                       # forgotten, and made good in a third turn
        replies[1] = replies[1] or f"{result}"
        plans, replies = plans + ["[FINISH]"], replies + [result]
    high = [text for pair in zip(plans, replies) for text in pair][:-1]
    low = [text for pair in zip(replies, plans[1:] + [""]) for text in pair][:-1]
    return [say(rema.HIGH_TURNS, *high), say(LOW_TURNS, *low, plan=plans[0])]


def corpus(rng):
    """Endless conversations about training problems."""
    while True:
        rows = generate(256, seed=rng.random())
        for row, other in zip(rows, rows[1:] + rows[:1]):
            yield from example(rng, row, other)


def school(rng):
    """Endless short conversations, without roles or habits: a problem and its plan, a plan and its working."""
    while True:
        for row in generate(256, seed=rng.random()):
            plan = (right_plan, wrong_plan)[rng.random() < .3](row["problem"])
            reply = f"{working(plan)} {boxed(trace(plan)[-1][2])}"
            asked, said = (plan, reply) if rng.random() < .7 else (row["problem"], right_plan(row["problem"]))
            yield [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


# ----------------------------------------------------------------------------------------------------------------
# The vocabulary: byte-level BPE, as GPT-2 has it

# A word, perhaps with a backslash before it and = or { behind it; a digit; an operator; other signs; white space.
PIECES = r" ?\\?\p{L}+[={]?|\p{N}|[-+*()]| ?[^\s\p{L}\p{N}]+|\s+"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def byte_letters():
    """A printable letter for each byte, the table of every GPT-2 style tokenizer.json: printable bytes stand for
    themselves, the others are shifted to 256 and up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def train_bpe(counts, least=2):
    """{piece: how often} -> merges, most frequent pair first (ties: the first in the alphabet).

    train_bpe({"abab": 2, "ab": 1}) == [("a", "b"), ("ab", "ab")]; stops when no pair occurs `least` times.
    """
    letter = byte_letters()
    words = [([letter[b] for b in piece.encode()], count) for piece, count in sorted(counts.items())]
    merges = []
    while True:
        pairs = collections.Counter()
        for parts, count in words:
            for pair in zip(parts, parts[1:]):
                pairs[pair] += count
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < least:
            return merges
        merges.append(best)
        for parts, _ in words:
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i:i + 2] = ["".join(best)]
                i += 1


def write_tokenizer(directory, texts):
    """Train a vocabulary on `texts` and write the three tokenizer files of a Hugging Face directory."""
    counts = collections.Counter(piece for text in texts for piece in regex.findall(PIECES, text))
    merges = train_bpe(counts)
    tokens = list(byte_letters().values()) + ["".join(pair) for pair in merges]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ids = {token: i for i, token in enumerate(SPECIAL + tuple(tokens))}
    files = {
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "added_tokens": [{"id": ids[token], "content": token, **flags} for token in SPECIAL],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": ids, "merges": [" ".join(pair) for pair in merges]}},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>", "model_max_length": 512, "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE},
        "generation_config.json": {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}}
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(ids)


# ----------------------------------------------------------------------------------------------------------------
# Supervised training

def lesson(tokenizer, messages):
    """A conversation -> (ids, mask): mask is 1 on what the assistant says, its end tokens included."""
    end, = tokenizer.stop_ids
    ids, mask = [], []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            shown, said = tokenizer.chat(messages[:i]), tokenizer.encode(message["content"]) + [end]
            mask += [0] * (len(shown) - len(ids)) + [1] * len(said)
            ids = shown + said
    return ids, mask


def loss(model, lessons):
    """Negative log-likelihood in nats, summed over the tokens with mask 1. lessons: pairs (ids, mask)."""
    tokens, _ = rollout.pad([ids for ids, _ in lessons], "cpu")                # (B, T)
    said = rollout.pad([mask for _, mask in lessons], "cpu")[0][:, 1:].bool()  # (B, T - 1)
    hidden = model.hidden(tokens[:, :-1])                                      # (B, T - 1, D)
    return F.cross_entropy(model.lm_head(hidden[said]), tokens[:, 1:][said], reduction="sum")


def train(model, lessons, steps, batch, peak):
    """Muon with warm-up and cosine decay on an endless iterator of lessons; short and long rows run apart.

    The matrices of the blocks get Muon, the embedding and the norms AdamW: half the steps of AdamW alone.
    """
    recent = collections.deque(maxlen=50)
    matrices = [weight for weight in model.layers.parameters() if weight.dim() == 2]
    others = [weight for weight in model.parameters() if not any(weight is matrix for matrix in matrices)]
    optimizers = [torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
                  torch.optim.AdamW(others, lr=peak / 3, betas=(0.9, 0.95), weight_decay=0.01)]
    bar = tqdm(range(steps), desc="training", unit="step")
    for step in bar:
        rows = sorted((next(lessons) for _ in range(batch)), key=lambda row: len(row[0]))
        count = sum(sum(mask) for _, mask in rows)
        total = 0.0
        for i in range(0, batch, 32):
            part = loss(model, rows[i:i + 32]) / count
            part.backward()
            total += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        now = min(1, (step + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        for optimizer, rate in zip(optimizers, (peak, peak / 3)):
            optimizer.param_groups[0]["lr"] = rate * now
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        recent.append(total)
        bar.set_postfix_str(f"loss {sum(recent) / len(recent):.3f}")


def starting_point(model, tokenizer, problems=1000):
    """Print held-out accuracy of the three processes, by level, sampled and greedy."""
    rows = generate(problems, split="heldout")
    print(f"\n{problems} held-out problems, percent right          all      " + "".join(f"  level {i}" for i in LEVELS))
    for process, roles in rema.PROCESSES.items():
        for name, temperature in (("temperature 1", 1.0), ("greedy", 0.0)):
            episodes = evaluation.evaluate({role.name: model for role in roles}, tokenizer, rows, process,
                                           max_new_tokens=64, temperature=temperature)
            mean, error = evaluation.accuracy([e.correct for e in episodes])
            by_level = [evaluation.accuracy([e.correct for e in episodes if e.row["level"] == level])[0]
                        for level in LEVELS]
            print(f"  {process:8} {name:28} {mean:5.1f} +- {error:.1f} " + "".join(f"{x:9.1f}" for x in by_level))


def main(argv=None):
    torch.set_flush_denormal(True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny", help="width and layers: " + ", ".join(
        f"{name} {width} x {layers}" for name, (width, layers) in SIZES.items()) + " (tiny)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "tiny",
                        help="directory to write (data/tiny)")
    parser.add_argument("--steps", type=int, default=2000, help=f"batches of {BATCH} conversations; the first two fifths at school (2000)")
    parser.add_argument("--lr", type=float, default=1e-2, help="peak learning rate (1e-2)")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus and the first weights (0)")
    args = parser.parse_args(argv)

    started = time.perf_counter()
    rng = random.Random(args.seed)
    sample = [message["content"] for _, messages in zip(range(3000), corpus(rng)) for message in messages]
    vocabulary = write_tokenizer(args.out, sample + ["system\nuser\nassistant\n"] * 3)
    tokenizer = Tokenizer.load(args.out)
    width, layers = SIZES[args.size]
    config = models.Config(family="llama", vocab_size=vocabulary, width=width, layers=layers, heads=width // 32,
                           kv_heads=max(1, width // 64), head_width=32, hidden=3 * width, context=512, eps=1e-5,
                           rope_theta=10000.0, rope_scaling=None, tied=True, qkv_bias=False, qk_norm=False)
    model = models.Transformer(config).init_weights(torch.Generator().manual_seed(args.seed))
    with torch.no_grad():                       # 0.02 is GPT-2's; so narrow a model learns ten times faster from 0.06
        for weight in model.layers.parameters():
            weight.mul_(3 if weight.dim() == 2 else 1)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters, {vocabulary} tokens")
    at_school = args.steps * 2 // 5
    course = itertools.chain(itertools.islice(school(rng), at_school * BATCH), corpus(rng))
    train(model, (lesson(tokenizer, messages) for messages in course), args.steps, BATCH, args.lr)
    models.save(model, tokenizer, args.out)
    print(f"{args.out}: built in {time.perf_counter() - started:.0f} s")
    starting_point(model, tokenizer)


if __name__ == "__main__":
    main()
