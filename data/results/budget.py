"""An inference budget: more plans, or more answers to each plan? Votes over k1 plans x k2 answers.

    python -m data.results.budget                                     the embedded model before training
    python -m data.results.budget --model tiny out/tiny-rema-s0       and a run
    python -m data.results.budget --model qwen-0.5b --data gsm8k --limit 200

Each model samples 16 x 4 and 4 x 16 once. A smaller shape is cut out of the one with more of its plans, in
all disjoint ways, whose mean counts as the problem's value: standard errors are over problems. Tokens are
those sampled, a plan's once. Flags that are not of this program go to eval.py. Writes budget.md, budget.png.
"""
import contextlib
import os
import pathlib
import sys
import tempfile
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import eval as evaluation  # noqa: E402
import rewards  # noqa: E402
from data import Parser, UserError, guarded  # noqa: E402
from data.problems.benchmarks import read_jsonl  # noqa: E402
from data.flags import claim, unused  # noqa: E402

SAMPLED = (16, 4), (4, 16)
COLUMNS = "avg@n", "flat vote", "hierarchical vote", "pass@n"
FAMILIES = {                     # shapes k1 x k2 of a growing budget: colour, where a point's label stands
    "1 plan, n answers": ("#c44e52", (-6, 8), ((1, 1), (1, 4), (1, 16))),
    "as many plans as answers": ("#55a868", (7, -14), ((1, 1), (2, 2), (4, 4))),
    "n plans, 1 answer each": ("#4c72b0", (7, 6), ((1, 1), (4, 1), (16, 1)))}
SHAPES = (1, 1), (1, 4), (2, 2), (4, 1), (1, 16), (4, 4), (16, 1)


def sample(model, shape, flags):
    """Run eval.py -> for each problem {(plan, answer): an episode with what vote() and cut() want}."""
    with tempfile.TemporaryDirectory() as place, open(os.devnull, "w") as quiet:
        with contextlib.redirect_stdout(quiet):
            evaluation.program(["--model", model, *flags, "--plans", str(shape[0]), "--answers", str(shape[1]),
                            "--out", f"{place}/episodes"])
        rows = read_jsonl(f"{place}/episodes/episodes.jsonl")
    if [turn["role"] for turn in rows[0]["turns"]] != ["high", "low"]:
        raise UserError(f"{model} does not write a plan and an answer: it needs --process rema in one turn")
    problems = {}
    for row in rows:
        problems.setdefault((row["id"], row["problem"]), {})[row["plan"], row["sample"]] = SimpleNamespace(
            plan=row["plan"], answer=row["extracted"], correct=row["correct"], gold=row["answer"],
            tokens=[turn["tokens"] for turn in row["turns"]])
    return list(problems.values())


def cut(grid, whole, shape):
    """One problem's (tokens, *COLUMNS), the mean over the disjoint k1 x k2 blocks of what was sampled."""
    (K1, K2), (k1, k2) = whole, shape
    values = []
    for i in range(0, K1, k1):
        for j in range(0, K2, k2):
            block = [grid[p, a] for p in range(i, i + k1) for a in range(j, j + k2) if (p, a) in grid]
            plans = {e.plan: e.tokens[0] for e in block}
            tokens = sum(plans.values()) + sum(e.tokens[1] for e in block)
            right = [e.correct for e in block] or [False]            # no block: a problem that is too long
            votes = [bool(block) and rewards.equivalent(block[0].gold, evaluation.vote(block, layered) or "")
                     for layered in (False, True)]
            values.append((tokens, sum(right) / len(right), *votes, any(right)))
    return [sum(column) / len(values) for column in zip(*values)]


def study(model, flags):
    """-> {shape or "greedy": a (tokens, *COLUMNS) for each problem}."""
    greedy = sample(model, (1, 1), [*flags, "--temperature", "0"])
    found = {"greedy": [cut(grid, (1, 1), (1, 1)) for grid in greedy]}
    whole = {shape: sample(model, shape, flags) for shape in SAMPLED}
    for k1, k2 in SHAPES:
        source = SAMPLED[0] if k1 >= k2 else SAMPLED[1]
        found[k1, k2] = [cut(grid, source, (k1, k2)) for grid in whole[source]]
    return found


