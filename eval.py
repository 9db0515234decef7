"""Measure a model, or the two agents of a run: accuracy with standard errors, and what the plan is worth.

    python eval.py                                    the embedded model, untrained, on held-out arithmetic
    python eval.py --model out/tiny-rema-s0           the two agents of a run
    python eval.py --model smollm2-135m --process vrp --data mine.jsonl

Prints a table; writes a JSON-lines file with every response and verdict, and config.json beside it.
"""
import collections
import json
import math
import pathlib

from tqdm import tqdm

import rema
import rewards
import rollout
from data import UserError, guarded
from data.problems import benchmarks
from data.views import page, plots
from data.formats.files import atomic_write
from data.flags import claim, parse_eval
from data.extensions.guide import action_shares


def fitting(rows, tokenizer, roles, context, max_new_tokens):
    """Rows whose prompts, a full plan included, leave room for a full answer in the context."""
    room = context - len(roles) * max_new_tokens
    return [row for row in rows if all(len(tokenizer.chat(r.prompt(row["problem"]))) <= room for r in roles)]


def accuracy(outcomes):
    """Mean and standard error of the mean, in percent; zeros for none. outcomes: numbers, one a problem.

    >>> accuracy([1, 0, 1, 0])
    (50.0, 28.867513459481287)
    """
    n = max(1, len(outcomes))
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
    return accuracy([rewards.unparsed(e.answer) for e in episodes if e.answer is not None])[0] / 100


def split(episodes, name):
    """Episodes -> lists of those with the same `question` (a problem's samples), or with the same `plan`."""
    found = collections.defaultdict(list)
    for episode in episodes:
        found[getattr(episode, name)].append(episode)
    return list(found.values())


def pass_at(k, outcomes):
    """Chance that k of a problem's n samples hold a right one, unbiased: 1 - C(n - c, k) / C(n, k).

    arXiv 2107.03374. outcomes: n times 0 or 1. k above n counts as n.

    >>> pass_at(2, [1, 0, 0, 0])
    0.5
    """
    n, c = len(outcomes), sum(outcomes)
    return 1 - math.comb(n - c, min(k, n)) / math.comb(n, min(k, n))


def vote(group, hierarchical=False):
    """The answer that most of a problem's episodes give, up to equivalence; the first of equals, or None.

    hierarchical: each plan's answers elect one, then the plans' choices do.
    """
    answers = [vote(one) for one in split(group, "plan")] if hierarchical else [e.answer for e in group]
    votes = collections.Counter(answer for answer in answers if answer is not None)
    return max(votes, key=lambda a: sum(votes[b] for b in votes if rewards.equivalent(a, b)), default=None)


def average(groups, what):
    """Mean of what(episode) over a problem's samples, then over problems, whose standard error it has."""
    return accuracy([sum(map(what, group)) / len(group) for group in groups])


def rates(groups):
    """How often problems are solved. groups: the n episodes of each problem; then accuracy is avg@n."""
    result, most = {"accuracy": average(groups, lambda e: e.correct)}, max(map(len, groups))
    if most > 1:
        for k in sorted({most, *(2 ** i for i in range(1, most.bit_length()))}):
            result[f"pass@{k}"] = accuracy([pass_at(k, [e.correct for e in group]) for group in groups])
        for name, layered in (("flat", False), ("hierarchical", True)):
            result[f"majority vote, {name}"] = accuracy(
                [rewards.equivalent(group[0].row["answer"], vote(group, layered) or "") for group in groups])
    return result


