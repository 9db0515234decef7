"""Rebuild data/tiny from nothing: a vocabulary, a corpus of good and bad habits, a short supervised training.

    python -m data.tiny.make_tiny                            overwrite data/tiny
    python -m data.tiny.make_tiny --size large --out DIR     another size on the same mixture

The model learns to SPEAK: every format of rema.py (VRP, MRP, ReMA with text plans, with JSON plans, in turns)
and the arithmetic of numbers up to 99. It does not learn WHAT PAYS: right plans stand beside wrong and empty
ones, careful answers beside guesses, in the proportions below. Which habits to keep is left to RL.
"""
import itertools
import json
import math
import pathlib
import random
from collections import Counter

import regex                                # comes with tiktoken
import torch
from tqdm import tqdm

import eval as evaluation
import model as models
import rema
import rollout
from data.formats.config import Config
from data.formats.files import atomic_write
from data.formats.hub import TINY
from data.formats.tokenizer import LETTER, Tokenizer
from data.problems.arithmetic import EMPTY, rewrite, right_plan, values, working, wrong_plan
from data.problems.generate import LEVELS, generate
from data.views.program import Parser, run_program
from data.views.statistics import show_error


# ------------------------------------------------------------------------------------------------------------
# The mixture. Easy problems tempt to the good habit, hard ones to the bad one: greedy decoding, which takes
# the most frequent habit, is right on easy problems and wrong on hard ones, and sampling shows RL the other.
# MRP's habits are products of the two agents' habits, VRP's are near them: the three start about equal.

def by_level(**habits):
    """Each habit's shares at level 1, 2 and 3 -> {level: {habit: share}}."""
    table = {}
    for level in LEVELS:
        table[level] = {habit: shares[level - 1] for habit, shares in habits.items()}
    return table


PLANS = by_level(right=(.62, .37, .30), wrong=(.26, .49, .54), empty=(.12, .14, .16))
JSON_PLANS = by_level(right=(.45, .30, .20), wrong=(.25, .37, .45), rewrite=(.15,) * 3, empty=(.15, .18, .20))
SOLO = by_level(right=(.50, .31, .24), wrong=(.18, .31, .30), guess=(.32, .38, .46))        # VRP's working
FINISH = {"right": .80, "early": .08, "late": .12}      # where [FINISH] stands in two turns
FOLLOW = {1: .75, 2: .62, 3: .52}                       # the low-level agent follows the plan, else guesses
ALONE = .05                                             # without a plan it finds the right order itself
SWAPPED = .05                                           # plans of other problems, followed to the letter
FORMATS = {"vrp": .26, "mrp": .18, "high": .14, "low": .14, "high json": .08, "low json": .08, "turns": .12}
WRITERS = {"right": right_plan, "wrong": wrong_plan, "rewrite": rewrite}
ACTIONS = {"right": "DECOMPOSE", "wrong": "DECOMPOSE", "rewrite": "REWRITE", "empty": "EMPTY"}


# ------------------------------------------------------------------------------------------------------------
# The corpus. Which numbers are drawn, and in which order, must stay: tests/test_make_tiny.py holds a digest.

def choose(rng, table):
    """A key of {key: share}."""
    return rng.choices(list(table), table.values())[0]


def guess(rng, row):
    """An answer without working: one of the problem's numbers, and so never the right one."""
    digits = [sign for sign in row["problem"] if sign.isdigit()]
    return f"\\boxed{{{rng.choice(digits)}}}"


def solve(plan):
    """An answer that does what the plan says."""
    return f"{working(plan)} \\boxed{{{values(plan)[-1]}}}"


def write_plan(rng, row, table):
    """-> (habit, plan) drawn from a table by level. No plan for "empty" and "guess"."""
    habit = choose(rng, table[row["level"]])
    plan = ""
    if habit in WRITERS:
        plan = WRITERS[habit](row["problem"])
    return habit, plan


def write_answer(rng, row, habit, plan):
    """What the low-level agent says to a plan."""
    follows = FOLLOW[row["level"]]
    if habit == "empty":
        follows = ALONE
    if rng.random() >= follows:
        return guess(rng, row)
    if habit in ("empty", "rewrite"):                   # no steps to follow: it finds them itself
        plan = right_plan(row["problem"])
    return solve(plan)