def mean(rows, column):
    """Mean and standard error over problems of tokens (column 0) or, in percent, of a rate."""
    value, error = evaluation.accuracy([row[column] for row in rows])
    return (value, error) if column else (value / 100, error / 100)


def table(model, found):
    """Markdown: a line a shape, and for each budget what more plans gain over more answers, paired."""
    lines = [f"### {model}, {len(found['greedy'])} problems, percent", "",
             "| plans x answers | tokens a problem | " + " | ".join(COLUMNS) + " |", "|---" * 6 + "|"]
    for shape, rows in found.items():
        cells = ["%.1f ± %.1f" % mean(rows, column) for column in range(5)]
        lines.append(f"| {shape if shape == 'greedy' else '%d x %d' % shape} | " + " | ".join(cells) + " |")
    for n in (4, 16):
        gain = [[x - y for x, y in zip(*pair)] for pair in zip(found[n, 1], found[1, n])]
        votes, passes = ("%+.1f ± %.1f points of " % mean(gain, i) + COLUMNS[i - 1] for i in (2, 4))
        lines += ["", f"{n} plans with an answer each gain {votes} and {passes} over one plan with {n} "
                  f"answers (paired), for {mean(gain, 0)[0]:+.0f} tokens a problem."]
    return "\n".join([*lines, ""])


def draw(studies, path):
    """Accuracy against tokens: a row of two panels for each model, the votes and pass@n."""
    figure, axes = plt.subplots(len(studies), 2, figsize=(12, 4.6 * len(studies) + 0.6), squeeze=False)
    for (model, found), panels in zip(studies.items(), axes):
        for axis, column, title in ((panels[0], 2, "majority vote"), (panels[1], 4, "pass@n")):
            def line(shapes, field, style, **look):
                x = [mean(found[shape], 0)[0] for shape in shapes]
                y, errors = zip(*(mean(found[shape], field) for shape in shapes))
                axis.errorbar(x, y, errors, fmt=style, capsize=3, **look)
                return zip(shapes, x, y)
            line(["greedy"], column, "k*", markersize=11, label="greedy")
            for family, (colour, offset, shapes) in FAMILIES.items():
                for shape, x, y in line(shapes, column, "o-", color=colour, label=family):
                    if shape != (1, 1):
                        axis.annotate("%d x %d" % shape, (x, y), offset, textcoords="offset points",
                                      ha="left" if offset[0] > 0 else "right", color=colour)
                if column == 2 and (4, 4) in shapes:         # elsewhere the two votes are the same
                    line(shapes, 3, "s--", color=colour, markerfacecolor="white",
                         label=f"{family}, hierarchical vote")
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:.0f}")
            axis.margins(0.14, 0.1)
            axis.grid(alpha=0.3)
            axis.set(title=f"{model}: {title}, plans x answers", xlabel="sampled tokens a problem",
                     ylabel="right, % (± 1 standard error)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=5, fontsize=9)
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(argv):
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", nargs="+", default=["tiny"], help="names or directories, as for eval.py (tiny)")
    add("--limit", default="500", help="problems (500)")
    add("--out", help="directory for the table and the figure (out/budget, with -2, -3 ... when that exists)")
    args, flags = parser.parse_known_args(argv)
    unused(args.out, "is not empty: name another --out, or leave it away")
    flags += ["--limit", args.limit]
    studies = {model: study(model, flags) for model in args.model}
    out, text = pathlib.Path(args.out or claim("out/budget")), "\n".join(table(*one) for one in studies.items())
    text = f"`python -m data.results.budget {' '.join(argv or sys.argv[1:])}`\n\n{text}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "budget.md").write_text(text, encoding="utf-8")
    draw(studies, out / "budget.png")
    print(f"{text}\n{out}: budget.md, budget.png")


if __name__ == "__main__":
    guarded(run, None, "budget")
