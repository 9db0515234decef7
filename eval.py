"""Measure a model, or the two agents of a run: accuracy with standard errors, and what the plan is worth.

    python eval.py                                    the embedded model, untrained, on held-out arithmetic
    python eval.py --model out/tiny-rema-s0           the two agents of a run
    python eval.py --model smollm2-135m --process vrp --data mine.jsonl

Prints a table; writes a JSON-lines file with every response and verdict, and config.json beside it.
"""
import argparse
import json
import math
import pathlib
import sys

import torch
from tqdm import tqdm

import model as models
import rema
import rewards
import rollout
from data import UserError, arithmetic, benchmarks
from data.checkpoint import atomic_write, read_json

GENERATED = {"arithmetic": "arithmetic", "words": "words"}


def load_data(name, split, count, data_dir=None):
    """Rows {"id", "problem", "answer", ...} of generated problems, a benchmark, or a JSON-lines file.

    Generated problems have disjoint splits "train" and "heldout"; a file is used as it is. count None: all
    rows (for generated ones 1,000). Raises UserError for a name that is not known and for a malformed file.
    """
    if name in GENERATED:
        try:
            return arithmetic.generate(count or 1000, seed=0, split=split, kind=name)
        except ValueError as error:
            raise UserError(f"--data {name}: {error}") from None
    return benchmarks.load(name, data_dir)[:count]


