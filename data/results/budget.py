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
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import eval as evaluation  # noqa: E402
import rewards  # noqa: E402
from data import UserError  # noqa: E402
from data.formats.runs import claim_directory, refuse_used  # noqa: E402
from data.problems.reading import read_jsonl  # noqa: E402
from data.views.program import Parser, run_program  # noqa: E402
from data.views.statistics import show_error  # noqa: E402

SAMPLED = (16, 4), (4, 16)
COLUMNS = "avg@n", "flat vote", "hierarchical vote", "pass@n"
FAMILIES = {                     # shapes k1 x k2 of a growing budget: colour, where a point's label stands
    "1 plan, n answers": ("#c44e52", (-6, 8), ((1, 1), (1, 4), (1, 16))),
    "as many plans as answers": ("#55a868", (7, -14), ((1, 1), (2, 2), (4, 4))),
    "n plans, 1 answer each": ("#4c72b0", (7, 6), ((1, 1), (4, 1), (16, 1)))}
SHAPES = (1, 1), (1, 4), (2, 2), (4, 1), (1, 16), (4, 4), (16, 1)


# ------------------------------------------------------------------------------------------------------------
# Sampling

@dataclass
class Answered:
    """What a vote and a budget want of an episode."""
    place: tuple[int, ...]               # (question, plan, answer)
    answer: str | None
    gold: str
    correct: bool
    plan_tokens: int
    answer_tokens: int


def sample(model: str, shape: tuple[int, int], flags: list[str]) -> list[dict[tuple[int, int], Answered]]:
    """Run eval.py -> for each problem {(plan, answer): what was answered}."""
    plans, answers = shape
    with tempfile.TemporaryDirectory() as place, open(os.devnull, "w") as quiet:
        with contextlib.redirect_stdout(quiet):
            evaluation.program(["--model", model, *flags, "--plans", str(plans), "--answers", str(answers),
                                "--out", f"{place}/episodes"])
        rows = read_jsonl(f"{place}/episodes/episodes.jsonl")
    if [turn["role"] for turn in rows[0]["turns"]] != ["high", "low"]:
        raise UserError(f"{model} does not write a plan and an answer: it needs --process rema in one turn")

    problems = {}
    for row in rows:
        question, plan, answer = row["place"]
        said, answered = row["turns"]
        grid = problems.setdefault(question, {})
        grid[plan, answer] = Answered((question, plan, answer), row["extracted"], row["answer"], row["correct"],
                                      said["tokens"], answered["tokens"])
    return list(problems.values())


# ------------------------------------------------------------------------------------------------------------
# What a budget gets

def rate(block: list[Answered]) -> list[float]:
    """Some plans with some answers each -> tokens, then COLUMNS."""
    tokens = 0
    plans = {}                                       # each was sampled once, whatever the number of its answers
    for episode in block:
        plans[episode.place[:-1]] = episode.plan_tokens
        tokens += episode.answer_tokens
    tokens += sum(plans.values())

    gold = block[0].gold
    right = [episode.correct for episode in block]
    flat = evaluation.vote([episode.answer for episode in block])
    by_plan = evaluation.vote_by_plan(block)
    return [tokens, sum(right) / len(right), rewards.equivalent(gold, flat or ""),
            rewards.equivalent(gold, by_plan or ""), any(right)]


def cut(grid: dict, whole: tuple[int, int], shape: tuple[int, int]) -> list[float]:
    """One problem: what a smaller shape gets, the mean over the disjoint blocks of what was sampled."""
    values = []
    for first_plan in range(0, whole[0], shape[0]):
        for first_answer in range(0, whole[1], shape[1]):
            block = []
            for plan in range(first_plan, first_plan + shape[0]):
                for answer in range(first_answer, first_answer + shape[1]):
                    block.append(grid[plan, answer])
            values.append(rate(block))
    return [sum(column) / len(values) for column in zip(*values)]


def study(model: str, flags: list[str]) -> dict:
    """-> {shape or "greedy": for each problem tokens, then COLUMNS}."""
    greedy = sample(model, (1, 1), [*flags, "--temperature", "0"])
    found = {"greedy": [cut(grid, (1, 1), (1, 1)) for grid in greedy]}
    sampled = {whole: sample(model, whole, flags) for whole in SAMPLED}
    for shape in SHAPES:
        whole = SAMPLED[1]
        if shape[0] >= shape[1]:
            whole = SAMPLED[0]
        found[shape] = [cut(grid, whole, shape) for grid in sampled[whole]]
    return found


# ------------------------------------------------------------------------------------------------------------
# Table and figure

def average(rows: list[list[float]], column: int) -> tuple[float, float | None]:
    """Mean and standard error over problems of tokens (column 0) or, in percent, of a rate."""
    values = [row[column] for row in rows]
    if column == 0:
        return evaluation.compute_mean(values)
    return evaluation.compute_percent(values)