def summary(episodes):
    """What a table shows of episodes: {figure: (mean, standard error)}, in percent, lengths in tokens.

    Several samples of a problem count as one, by their mean: the standard errors are over problems.
    """
    groups = split(episodes, "question")
    boxed = split([e for e in episodes if e.answer is not None], "question")
    result = {**rates(groups), "answered": average(groups, lambda e: e.answer is not None),
              "accuracy among answered": average(boxed, lambda e: e.correct),
              "unparsed among answered": average(boxed, lambda e: rewards.unparsed(e.answer)),
              "too long for the context": average(groups, lambda e: e.question < 0),
              "truncated": average(groups, lambda e: not all(turn.stopped for turn in e.turns)),
              "answers with a verifying phrase": average(groups, lambda e: rema.verifies(e.response))}
    for who in dict.fromkeys(t.role for e in episodes for t in e.turns):             # not percent
        result[f"tokens of {who}"] = average(groups, lambda e: sum(len(t.tokens) for t in e.said(who)) / 100)
    if episodes[0].turns[0].role == "high":
        result["plans with the gold answer"] = average(groups, lambda e: any(
            rewards.leaks(rema.graded(e.row, turn.text), e.row["answer"]) for turn in e.said("high")))
    for key in ("level", "subject", "category"):
        values = sorted({str(e.row[key]) for e in episodes if key in e.row})
        for value in values if len(values) > 1 else ():
            chosen = [group for group in groups if str(group[0].row.get(key)) == value]
            result.update({f"{name}, {key} {value}": rate for name, rate in rates(chosen).items()})
    return result


LOGGED = {"boxed": "answered", "among_boxed": "accuracy among answered",
          "verifying": "answers with a verifying phrase", "leaks": "plans with the gold answer"}


def held_out(agents, tokenizer, rows, roles, max_new_tokens, batch, **how):
    """Held-out accuracy in percent with its standard error, greedy and at temperature 1, for the log."""
    result = {}
    for name, temperature in (("greedy", 0.0), ("t1", 1.0)):
        episodes = evaluate(agents, tokenizer, rows, roles, max_new_tokens=max_new_tokens,
                            temperature=temperature, batch=batch, **how)
        found = summary(episodes)
        result[f"heldout_{name}"], result[f"heldout_{name}_se"] = found["accuracy"]
        more = {key: found[figure][0] for key, figure in LOGGED.items() if figure in found}
        shares = action_shares(episodes) if how.get("guide") else {}
        result.update({f"heldout_{name}_{key}": value for key, value in {**more, **shares}.items()})
    return result


MEANING = {                      # what the figures of --diagnose say, a sentence each
    "answers with a verifying phrase": "If training raises this, answers may only check what plans solve.",
    "tokens of low": "Tokens of all agents are the price of an episode: compare accuracies at equal sums.",
    "plans with the gold answer": "Roles are reversed where the high-level agent solves the problem itself.",
    "plan": "Emptying costs what plans are worth; if swapping costs more, wrong plans are followed too."}


def diagnose(agents, tokenizer, rows, roles, *, max_new_tokens, key=("eval",), batch=256, bar=None,
             guide=None):
    """Does the plan matter? Greedy answers under each plan kept, swapped for the next problem's, and emptied.

    -> {"kept" | "swapped" | "emptied": list of 0/1, one a row that fits the context}. A lazy high-level agent
    shows no drop.
    """
    rows = fitting(rows, tokenizer, roles, agents["low"].config.context, max_new_tokens)
    common = dict(max_new_tokens=max_new_tokens, temperature=0.0, batch=batch, bar=bar)
    kept = evaluate(agents, tokenizer, rows, roles, key=key, guide=guide, **common)
    plans, outcomes = [e.turns[0].text for e in kept], {"kept": [int(e.correct) for e in kept]}
    for name, texts in (("swapped", plans[1:] + plans[:1]), ("emptied", [""] * len(plans))):
        prompts = [roles[1].prompt(e.row["problem"], plan) for e, plan in zip(kept, texts)]
        keys = [(*key, name, e.row["id"]) for e in kept]
        answers = rollout.speak(agents["low"], tokenizer, roles[1], prompts, 1, keys, **common)
        outcomes[name] = [int(rewards.is_correct(rema.graded(e.row, turn.text), e.row["answer"]))
                          for e, [turn] in zip(kept, answers)]
    return outcomes


