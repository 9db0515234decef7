"""The tables of README.md: the arms of an example with several seeds, compared at equal numbers of sampled tokens.

    python -m data.examples.table critic                   its runs, one after the other, then its table
    python -m data.examples.table critic debate --table    only the tables of the runs that are there

Runs go to out/examples/NAME/ARM-sSEED; one that has come to its end is not run again. Accuracy is held-out accuracy,
where a run's evaluations stand at two numbers of tokens drawn as a line between them: all arms are read at the number
of tokens that the shortest run has sampled. Seeds are paired: the same seed draws the same problems in all arms.
"""
import importlib
import json
import os
import pathlib
import subprocess
import sys

from data import UserError
from data.examples.shared import ROOT
from data.formats.files import atomic_write, read_json
from data.views.curves import read_metrics
from data.views.program import Parser, count, run_program
from data.views.statistics import compute_mean, show_error
from data.views.terminal import count_spent_tokens

EXAMPLES = "critic", "debate", "retrieval"
BASE = "two"                             # the arm that the others are compared with


# ------------------------------------------------------------------------------------------------------------
# Runs

def list_arms(example: str) -> list[str]:
    return list(importlib.import_module(f"data.examples.{example}").ARMS)


def find_run(example: str, arm: str, seed: int) -> pathlib.Path:
    return ROOT / example / f"{arm}-s{seed}"


def is_finished(place: pathlib.Path) -> bool:
    try:
        return read_metrics(place)[-1]["step"] == read_json(place / "config.json")["steps"]
    except UserError:                    # nothing there, or the run was killed
        return False


def run(example: str, arm: str, seed: int) -> None:
    """One run on one thread, unless it is there. UserError if it fails."""
    place = find_run(example, arm, seed)
    if is_finished(place):
        return
    command = [sys.executable, "-m", f"data.examples.{example}", "--arm", arm, "--seed", str(seed), "--out", str(place)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip() or "?"
        raise UserError(f"{place}: {said.splitlines()[-1]}")
    print(f"{place}: done", flush=True)


# ------------------------------------------------------------------------------------------------------------
# The table

def read_curve(place: pathlib.Path) -> list[list[float]]:
    """[tokens sampled so far, greedy, at temperature 1] at each evaluation of a run."""
    tokens, curve = 0, []
    for line in read_metrics(place):
        tokens += count_spent_tokens([line])
        if "heldout_t1" in line:
            curve.append([tokens, line["heldout_greedy"], line["heldout_t1"]])
    return curve


def read_at(curve: list[list[float]], tokens: float, column: int) -> float:
    """A curve's value at a number of tokens, between two evaluations on the line that joins them."""
    for before, after in zip(curve, curve[1:]):
        if tokens <= after[0]:
            share = (tokens - before[0]) / (after[0] - before[0])
            return before[column] + share * (after[column] - before[column])
    return curve[-1][column]


def show(values: list[float], form: str = ".1f") -> str:
    """Mean ± standard error."""
    mean, error = compute_mean(values)
    return f"{mean:{form}} ± {show_error(error)}"


def compare(arms: dict, arm: str, tokens: float, column: int) -> list[str]:
    """Two cells: what an arm has at a number of tokens, and how much more that is than BASE, paired by seed."""
    values, gains = [], []
    for seed, curve in arms[arm].items():
        values.append(read_at(curve, tokens, column))
        gains.append(values[-1] - read_at(arms[BASE][seed], tokens, column))
    if arm == BASE:
        return [show(values), ""]
    return [show(values), show(gains, "+.1f")]


def make_table(example: str, arms: dict[str, dict[str, list]]) -> str:
    """Markdown: a line an arm. arms: {arm: {seed: its curve}}."""
    budget = min(curve[-1][0] for curves in arms.values() for curve in curves.values())
    seeds = len(arms[BASE])
    more = f"more than {BASE}"
    head = ["", "greedy: before", "after", more, "temperature 1: before", "after a fifth", more, "after", more]
    lines = [f"`python -m data.examples.table {example}`: {budget:,} sampled tokens, {seeds} seeds, percent", "",
             f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for arm in arms:
        greedy = compare(arms, arm, budget, 1)
        early, late = compare(arms, arm, budget / 5, 2), compare(arms, arm, budget, 2)
        _, greedy_before, before = list(arms[arm].values())[0][0]      # the same for all seeds
        cells = [arm, f"{greedy_before:.1f}", *greedy, f"{before:.1f}", *early, *late]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------
# The program

def program(argv: list[str] | None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("examples", nargs="+", choices=EXAMPLES)
    parser.add_argument("--seeds", type=count, default=3, help="runs of each arm (3)")
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    for example in args.examples:
        arms = {}
        for seed in range(args.seeds):
            for arm in list_arms(example):
                if not args.table:
                    run(example, arm, seed)
                place = find_run(example, arm, seed)
                if is_finished(place):
                    arms.setdefault(arm, {})[str(seed)] = read_curve(place)
        if set(arms) != set(list_arms(example)):
            raise UserError(f"{ROOT / example}: not every arm has a finished run, so there is nothing to compare")
        atomic_write(ROOT / f"{example}.json", json.dumps(arms) + "\n")
        print(make_table(example, arms))


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "table")


if __name__ == "__main__":
    main()