def write_turns(rng, row):
    """What is said in turns, high-level agent first: half of the plan, its working, the rest [FINISH] ..."""
    habit, plan = write_plan(rng, row, PLANS)
    answer = write_answer(rng, row, habit, plan)
    if habit == "empty":
        return [f"{EMPTY} [FINISH]", answer]
    steps = plan.split("; ")
    half = len(steps) // 2
    first = "; ".join(steps[:half])
    rest = "; ".join(steps[half:])
    shown = working(first)
    ending = answer.removeprefix(shown.removesuffix(".")).removeprefix("; ")
    guessed = guess(rng, row)                           # drawn first, needed or not
    finish = choose(rng, FINISH)
    if finish == "early":
        return [f"{first} [FINISH]", guessed]
    if finish == "right":
        return [first, shown, f"{rest} [FINISH]", ending]
    return [first, shown, rest, ending, "[FINISH]", ending.split()[-1]]


def say(role, row, *texts, plan=""):
    """A conversation: what a role is shown, then what it says and what it is answered, in turn."""
    messages = role.prompt(row, {"high": plan})
    for speaker, text in zip(itertools.cycle(["assistant", "user"]), texts):
        messages.append({"role": speaker, "content": text})
    return messages


def converse(rng, row, other):
    """One or two conversations about a problem; all that the assistant says in them is learned.

    other: a row whose plan is shown at times instead of this one's.
    """
    form = choose(rng, FORMATS)
    if form == "turns":
        first, *more = write_turns(rng, row)
        return [say(rema.HIGH_TURNS, row, first, *more[:-1]), say(rema.LOW_TURNS, row, *more, plan=first)]
    if form == "vrp":
        habit, plan = write_plan(rng, row, SOLO)
        if habit == "guess":
            return [say(rema.VRP, row, guess(rng, row))]
        return [say(rema.VRP, row, solve(plan))]
    table = PLANS
    if "json" in form:
        table = JSON_PLANS
    habit, plan = write_plan(rng, row, table)
    if form == "low" and rng.random() < SWAPPED:
        habit, plan = "right", right_plan(other["problem"])
    answer = write_answer(rng, row, habit, plan)
    if "json" in form:
        whole = json.dumps({"action": ACTIONS[habit], "output": plan})
        if form == "high json":
            return [say(rema.HIGH_JSON, row, whole)]
        return [say(rema.LOW, row, answer, plan=rng.choice((whole, plan)))]
    if habit == "empty":
        plan = EMPTY
    if form == "mrp":
        return [say(rema.MRP, row, f"Plan: {plan}\n{answer}")]
    if form == "high":
        return [say(rema.HIGH, row, plan)]
    return [say(rema.LOW, row, answer, plan=plan)]


def corpus(rng):
    """Endless conversations about training problems."""
    while True:
        rows = generate(256, seed=rng.random())
        for row, other in zip(rows, rows[1:] + rows[:1]):
            yield from converse(rng, row, other)


def school(rng):
    """The same without system messages and guesses: short rows that teach planning and reckoning first."""
    for messages in corpus(rng):
        if "=" in messages[-1]["content"]:
            yield messages[1:]


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
    words = []
    for piece, count in sorted(counts.items()):
        letters = [LETTER[byte] for byte in piece.encode()]
        words.append((letters, count))
    merges = []
    while True:
        pairs = Counter()
        for parts, count in words:
            for pair in zip(parts, parts[1:]):
                pairs[pair] += count
        most = max(pairs.values(), default=0)
        if most < least:
            return merges
        best = min(pair for pair in pairs if pairs[pair] == most)
        merges.append(best)
        for parts, _ in words:
            merge(parts, best)


def merge(parts, pair):
    """Join a pair wherever it stands in a list, from the left."""
    i = 0
    while i < len(parts) - 1:
        if (parts[i], parts[i + 1]) == pair:
            parts[i:i + 2] = ["".join(pair)]
        i += 1