def name_shape(shape) -> str:
    if shape == "greedy":
        return "greedy"
    plans, answers = shape
    return f"{plans} x {answers}"


def compare_families(found: dict, n: int) -> str:
    """What n plans with an answer each gain over one plan with n answers, paired problem by problem."""
    gains = []
    for wide, deep in zip(found[n, 1], found[1, n]):
        gains.append([a - b for a, b in zip(wide, deep)])
    vote, vote_error = evaluation.compute_gain([row[2] for row in gains])
    some, some_error = evaluation.compute_gain([row[4] for row in gains])
    tokens, _ = average(gains, 0)
    return (f"{n} plans with an answer each gain {vote:+.1f} ± {show_error(vote_error)} points of {COLUMNS[1]} and "
            f"{some:+.1f} ± {show_error(some_error)} points of {COLUMNS[3]} over one plan with {n} answers (paired), "
            f"for {tokens:+.0f} tokens a problem.")


def table(model: str, found: dict) -> str:
    """Markdown: a line a shape, and for each budget what more plans gain over more answers."""
    lines = [f"### {model}, {len(found['greedy'])} problems, percent", "",
             f"| plans x answers | tokens a problem | {' | '.join(COLUMNS)} |", "|---" * 6 + "|"]
    for shape, rows in found.items():
        cells = [name_shape(shape)]
        for column in range(1 + len(COLUMNS)):
            mean, error = average(rows, column)
            cells.append(f"{mean:.1f} ± {show_error(error)}")
        lines.append(f"| {' | '.join(cells)} |")
    for n in (4, 16):
        lines += ["", compare_families(found, n)]
    return "\n".join([*lines, ""])


def draw_line(axis, found: dict, shapes, column: int, style: str, **look) -> None:
    """Accuracy with its error against tokens, a point a shape."""
    tokens, means, errors = [], [], []
    for shape in shapes:
        mean, error = average(found[shape], column)
        tokens.append(average(found[shape], 0)[0])
        means.append(mean)
        errors.append(error or 0)
    axis.errorbar(tokens, means, errors, fmt=style, capsize=3, **look)


def draw_panel(axis, found: dict, column: int) -> None:
    """One panel: the greedy answer, then the families, each point with its shape."""
    draw_line(axis, found, ["greedy"], column, "k*", markersize=11, label="greedy")
    for family, (colour, offset, shapes) in FAMILIES.items():
        draw_line(axis, found, shapes, column, "o-", color=colour, label=family)
        side = "right"
        if offset[0] > 0:
            side = "left"
        for shape in shapes[1:]:
            point = average(found[shape], 0)[0], average(found[shape], column)[0]
            axis.annotate(name_shape(shape), point, offset, textcoords="offset points", ha=side, color=colour)
        if column == 2 and (4, 4) in shapes:         # elsewhere the two votes are the same
            draw_line(axis, found, shapes, 3, "s--", color=colour, markerfacecolor="white",
                      label=f"{family}, hierarchical vote")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.margins(0.14, 0.1)
    axis.grid(alpha=0.3)
    axis.set(xlabel="sampled tokens a problem", ylabel="right, % (± 1 standard error)")


def draw(studies: dict[str, dict], path) -> None:
    """A row of two panels for each model: the votes and pass@n."""
    figure, axes = plt.subplots(len(studies), 2, figsize=(12, 4.6 * len(studies) + 0.6), squeeze=False)
    for (model, found), panels in zip(studies.items(), axes):
        for axis, column, title in ((panels[0], 2, "majority vote"), (panels[1], 4, "pass@n")):
            draw_panel(axis, found, column)
            axis.set_title(f"{model}: {title}, plans x answers")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, fontsize=9)
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


# ------------------------------------------------------------------------------------------------------------
# The program

def program(argv: list[str] | None) -> None:
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--model", nargs="+", default=["tiny"], help="names or directories, as for eval.py (tiny)")
    flag("--limit", default="500", help="problems (500)")
    flag("--out", help="directory for the table and the figure (out/budget, with -2, -3 ... when that exists)")
    args, flags = parser.parse_known_args(argv)
    for word in flags:
        if word.split("=")[0] in ("--plans", "--answers", "--diagnose", "--page"):
            raise UserError(f"{word}: the shapes are fixed, and only their votes are kept")
    refuse_used(args.out, "is not empty: name another --out, or leave it away")
    flags += ["--limit", args.limit]

    studies, tables = {}, []
    for model in args.model:
        studies[model] = study(model, flags)
        tables.append(table(model, studies[model]))
    typed = " ".join(argv or sys.argv[1:])
    text = f"`python -m data.results.budget {typed}`\n\n" + "\n".join(tables)
    out = pathlib.Path(args.out or claim_directory("out/budget"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "budget.md").write_text(text, encoding="utf-8")
    draw(studies, out / "budget.png")
    print(f"{text}\n{out}: budget.md, budget.png")


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "budget")


if __name__ == "__main__":
    main()
