"""Keep finished runs and print their table: how README's results were made.

    for s in 0 1 2; do python train.py --seed $s; done
    python -m data.results.collect out/tiny-rema-s0 out/tiny-rema-s1 out/tiny-rema-s2

Copies config.json, metrics.jsonl and curves.png of each run to data/results/NAME (an existing one is left
alone) and prints one line a run and, of runs that differ in their seeds only, the mean with its standard
error over them. Episodes and weights stay where they are.
"""
import pathlib
import shutil
import sys

from data import UserError, guarded
from data.formats.files import read_json
from data.views.plots import gains, read, spent_tokens
from eval import accuracy

HERE = pathlib.Path(__file__).parent
FILES = "config.json", "metrics.jsonl", "curves.png"
COLUMNS = ("greedy", "", "gain", "temp. 1", "", "gain", "high", "low", "leaks",
           "minutes of sampling and training", "tokens")


def line(directory):
    """Numbers of one run in the order of COLUMNS, percent or points; None where a run has no such number."""
    lines = read(directory)
    measured = [one for one in lines if "heldout_greedy" in one]
    row = []
    for name in ("heldout_greedy", "heldout_t1"):
        before, after = measured[0][name], measured[-1][name]
        row += [before, after, after - before]
    seconds = sum(one.get("time_sample", 0) + one.get("time_train", 0) for one in lines)
    return row + [gains(lines).get("high"), gains(lines).get("low"), measured[-1].get("heldout_greedy_leaks"),
                  seconds / 60, spent_tokens(lines)]


def main(directories):
    if not directories or {"-h", "--help"} & set(directories):
        return print(__doc__)
    for directory in map(pathlib.Path, directories):
        if missing := [name for name in FILES if not (directory / name).exists()]:
            raise UserError(f"{directory} is no finished run: it has no {missing[0]}")
        old, new = HERE / directory.name / "metrics.jsonl", directory / "metrics.jsonl"
        if old.exists() and old.read_bytes() != new.read_bytes():
            raise UserError(f"{old.parent} holds another run of that name: move one of the two")
    print("| run | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    rows = []
    for directory in map(pathlib.Path, directories):
        kept = HERE / directory.name
        kept.mkdir(exist_ok=True)
        for name in FILES if not (kept / "metrics.jsonl").exists() else ():
            shutil.copy(directory / name, kept / name)
        rows.append(line(kept))
        print(f"| {directory.name} | " + " | ".join("-" if x is None else f"{x:,.1f}" for x in rows[-1]) + " |")
    alike = dict(seed=0, out="", resume="")
    settings = [{**read_json(HERE / pathlib.Path(one).name / "config.json"), **alike} for one in directories]
    if any(one != settings[0] for one in settings):
        print("\nno mean: the runs differ in more than their seeds")
    elif len(rows) > 1:
        columns = [[x for x in column if x is not None] for column in zip(*rows)]
        means = [tuple(x / 100 for x in accuracy(column)) if column else None for column in columns]
        print("| mean | " + " | ".join("-" if m is None else f"{m[0]:,.1f} ± {m[1]:,.1f}" for m in means) + " |")


if __name__ == "__main__":
    guarded(main, sys.argv[1:], "collect")
