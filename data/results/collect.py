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

from data import UserError
from data.formats.files import read_json
from data.views.curves import choose_lines, read_metrics
from data.views.program import run_program
from data.views.statistics import compute_mean, show_error
from data.views.terminal import compute_gains, count_spent_tokens

HERE = pathlib.Path(__file__).parent
FILES = "config.json", "metrics.jsonl", "curves.png"
COLUMNS = ("greedy", "", "gain", "temp. 1", "", "gain", "high", "low", "leaks",
           "minutes of sampling and training", "tokens")


def measure(directory: pathlib.Path) -> list[float | None]:
    """Numbers of one run in the order of COLUMNS, percent or points; None where a run has no such number."""
    lines = read_metrics(directory)
    measured = choose_lines(lines, "heldout_greedy")
    numbers = []
    for name in ("heldout_greedy", "heldout_t1"):
        before, after = measured[0][name], measured[-1][name]
        numbers += [before, after, after - before]
    gains = compute_gains(lines)
    seconds = 0.0
    for line in lines:
        seconds += line.get("time_sample", 0) + line.get("time_train", 0)
    numbers += [gains.get("high"), gains.get("low"), measured[-1].get("heldout_greedy_leaks")]
    return numbers + [seconds / 60, count_spent_tokens(lines)]


def average(rows: list[list]) -> list[str]:
    """The columns' means with their standard errors over the runs."""
    cells = []
    for column in zip(*rows):
        values = [value for value in column if value is not None]
        cell = "-"
        if values:
            average_of_runs, error = compute_mean(values)
            cell = f"{average_of_runs:,.1f} ± {show_error(error)}"
        cells.append(cell)
    return cells


def check(directory: pathlib.Path) -> None:
    """UserError: no finished run, or another one of that name is kept."""
    for name in FILES:
        if not (directory / name).exists():
            raise UserError(f"{directory} is no finished run: it has no {name}")
    kept, new = HERE / directory.name / "metrics.jsonl", directory / "metrics.jsonl"
    if kept.exists() and kept.read_bytes() != new.read_bytes():
        raise UserError(f"{kept.parent} holds another run of that name: move one of the two")


def keep(directory: pathlib.Path) -> pathlib.Path:
    """Copy a run's files to data/results, unless they are there -> where they are."""
    kept = HERE / directory.name
    if not (kept / "metrics.jsonl").exists():
        kept.mkdir(exist_ok=True)
        shutil.copy(directory / "curves.png", kept / "curves.png")
        for name in ("config.json", "metrics.jsonl"):
            (kept / name).write_text(read_without_paths(directory / name), encoding="utf-8")
    return kept


def read_without_paths(path: pathlib.Path) -> str:
    """A run's file as it can be published: without where this repository and its Python are on this machine."""
    text = path.read_text(encoding="utf-8")
    return text.replace(f"{HERE.parent.parent}/", "").replace(sys.executable, "python")


def differ(places: list[pathlib.Path]) -> bool:
    """Whether runs differ in more than their seeds."""
    settings = []
    for place in places:
        settings.append({**read_json(place / "config.json"), "seed": 0, "out": "", "resume": "", "command": ""})
    return any(one != settings[0] for one in settings)


def print_row(name: str, cells: list[str]) -> None:
    print(f"| {name} | {' | '.join(cells)} |")


def main(names: list[str]) -> None:
    if not names or "-h" in names or "--help" in names:
        return print(__doc__)
    directories = [pathlib.Path(name) for name in names]
    for directory in directories:
        check(directory)
    print_row("run", COLUMNS)
    print("|" + "---|" * (len(COLUMNS) + 1))
    rows, places = [], []
    for directory in directories:
        places.append(keep(directory))
        rows.append(measure(places[-1]))
        cells = ["-" if number is None else f"{number:,.1f}" for number in rows[-1]]
        print_row(directory.name, cells)
    if differ(places):
        print("\nno mean: the runs differ in more than their seeds")
    elif len(rows) > 1:
        print_row("mean", average(rows))


if __name__ == "__main__":
    run_program(main, sys.argv[1:], "collect")
