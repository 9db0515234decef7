"""Rebuild data/tiny from nothing: a vocabulary, a corpus of good and bad habits, a short supervised training.

    python -m data.tiny.make_tiny                            overwrite data/tiny
    python -m data.tiny.make_tiny --size large --out DIR     another size on the same mixture

The model learns to SPEAK: every format of rema.py (VRP, MRP, ReMA with text plans, with JSON plans, in turns)
and the arithmetic of numbers up to 99. It does not learn WHAT PAYS: right plans stand beside wrong and empty
ones, careful answers beside guesses, in the proportions below. Which habits to keep is left to RL.
"""
import collections
import itertools
import json
import math
import pathlib
import random
import time

import regex                                # comes with tiktoken
import torch
from tqdm import tqdm

import eval as evaluation
import model as models
import rema
import rollout
from data import Parser, guarded
from data.problems.arithmetic import EMPTY, LEVELS, generate, rewrite, right_plan, values, working, wrong_plan
from data.formats.files import atomic_write
from data.formats.hub import TINY
from data.formats.tokenizer import LETTER, Tokenizer

# ------------------------------------------------------------------------------------------------------------
# The mixture. Easy problems tempt to the good habit, hard ones to the bad one: greedy decoding, which takes
# the most frequent habit, is right on easy problems and wrong on hard ones, and sampling shows RL the other.
# MRP's habits are products of the two agents' habits, VRP's are near them: the three start about equal.

def by_level(**habits):
    """Each habit's shares at level 1, 2 and 3 -> {level: {habit: share}}."""
    return {level: {habit: shares[level - 1] for habit, shares in habits.items()} for level in LEVELS}


PLANS = by_level(right=(.62, .37, .30), wrong=(.26, .49, .54), empty=(.12, .14, .16))
JSON_PLANS = by_level(right=(.45, .30, .20), wrong=(.25, .37, .45), rewrite=(.15,) * 3, empty=(.15, .18, .20))
SOLO = by_level(right=(.50, .31, .24), wrong=(.18, .31, .30), guess=(.32, .38, .46))        # VRP's working
FINISH = {"right": .80, "early": .08, "late": .12}      # where [FINISH] stands in two turns
FOLLOW = {1: .75, 2: .62, 3: .52}                       # the low-level agent follows the plan, else guesses
ALONE = .05                                             # without a plan it finds the right order itself
SWAPPED = .05                                           # plans of other problems, followed to the letter
FORMATS = {"vrp": .26, "mrp": .18, "high": .14, "low": .14, "high json": .08, "low json": .08, "turns": .12}


def choose(rng, table):
    return rng.choices(list(table), list(table.values()))[0]


def guess(rng, row):
    """An answer without working: one of the problem's numbers, and so never the right one."""
    digit = rng.choice([sign for sign in row["problem"] if sign.isdigit()])
    return f"\\boxed{{{digit}}}"


def write_plan(rng, row, table):
    """-> (habit, plan) drawn from a table by level."""
    kind = choose(rng, table[row["level"]])
    write = {"right": right_plan, "wrong": wrong_plan, "rewrite": rewrite}
    return kind, write[kind](row["problem"]) if kind in write else ""


def solve(plan):
    return f"{working(plan)} \\boxed{{{values(plan)[-1]}}}"


def write_answer(rng, row, kind, plan):
    """What the low-level agent says to a plan."""
    if rng.random() >= (ALONE if kind == "empty" else FOLLOW[row["level"]]):
        return guess(rng, row)
    return solve(right_plan(row["problem"]) if kind in ("empty", "rewrite") else plan)


