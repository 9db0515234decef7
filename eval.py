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

import torch
from tqdm import tqdm

import rema
import rewards
import rollout
from data import UserError, benchmarks, guarded, plots
from data.checkpoint import atomic_write, read_json
from data.flags import claim, pick_device, unused
from data.guide import Guide, action_shares

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


def evaluate(agents, tokenizer, rows, roles, *, max_new_tokens, temperature=0.0, key=("eval",), **how):
    """Episodes, scored, of each row: one, or plans * answers. how: what rollout.play takes besides.

    A row too long for the context gets an empty episode, which is wrong.
    """
    context = next(iter(agents.values())).config.context
    fits = {id(row) for row in fitting(rows, tokenizer, roles, context, max_new_tokens)}
    episodes = rollout.play(agents, tokenizer, [row for row in rows if id(row) in fits], roles,
                            max_new_tokens=max_new_tokens, temperature=temperature, key=key, **how)
    turns = [rema.Turn(role.name, [], [], [], False, "") for role in roles]
    episodes += [rema.Episode(row, -1 - i, 0, 0, turns) for i, row in enumerate(rows) if id(row) not in fits]
    rema.score(episodes)
    return episodes


def unparsed(episodes):
    """Share of boxed answers that the grader could not read and compared as text."""
    boxed = [answer for e in episodes if (answer := e.answer) is not None]
    return sum(map(rewards.unparsed, boxed)) / max(1, len(boxed))


def by_problem(episodes):
    """Episodes of each problem, as lists: one, or all its samples."""
    found = {}
    for episode in episodes:
        found.setdefault(episode.question, []).append(episode)
    return list(found.values())


def pass_at(k, outcomes):
    """Chance that k of a problem's n samples hold a right one, unbiased: 1 - C(n - c, k) / C(n, k).

    arXiv 2107.03374. outcomes: n times 0 or 1.
    """
    n, c = len(outcomes), sum(outcomes)
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def vote(group, hierarchical=False):
    """The answer that most of a problem's episodes give, up to equivalence; the first of equals, or None.

    hierarchical: each plan's answers elect one, then the plans' choices do.
    """
    if hierarchical:
        plans = {}
        for episode in group:
            plans.setdefault(episode.plan, []).append(episode)
        answers = [vote(siblings) for siblings in plans.values()]
    else:
        answers = [episode.answer for episode in group]
    given = [answer for answer in answers if answer is not None]
    return max(given, key=lambda a: sum(rewards.equivalent(a, b) for b in given), default=None)


def summary(episodes):
    """What a table shows of episodes: accuracy (of all, of the boxed), boxes, truncation, leaks, lengths.

    With n samples a problem, accuracy is avg@n: the mean over a problem's samples, then over problems, whose
    standard error is that of the problems. The other shares take every episode as one.
    """
    groups, boxed = by_problem(episodes), [e for e in episodes if e.answer is not None]
    samples = len(groups[0])
    result = {"problems": len(groups),
              "accuracy": accuracy([sum(e.correct for e in group) / len(group) for group in groups])}
    if samples > 1:
        full = [group for group in groups if len(group) == samples]
        for k in (2 ** i for i in range(1, samples.bit_length())):
            result[f"pass@{k}"] = accuracy([pass_at(k, [e.correct for e in group]) for group in full])
        for name, layered in (("flat", False), ("hierarchical", True)):
            result[f"majority vote, {name}"] = accuracy(
                [rewards.equivalent(group[0].row["answer"], vote(group, layered) or "") for group in groups])
    result.update({
        "answered": accuracy([e.answer is not None for e in episodes]),
        "accuracy among answered": accuracy([e.correct for e in boxed]) if boxed else (0.0, 0.0),
        "unparsed among answered": 100 * unparsed(episodes),
        "truncated": accuracy([not all(turn.stopped for turn in e.turns) for e in episodes]),
        "answers with a verifying phrase": accuracy([rema.verifies(e.response) for e in episodes])})
    for role in dict.fromkeys(turn.role for turn in episodes[0].turns):
        result[f"tokens of {role}"] = sum(
            len(turn.tokens) for e in episodes for turn in e.said(role)) / len(episodes)
    if episodes[0].turns[0].role == "high":
        result["plans with the gold answer"] = accuracy(
            [any(rewards.leaks(turn.text, e.row["answer"]) for turn in e.said("high")) for e in episodes])
    for key in ("level", "subject"):
        values = sorted({str(e.row[key]) for e in episodes if key in e.row})
        for value in values if len(values) > 1 else ():
            result[f"accuracy, {key} {value}"] = accuracy(
                [e.correct for e in episodes if str(e.row.get(key)) == value])
    return result