def write_tokenizer(directory, texts):
    """Train a vocabulary on `texts`, write a Hugging Face directory's tokenizer files -> number of tokens."""
    counts = Counter()
    for text in texts:
        counts.update(regex.findall(PIECES, text))
    merges = train_bpe(counts)
    vocabulary = [*SPECIAL, *sorted(LETTER.values())]
    for pair in merges:
        vocabulary.append("".join(pair))
    ids = {token: i for i, token in enumerate(vocabulary)}
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
           "vocab": ids, "merges": [" ".join(pair) for pair in merges]}
    special = []
    for token in SPECIAL:
        special.append({"id": ids[token], "content": token, "single_word": False, "lstrip": False,
                        "rstrip": False, "normalized": False, "special": True})
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": False}
    files = {}
    files["tokenizer.json"] = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": special, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "decoder": level, "model": bpe}
    files["tokenizer_config.json"] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "model_max_length": 512, "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE}
    files["generation_config.json"] = {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    for name, content in files.items():
        atomic_write(directory / name, json.dumps(content, indent=1) + "\n")
    return len(ids)


# ------------------------------------------------------------------------------------------------------------
# Supervised training

SIZES = {"nano": (64, 2), "small": (96, 3), "tiny": (128, 4), "large": (192, 4)}         # width, layers
BATCH = 64


def make_model(size, vocabulary):
    """A new transformer of one of SIZES."""
    width, layers = SIZES[size]
    config = Config(family="llama", vocab_size=vocabulary, width=width, layers=layers, heads=width // 32,
                    kv_heads=width // 64, head_width=32, hidden=3 * width, context=512, eps=1e-5,
                    rope_theta=10000.0, rope_scaling=None, tied=True, qkv_bias=False, qk_norm=False)
    model = models.Transformer(config)
    models.init_weights(model, torch.Generator().manual_seed(0))
    with torch.no_grad():                       # 0.02 suits wide models; this one likes 0.06
        for weight in model.layers.parameters():
            if weight.dim() == 2:
                weight.mul_(3)
    return model


def make_optimizers(model):
    """Muon (torch 2.9 or newer) on the blocks' matrices, AdamW on the rest -> [(optimizer, its peak rate)].

    After 300 steps at school 0.07 nats a token, against 0.16 with AdamW alone.
    """
    matrices = [weight for weight in model.layers.parameters() if weight.dim() == 2]
    others = [weight for weight in model.parameters() if weight.dim() == 1]
    others.append(model.embed_tokens.weight)
    muon = torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.01)
    return [(muon, 1e-2), (adamw, 3.33e-3)]


def train(model, tokenizer, conversations, steps):
    """Warm-up and cosine decay on an endless iterator of conversations."""
    optimizers = make_optimizers(model)
    bar = tqdm(range(steps), desc="training", unit="step")
    for step in bar:
        turns = [rema.make_lesson(tokenizer, next(conversations)) for _ in range(BATCH)]
        logprobs, _ = rollout.batch_logprobs(model, turns)
        loss = -logprobs.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        warmup = min(1, (step + 1) / 50)
        decay = 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps))
        for optimizer, peak in optimizers:
            optimizer.param_groups[0]["lr"] = peak * warmup * decay
            optimizer.step()
            optimizer.zero_grad()
        bar.set_postfix_str(f"loss {loss.item():.3f}")


# ------------------------------------------------------------------------------------------------------------
# The program

def measure(model, tokenizer):
    """Print what the three processes do on held-out problems, sampled and greedy, in percent."""
    rows = generate(1000, split="heldout")
    for process, roles in rema.PROCESSES.items():
        agents = [rollout.Agent(role, model, tokenizer) for role in roles]
        for temperature in (1.0, 0.0):
            episodes = evaluation.evaluate(agents, rows, max_new_tokens=64, temperature=temperature)
            print(f"{process}, temperature {temperature:g}")
            for figure, (mean, error) in evaluation.summarise(episodes).items():
                print(f"  {figure:44} {mean:6.1f} +- {show_error(error)}")


def program(argv):
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--size", choices=SIZES, default="tiny", help=f"width and layers: {SIZES} (tiny)")
    flag("--out", type=pathlib.Path, default=TINY, help="directory to write (data/tiny)")
    flag("--steps", type=int, default=2800, help=f"batches of {BATCH}, the first half at school (2800)")
    args = parser.parse_args(argv)

    rng = random.Random(0)
    texts = ["system\nuser\nassistant\n"] * 3
    for messages in itertools.islice(corpus(rng), 3000):
        texts += [message["content"] for message in messages]
    vocabulary = write_tokenizer(args.out, texts)
    tokenizer = Tokenizer.load(args.out)
    model = make_model(args.size, vocabulary)
    first = itertools.islice(school(rng), args.steps // 2 * BATCH)
    train(model, tokenizer, itertools.chain(first, corpus(rng)), args.steps)
    models.save(model, tokenizer, args.out)
    print(f"{args.out}: built, {vocabulary} tokens")
    measure(model, tokenizer)


if __name__ == "__main__":
    run_program(program, None, "make_tiny")