def write_turns(rng, row):
    """What is said in turns, high-level agent first: half of the plan, its working, the rest [FINISH] ..."""
    kind, plan = write_plan(rng, row, PLANS)
    answer, steps = write_answer(rng, row, kind, plan), plan.split("; ")
    if kind == "empty":
        return [f"{EMPTY} [FINISH]", answer]
    first, rest = "; ".join(steps[:len(steps) // 2]), "; ".join(steps[len(steps) // 2:])
    shown = working(first)
    ending = answer.removeprefix(shown.removesuffix(".")).removeprefix("; ")
    return {"right": [first, shown, f"{rest} [FINISH]", ending],
            "early": [f"{first} [FINISH]", guess(rng, row)],
            "late": [first, shown, rest, ending, "[FINISH]", ending.split()[-1]]}[choose(rng, FINISH)]


def converse(rng, row, other):
    """One or two conversations about a problem; all that the assistant says in them is learned."""
    def say(role, *turns, plan=""):
        return role.prompt(row["problem"], plan) + [{"role": ("assistant", "user")[i % 2], "content": text}
                                                    for i, text in enumerate(turns)]

    form = choose(rng, FORMATS)
    if form == "turns":
        turns = write_turns(rng, row)
        return [say(rema.HIGH_TURNS, *turns[:-1]), say(rema.LOW_TURNS, *turns[1:], plan=turns[0])]
    if form == "vrp":
        _, plan = write_plan(rng, row, SOLO)
        return [say(rema.VRP, solve(plan) if plan else guess(rng, row))]
    kind, plan = write_plan(rng, row, JSON_PLANS if "json" in form else PLANS)
    if form == "low" and rng.random() < SWAPPED:
        kind, plan = "right", right_plan(other["problem"])
    answer = write_answer(rng, row, kind, plan)
    action = {"rewrite": "REWRITE", "empty": "EMPTY"}.get(kind, "DECOMPOSE")
    whole = json.dumps({"action": action, "output": plan})
    if form == "low json":
        return [say(rema.LOW, answer, plan=rng.choice((whole, plan)))]
    return [{"mrp": say(rema.MRP, f"Plan: {plan or EMPTY}\n{answer}"), "high": say(rema.HIGH, plan or EMPTY),
             "low": say(rema.LOW, answer, plan=plan or EMPTY), "high json": say(rema.HIGH_JSON, whole)}[form]]


def corpus(rng):
    """Endless conversations about training problems."""
    while True:
        rows = generate(256, seed=rng.random())
        for row, other in zip(rows, rows[1:] + rows[:1]):
            yield from converse(rng, row, other)


def school(rng):
    """The same without system messages and guesses: short rows that teach planning and reckoning first."""
    return (messages[1:] for messages in corpus(rng) if "=" in messages[-1]["content"])


# ------------------------------------------------------------------------------------------------------------
# The vocabulary: byte-level BPE, as GPT-2 has it

# A word, perhaps with a backslash before it and = or { behind it; a digit; an operator; other signs; space.
PIECES = r" ?\\?\p{L}+[={]?|\p{N}|[-+*()]| ?[^\s\p{L}\p{N}]+|\s+"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def train_bpe(counts, least=2):
    """{piece: how often} -> merges, most frequent pair first (ties: the first in the alphabet).

    train_bpe({"abab": 2, "ab": 1}) == [("a", "b"), ("ab", "ab")]; stops when no pair occurs `least` times.
    """
    words = [([LETTER[b] for b in piece.encode()], count) for piece, count in sorted(counts.items())]
    merges = []
    while True:
        pairs = collections.Counter()
        for parts, count in words:
            for pair in zip(parts, parts[1:]):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
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
    """Train a vocabulary on `texts`, write a Hugging Face directory's tokenizer files -> number of tokens."""
    merges = train_bpe(collections.Counter(piece for text in texts for piece in regex.findall(PIECES, text)))
    ids = {token: i for i, token in enumerate([*SPECIAL, *sorted(LETTER.values()), *map("".join, merges)])}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    files = {
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "added_tokens": [{"id": ids[token], "content": token, **flags} for token in SPECIAL],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": False, "vocab": ids, "merges": [" ".join(pair) for pair in merges]}},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>", "model_max_length": 512, "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE},
        "generation_config.json": {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}}
    for name, content in files.items():
        atomic_write(directory / name, json.dumps(content, indent=1) + "\n")
    return len(ids)


# ------------------------------------------------------------------------------------------------------------
# Supervised training. Shapes: B rows, T tokens, D width.

SIZES = {"nano": (64, 2), "small": (96, 3), "tiny": (128, 4), "large": (192, 4)}         # width, layers
BATCH = 64


def train(model, lessons, steps, peak):
    """Warm-up and cosine decay on an endless iterator of lessons; short rows and long rows run apart.

    Muon (torch 2.9 or newer) on the blocks' matrices, AdamW on the rest: after 300 steps at school 0.07 nats
    a token, against 0.16 with AdamW alone.
    """
    matrices = [weight for weight in model.layers.parameters() if weight.dim() == 2]
    others = [weight for weight in model.parameters() if not any(weight is matrix for matrix in matrices)]
    optimizers = [torch.optim.Muon(matrices, lr=peak, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
                  torch.optim.AdamW(others, lr=peak / 3, betas=(0.9, 0.95), weight_decay=0.01)]
    recent = collections.deque(maxlen=50)
    bar = tqdm(range(steps), desc="training", unit="step")
    for step in bar:
        rows = sorted((next(lessons) for _ in range(BATCH)), key=lambda row: len(row.prompt + row.tokens))
        count, total = sum(t >= 0 for row in rows for t in row.turn), 0.0
        for half in (rows[:BATCH // 2], rows[BATCH // 2:]):
            half.sort(key=lambda row: row.prompt)                       # a prompt's rows side by side
            part = -rollout.batch_logprobs(model, half)[0].sum() / count
            part.backward()
            total += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        now = min(1, (step + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        for optimizer, rate in zip(optimizers, (peak, peak / 3)):
            optimizer.param_groups[0]["lr"] = rate * now
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        recent.append(total)
        bar.set_postfix_str(f"loss {sum(recent) / len(recent):.3f}")


def starting_point(model, tokenizer, problems=1000):
    """Print held-out accuracy of the three processes, sampled and greedy, in all and by level."""
    rows = generate(problems, split="heldout")
    print(f"{problems} held-out problems, % right      all     level 1  level 2  level 3")
    for (process, roles), heat in itertools.product(rema.PROCESSES.items(), (1.0, 0.0)):
        agents = {role.name: model for role in roles}
        found = evaluation.summary(evaluation.evaluate(agents, tokenizer, rows, roles, max_new_tokens=64,
                                                       temperature=heat))
        print(f"  {process:5} {'temperature 1' if heat else 'greedy':20} %5.1f +- %.1f" % found["accuracy"]
              + "".join(f"{found[f'accuracy, level {level}'][0]:9.1f}" for level in LEVELS))


def main(argv=None):
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--size", choices=SIZES, default="tiny", help=f"width and layers: {SIZES} (tiny)")
    flag("--out", type=pathlib.Path, default=TINY, help="directory to write (data/tiny)")
    flag("--steps", type=int, default=2800, help=f"batches of {BATCH}, the first half at school (2800)")
    flag("--lr", type=float, default=1e-2, help="peak learning rate (1e-2)")
    flag("--seed", type=int, default=0, help="of the corpus and the first weights (0)")
    args = parser.parse_args(argv)

    started = time.perf_counter()
    rng = random.Random(args.seed)
    texts = [message["content"] for messages in itertools.islice(corpus(rng), 3000) for message in messages]
    vocabulary = write_tokenizer(args.out, texts + ["system\nuser\nassistant\n"] * 3)
    tokenizer = Tokenizer.load(args.out)
    width, layers = SIZES[args.size]
    config = models.Config(
        family="llama", vocab_size=vocabulary, width=width, layers=layers, heads=width // 32,
        kv_heads=width // 64, head_width=32, hidden=3 * width, context=512, eps=1e-5, rope_theta=10000.0,
        rope_scaling=None, tied=True, qkv_bias=False, qk_norm=False)
    model = models.Transformer(config).init_weights(torch.Generator().manual_seed(args.seed))
    with torch.no_grad():                       # 0.02 suits wide models; this one likes 0.06
        for weight in model.layers.parameters():
            weight.mul_(3 if weight.dim() == 2 else 1)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters, {vocabulary} tokens")
    course = itertools.chain(itertools.islice(school(rng), args.steps // 2 * BATCH), corpus(rng))
    train(model, (rema.lesson(tokenizer, messages) for messages in course), args.steps, args.lr)
    models.save(model, tokenizer, args.out)
    print(f"{args.out}: built in {time.perf_counter() - started:.0f} s")
    starting_point(model, tokenizer)


if __name__ == "__main__":
    guarded(main, None, "make_tiny")