def held_out(agents, tokenizer, rows, roles, max_new_tokens, batch, **how):
    """Held-out accuracy in percent with its standard error, greedy and at temperature 1, for the log."""
    result = {}
    for name, temperature in (("greedy", 0.0), ("t1", 1.0)):
        episodes = evaluate(agents, tokenizer, rows, roles, max_new_tokens=max_new_tokens,
                            temperature=temperature, batch=batch, **how)
        numbers = summary(episodes)
        result[f"heldout_{name}"], result[f"heldout_{name}_se"] = numbers["accuracy"]
        result[f"heldout_{name}_boxed"] = numbers["answered"][0]
        result[f"heldout_{name}_among_boxed"] = numbers["accuracy among answered"][0]
        result[f"heldout_{name}_verifying"] = numbers["answers with a verifying phrase"][0]
        if len(roles) == 2:
            result[f"heldout_{name}_leaks"] = numbers["plans with the gold answer"][0]
        if how.get("guide"):
            result.update({f"heldout_{name}_{key}": value
                           for key, value in action_shares(episodes).items()})
    return result


def diagnose(agents, tokenizer, rows, roles, *, max_new_tokens, key=("eval",), batch=256, bar=None,
             guide=None):
    """Does the plan matter? Greedy answers under each plan kept, swapped for the next problem's, and emptied.

    -> {"kept" | "swapped" | "emptied": list of 0/1, one a row that fits the context}. A lazy high-level agent
    shows no drop.
    """
    rows = fitting(rows, tokenizer, roles, agents["low"].config.context, max_new_tokens)
    kept = evaluate(agents, tokenizer, rows, roles, max_new_tokens=max_new_tokens, key=key, batch=batch,
                    bar=bar, guide=guide)
    rows, plans, low = [e.row for e in kept], [e.turns[0].text for e in kept], roles[1]
    outcomes = {"kept": [int(e.correct) for e in kept]}
    for name, texts in (("swapped", plans[1:] + plans[:1]), ("emptied", [""] * len(plans))):
        groups = rollout.speak(agents["low"], tokenizer, low,
                               [low.prompt(row["problem"], plan) for row, plan in zip(rows, texts)], 1,
                               [(*key, name, row["id"]) for row in rows], max_new_tokens, temperature=0.0,
                               batch=batch, bar=bar)
        outcomes[name] = [int(rewards.is_correct(rema.graded(row, turns[0].text), row["answer"]))
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
        "plan": episode.plan, "sample": episode.sample,
        "turns": [{"role": turn.role, "text": turn.text, "tokens": len(turn.tokens), "stopped": turn.stopped}
                  for turn in episode.turns],
        "extracted": episode.answer, "correct": episode.correct,
        "rewards": episode.rewards}, ensure_ascii=False)