def split_data(args):
    """-> (training, held-out rows): generated splits, two files, or a shuffled tenth of one file held out."""
    if args.data in GENERATED:
        train_rows = load_data(args.data, "train", 2000)
    else:
        train_rows = load_data(args.data, "train", None, args.data_dir)
    if args.eval_data or args.data in GENERATED:
        held = load_data(args.eval_data or args.data, "heldout", args.eval_questions, args.data_dir)
        return train_rows, held
    order = torch.randperm(len(train_rows), generator=rollout.stream("held out")).tolist()
    tenth = max(1, len(train_rows) // 10)
    return ([train_rows[i] for i in order[tenth:]],
            [train_rows[i] for i in order[:tenth][:args.eval_questions]])


def sources(name, roles):
    """{role name: what models.load takes}: one model for all roles, or a run's high/ and low/ (or solo/)."""
    names, directory = [role.name for role in roles], pathlib.Path(name)
    if not any((directory / one / "config.json").exists() for one in ("high", "low", "solo")):
        return {one: name for one in names}
    for one in names:
        if not (directory / one / "config.json").exists():
            raise UserError(f"{directory} has no {one}/: choose the --process that it was trained with")
    return {one: str(directory / one) for one in names}


def load_agents(name, roles, device="cpu", dtype=torch.float32):
    """-> ({role name: Transformer}, tokenizer), one Transformer for all roles if they have one source."""
    found = sources(name, roles)
    loaded = {source: models.load(source, device, dtype) for source in dict.fromkeys(found.values())}
    return {one: loaded[source][0] for one, source in found.items()}, next(iter(loaded.values()))[1]


def fitting(rows, tokenizer, roles, context, max_new_tokens):
    """Rows whose prompts, a full plan included, leave room for a full answer in the context."""
    def longest(row):
        return (max(len(tokenizer.chat(role.prompt(row["problem"]))) for role in roles)
                + len(roles) * max_new_tokens)
    return [row for row in rows if longest(row) <= context]


def accuracy(outcomes):
    """Mean and standard error of the mean, in percent. outcomes: numbers, one a problem.

    >>> accuracy([1, 0, 1, 0])
    (50.0, 28.867513459481287)
    """
    n = len(outcomes)
    mean = sum(outcomes) / n
    variance = sum((x - mean) ** 2 for x in outcomes) / max(n - 1, 1)
    return 100 * mean, 100 * math.sqrt(variance / n)


def evaluate(agents, tokenizer, rows, roles, *, max_new_tokens, temperature=0.0, key=("eval",),
             batch=256, bar=None):
    """One episode a row, scored. A row too long for the context gets an empty episode, which is wrong."""
    context = next(iter(agents.values())).config.context
    fits = {id(row) for row in fitting(rows, tokenizer, roles, context, max_new_tokens)}
    episodes = rollout.rollout(agents, tokenizer, [row for row in rows if id(row) in fits], roles,
                               max_new_tokens=max_new_tokens, temperature=temperature, key=key,
                               batch=batch, bar=bar)
    turns = [rema.Turn(role.name, [], [], [], False, "") for role in roles]
    episodes += [rema.Episode(row, -1 - i, 0, 0, turns) for i, row in enumerate(rows) if id(row) not in fits]
    rema.score(episodes)
    return episodes


def unparsed(episodes):
    """Share of boxed answers that the grader could not read and compared as text."""
    boxed = [answer for e in episodes if (answer := rewards.extract(e.response)) is not None]
    return sum(map(rewards.unparsed, boxed)) / max(1, len(boxed))


def summary(episodes):
    """What a table shows of episodes: accuracy (of all, of the boxed), boxes, truncation, leaks, lengths."""
    boxed = [e for e in episodes if rewards.extract(e.response) is not None]
    result = {"problems": len(episodes), "accuracy": accuracy([e.correct for e in episodes]),
              "boxed": accuracy([rewards.extract(e.response) is not None for e in episodes]),
              "accuracy among boxed": accuracy([e.correct for e in boxed]) if boxed else (0.0, 0.0),
              "unparsed among boxed": 100 * unparsed(episodes),
              "truncated": accuracy([not all(turn.stopped for turn in e.turns) for e in episodes]),
              "tokens": sum(len(turn.tokens) for e in episodes for turn in e.turns) / len(episodes)}
    if episodes[0].turns[0].role == "high":
        result["plans with the gold answer"] = accuracy(
            [rewards.leaks(e.turns[0].text, e.row["answer"]) for e in episodes])
    return result


def held_out(agents, tokenizer, rows, roles, max_new_tokens, batch):
    """Held-out accuracy in percent with its standard error, greedy and at temperature 1, for the log."""
    result = {}
    for name, temperature in (("greedy", 0.0), ("t1", 1.0)):
        numbers = summary(evaluate(agents, tokenizer, rows, roles, max_new_tokens=max_new_tokens,
                                   temperature=temperature, batch=batch))
        result[f"heldout_{name}"], result[f"heldout_{name}_se"] = numbers["accuracy"]
        result[f"heldout_{name}_boxed"] = numbers["boxed"][0]
        result[f"heldout_{name}_among_boxed"] = numbers["accuracy among boxed"][0]
        if len(roles) == 2:
            result[f"heldout_{name}_leaks"] = numbers["plans with the gold answer"][0]
    return result


def diagnose(agents, tokenizer, rows, roles, *, max_new_tokens, key=("eval",), batch=256, bar=None):
    """Does the plan matter? Greedy answers under each plan kept, swapped for the next problem's, and emptied.

    -> {"kept" | "swapped" | "emptied": list of 0/1, one a row that fits the context}. A lazy high-level agent
    shows no drop.
    """
    rows = fitting(rows, tokenizer, roles, agents["low"].config.context, max_new_tokens)
    kept = evaluate(agents, tokenizer, rows, roles, max_new_tokens=max_new_tokens, key=key,
                    batch=batch, bar=bar)
    rows, plans, low = [e.row for e in kept], [e.turns[0].text for e in kept], roles[1]
    outcomes = {"kept": [int(e.correct) for e in kept]}
    for name, texts in (("swapped", plans[1:] + plans[:1]), ("emptied", [""] * len(plans))):
        groups = rollout.speak(agents["low"], tokenizer, low,
                               [low.prompt(row["problem"], plan) for row, plan in zip(rows, texts)], 1,
                               [(*key, name, row["id"]) for row in rows], max_new_tokens, temperature=0.0,
                               batch=batch, bar=bar)
        outcomes[name] = [int(rewards.is_correct(turns[0].text, row["answer"]))
                          for row, turns in zip(rows, groups)]
    return outcomes


def diagnosis(outcomes):
    """The table of diagnose() as text: what swapped and emptied plans cost, paired problem by problem."""
    lines = []
    for name, values in outcomes.items():
        cost = accuracy([a - b for a, b in zip(outcomes["kept"], values)])
        lines.append("  greedy, plan %-15s %6.1f %% +- %.1f" % (name, *accuracy(values))
                     + ("" if name == "kept" else "   costs %.1f points +- %.1f" % cost))
    return "\n".join(lines)


def record(episode):
    """An episode as one line of JSON for people and scripts."""
    return json.dumps({
        "id": episode.row["id"], "problem": episode.row["problem"], "answer": episode.row["answer"],
        "turns": [{"role": turn.role, "text": turn.text, "tokens": len(turn.tokens), "stopped": turn.stopped}
                  for turn in episode.turns],
        "extracted": rewards.extract(episode.response), "correct": episode.correct,
        "rewards": episode.rewards}, ensure_ascii=False)


def claim(path):
    """Make the directory, or with -2, -3 ... the first of its name that does not exist yet -> its path."""
    for i in range(1, 10000):
        try:
            candidate = path if i == 1 else path.with_name(f"{path.name}-{i}")
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            pass


def pick_device(name):
    """The device that was asked for, or the best there is. UserError if this machine has no such device."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name}: this machine has none (--device cpu always works)") from None
    return name


def run(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="tiny", help="a name, a hub name, a directory or a run's directory (default tiny)")
    add("--process", choices=sorted(rema.PROCESSES), help="who speaks (default: as trained, else rema)")
    add("--example", action="store_true", help="worked examples before each problem, for models that need it")
    add("--data", default=None, help="arithmetic, words, a benchmark's name or a JSON-lines file with "
                                     "problem and answer (default: arithmetic for tiny, else words)")
    add("--data-dir", default=None, help="a directory that holds NAME.jsonl, instead of a download")
    add("--limit", type=int, default=None, help="only the first N problems (default all; 1,000 generated)")
    add("--max-new-tokens", type=int, default=None, help="for a turn (default 64 for arithmetic, else 512)")
    add("--temperature", type=float, default=0.0, help="0 is greedy, as the paper evaluates (default 0)")
    add("--diagnose", action="store_true", help="also answer under swapped and empty plans: do plans matter?")
    add("--batch", type=int, default=256, help="rows decoded at a time: less memory, slower (default 256)")
    add("--seed", type=int, default=0, help="of the draws when the temperature is not 0 (default 0)")
    add("--device", default=None, help="cpu, cuda or mps (default: cuda where there is one)")
    add("--out", default=None, help="directory for episodes.jsonl (default out/eval-MODEL-PROCESS-DATA)")
    args = parser.parse_args(argv)

    directory = pathlib.Path(args.model)         # of a run: its settings are the defaults
    places = [one for one in (directory, directory.parent) if (one / "metrics.jsonl").exists()]   # RUN/best
    trained = read_json(places[0] / "config.json") if places else {}
    args.process = args.process or trained.get("process", "rema")
    args.example = args.example or trained.get("example", False)
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit must be at least 1, not {args.limit}")
    own, args.data = args.data, args.data or trained.get("data") or (
        "arithmetic" if args.model == "tiny" else "words")
    args.max_new_tokens = (args.max_new_tokens or trained.get("max_new_tokens")
                           or (64 if args.data == "arithmetic" else 512))
    args.device, roles = pick_device(args.device), rema.roles(args.process, args.example)
    agents, tokenizer = load_agents(args.model, roles, args.device,
                                    torch.bfloat16 if args.device == "cuda" else torch.float32)
    if trained and not own:                      # what the run held out, not what it was trained on
        trained["data_dir"] = args.data_dir or trained["data_dir"]
        rows = split_data(argparse.Namespace(**trained))[1][:args.limit]
    else:
        rows = load_data(args.data, "heldout", args.limit, args.data_dir)
    if args.out and (out := pathlib.Path(args.out)).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: name another --out, or leave it away")
    common = dict(max_new_tokens=args.max_new_tokens, key=(args.seed, "eval"), batch=args.batch)
    with tqdm(total=len(rows) * len(roles), desc="evaluate", unit="turn") as bar:
        episodes = evaluate(agents, tokenizer, rows, roles, temperature=args.temperature, bar=bar, **common)
    print(f"{args.model}, {args.process}, {args.data}, temperature {args.temperature:g}")
    skipped = sum(episode.question < 0 for episode in episodes)
    if skipped:
        print(f"{skipped} problems are too long for the context of this model and count as wrong")
    for what, value in summary(episodes).items():
        print(f"  {what:28}", f"{value[0]:6.1f} % +- {value[1]:.1f}" if isinstance(value, tuple)
              else f"{value:8.1f}")
    if args.diagnose and args.process == "rema":
        with tqdm(total=4 * len(rows), desc="diagnose", unit="turn") as bar:
            outcomes = diagnose(agents, tokenizer, rows, roles, bar=bar, **common)
        print(diagnosis(outcomes))
    args.out = args.out or str(claim(
        pathlib.Path("out") / f"eval-{directory.name}-{args.process}-{pathlib.Path(args.data).stem}"))
    out = pathlib.Path(args.out)
    atomic_write(out / "config.json", json.dumps(vars(args), indent=1).encode())
    atomic_write(out / "episodes.jsonl", "".join(record(episode) + "\n" for episode in episodes).encode())
    print(f"every response and verdict: {out / 'episodes.jsonl'}")


def guarded(run, argv, program):
    """Run a program; a user's mistake is one line on stderr and exit status 2."""
    torch.set_flush_denormal(True)           # a confident tiny model would run in denormals, 15 times slower
    try:
        run(argv)
    except (UserError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)


def main(argv=None):
    guarded(run, argv, "eval.py")


if __name__ == "__main__":
    main()