def diagnosis(outcomes):
    """The table of diagnose() as text: what swapped and emptied plans cost, paired problem by problem."""
    lines = ["  greedy, plan kept            %6.1f %% +- %.1f" % accuracy(outcomes["kept"])]
    for name, values in list(outcomes.items())[1:]:
        lines.append("  greedy, plan %-15s %6.1f %% +- %.1f   costs %.1f points +- %.1f" % (
            name, *accuracy(values), *accuracy([a - b for a, b in zip(outcomes["kept"], values)])))
    return "\n".join([*lines, "    " + MEANING["plan"]])


def record(episode):
    """An episode as one line of JSON for people and scripts."""
    turns = [{"role": turn.role, "text": turn.text, "tokens": len(turn.tokens), "stopped": turn.stopped}
             for turn in episode.turns]
    return json.dumps({**{key: episode.row[key] for key in ("id", "problem", "answer")}, "plan": episode.plan,
                       "sample": episode.sample, "turns": turns, "extracted": episode.answer,
                       "correct": episode.correct, "rewards": episode.rewards}, ensure_ascii=False)


def program(argv):
    args, rows = parse_eval(argv, __doc__)
    roles, agents, tokenizer, guide = rollout.cast(args, rows[0].get("judge"))
    fit = fitting(rows, tokenizer, roles, agents[roles[0].name].config.context, args.max_new_tokens)
    if len(fit) < 1 + args.diagnose:                         # which swaps the plans of two
        raise UserError(f"with --max-new-tokens {args.max_new_tokens}, {len(fit)} problems fit: too few")
    out = pathlib.Path(args.out or claim(
        f"out/eval-{pathlib.Path(args.model).name}-{args.process}-{pathlib.Path(args.data).stem}"))
    out.mkdir(parents=True, exist_ok=True)
    common = dict(max_new_tokens=args.max_new_tokens, key=(args.seed, "eval"), batch=args.batch, guide=guide)
    total = len(rows) * (args.plans * (args.answers + (len(roles) > args.turns)) + 4 * args.diagnose)
    with tqdm(desc="evaluate", unit="turn", total=total) as bar:
        episodes = evaluate(agents, tokenizer, rows, roles, temperature=args.temperature, top_p=args.top_p,
                            plans=args.plans, answers=args.answers, turns=args.turns, bar=bar, **common)
        outcomes = args.diagnose and diagnose(agents, tokenizer, rows, roles, bar=bar, **common)
    title = f"{args.model}, {args.process}, {args.data}"
    atomic_write(out / "config.json", json.dumps({**vars(args), "out": str(out)}, indent=1))
    atomic_write(out / "episodes.jsonl", "".join(record(episode) + "\n" for episode in episodes))
    page.html_page(episodes, out / "episodes.html", title, tokenizer if args.shade else None, args.page)
    print(f"{title}, {len(rows)} problems, temperature {args.temperature:g}"
          + f", {args.plans} x {args.answers} samples (avg@n)" * (args.plans * args.answers > 1))
    for what, (mean, error) in summary(episodes).items():
        unit = " " if what.startswith("tokens") else "%"
        print(f"  {plots.harmless(what):44} {mean:6.1f} {unit} +- {error:.1f}")
        if args.diagnose and what in MEANING:
            print("    " + MEANING[what])
    for name, value in (action_shares(episodes) if guide else {}).items():
        print(f"  {name:44}", "     -" if value is None else f"{value:6.2f}")
    for name, value in benchmarks.PAPER.get((args.base, args.data), {}).items():
        print(f"  the paper's {name:32} {value:7.2f} %")
    if outcomes:
        print(diagnosis(outcomes))
    print(f"every response and verdict: {out / 'episodes.jsonl'}; to read: episodes.html, the first 100")


def main(argv=None):
    guarded(program, argv, "eval.py")


if __name__ == "__main__":
    main()