def run(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="tiny", help="a name, a hub name, a directory or a run's directory (default tiny)")
    add("--process", choices=sorted(rema.PROCESSES), help="who speaks (default: as trained, else rema)")
    add("--example", action="store_true", help="worked examples before each problem, for models that need it")
    add("--turns", type=int, help="a conversation of up to so many turns a role (as trained, else 1)")
    add("--plan-format", choices=("text", "json"), help="json: guided plans (default: as trained, else text)")
    add("--data", default=None, help="arithmetic, words, a benchmark's name or a JSON-lines file with "
                                     "problem and answer (default: arithmetic for tiny, else words)")
    add("--data-dir", default=None, help="a directory that holds NAME.jsonl, instead of a download")
    add("--limit", type=int, default=None, help="only the first N problems (default all; 1,000 generated)")
    add("--plans", type=int, default=1, help="plans a problem: avg@n, pass@k and votes (default 1)")
    add("--answers", type=int, default=1, help="answers a plan, or conversations a problem (default 1)")
    add("--max-new-tokens", type=int, default=None, help="for a turn (default 64 for arithmetic, else 512)")
    add("--temperature", type=float, help="0 is greedy, as the paper evaluates (0; several samples: 1)")
    add("--top-p", type=float, default=1.0, help="draw from the likeliest tokens of this mass (1: all)")
    add("--diagnose", action="store_true", help="also answer under swapped and empty plans: do plans matter?")
    add("--batch", type=int, default=256, help="rows decoded at a time: less memory, slower (default 256)")
    add("--seed", type=int, default=0, help="of the draws when the temperature is not 0 (default 0)")
    add("--device", default=None, help="cpu, cuda or mps (default: cuda where there is one)")
    add("--out", default=None, help="directory for episodes.jsonl (default out/eval-MODEL-PROCESS-DATA)")
    args = parser.parse_args(argv)

    directory = pathlib.Path(args.model)         # of a run: its settings are the defaults
    places = [one for one in (directory, directory.parent) if (one / "metrics.jsonl").exists()]   # RUN/best
    trained = read_json(places[0] / "config.json") if places else {}
    own, args.data = args.data, args.data or trained.get("data") or (
        "arithmetic" if args.model == "tiny" else "words")
    for name, value in (("process", "rema"), ("example", False), ("turns", 1), ("plan_format", "text"),
                        ("max_new_tokens", 64 if args.data == "arithmetic" else 512)):
        setattr(args, name, getattr(args, name) or trained.get(name, value))
    if args.temperature is None:
        args.temperature = float(args.plans * args.answers > 1)
    for name in ("limit", "plans", "answers", "turns", "max_new_tokens", "batch"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(args, name)}")
    if trained and not own:                      # what the run held out, not what it was trained on
        trained["data_dir"] = args.data_dir or trained["data_dir"]
        rows = benchmarks.split_data(argparse.Namespace(**trained))[1][:args.limit]
    else:
        rows = benchmarks.load_data(args.data, "heldout", args.limit, args.data_dir)
    args.device = pick_device(args.device)
    roles = rema.roles(args.process, args.example, args.turns, args.plan_format, rows[0].get("judge"))
    agents, tokenizer = rollout.load_agents(args.model, roles, args.device,
                                    torch.bfloat16 if args.device == "cuda" else torch.float32)
    config = next(iter(agents.values())).config
    guide = Guide(tokenizer, config.vocab_size, args.device) if args.plan_format == "json" else None
    unused(args.out, "is not empty: name another --out, or leave it away")
    common = dict(max_new_tokens=args.max_new_tokens, key=(args.seed, "eval"), batch=args.batch, guide=guide)
    with tqdm(desc="evaluate", unit="turn") as bar:
        episodes = evaluate(agents, tokenizer, rows, roles, temperature=args.temperature, bar=bar,
                            top_p=args.top_p, plans=args.plans, answers=args.answers, turns=args.turns,
                            **common)
    print(f"{args.model}, {args.process}, {args.data}, temperature {args.temperature:g}"
          + f", {args.plans} x {args.answers} samples" * (args.plans * args.answers > 1))
    skipped = sum(episode.question < 0 for episode in episodes)
    if skipped:
        print(f"{skipped} problems are too long for the context of this model and count as wrong")
    for what, value in summary(episodes).items():
        print(f"  {what:32}", f"{value[0]:6.1f} % +- {value[1]:.1f}" if isinstance(value, tuple)
              else f"{value:8.1f}")
    if guide:
        print("  " + ", ".join(f"{name} {value:.2f}" for name, value in action_shares(episodes).items()
                               if value is not None))
    published = benchmarks.PAPER.get((args.model, args.data))
    if published:
        print("  the paper: " + ", ".join(f"{name} {value:.2f} %" for name, value in published.items()))
    if args.diagnose and args.process == "rema" and args.turns == 1:
        with tqdm(desc="diagnose", unit="turn") as bar:
            outcomes = diagnose(agents, tokenizer, rows, roles, bar=bar, **common)
        print(diagnosis(outcomes))
    args.out = args.out or claim(
        f"out/eval-{pathlib.Path(args.model).name}-{args.process}-{pathlib.Path(args.data).stem}")
    out = pathlib.Path(args.out)
    atomic_write(out / "config.json", json.dumps(vars(args), indent=1).encode())
    atomic_write(out / "episodes.jsonl", "".join(record(episode) + "\n" for episode in episodes).encode())
    atomic_write(out / "episodes.txt", "\n".join(map(plots.episode_text, episodes[:100])).encode())
    print(f"every response and verdict: {out / 'episodes.jsonl'}; the first 100 to read: episodes.txt")


def main(argv=None):
    guarded(run, argv, "eval.py")


if __name__ == "__main__":
    main()
