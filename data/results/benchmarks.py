"""Every benchmark end to end with one model, in every process: a table of accuracies. Does all of it run?

    python -m data.results.benchmarks --model smollm2-135m --limit 20 --max-new-tokens 64 --data-dir DIR

Flags go on to eval.py. Prints Markdown; each cell is percent right (percent with an answer), the first N problems.
"""
import contextlib
import io
import pathlib
import sys
import tempfile
import time

from tqdm import tqdm

import eval as evaluation
from data import guarded
from data.problems.benchmarks import read_jsonl

TESTS = ("math500", "gsm8k", "aime24", "amc23", "gaokao2023en", "minerva", "olympiadbench", "rewardbench970",
         "judgebench")
PROCESSES = ("vrp", "mrp", "rema")


def main(flags):
    if "-h" in flags or "--help" in flags:
        return print(__doc__)
    cells, started = {}, time.perf_counter()
    for name, process in tqdm([(name, process) for name in TESTS for process in PROCESSES], unit="evaluation"):
        with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
            out = pathlib.Path(place) / "out"
            evaluation.program([*flags, "--data", name, "--process", process, "--out", str(out)])
            rows = read_jsonl(out / "episodes.jsonl")
        right, answered = (100 * sum(values) / len(rows) for values in (
            [row["correct"] for row in rows], [row["extracted"] is not None for row in rows]))
        cells[name, process] = f"{right:.0f} ({answered:.0f})"
    print(f"`eval.py {' '.join(flags)}`, percent right (percent with an answer)\n\n| | VRP | MRP | ReMA |\n"
          "|---|---|---|---|")
    for name in TESTS:
        print(f"| {name} | " + " | ".join(cells[name, process] for process in PROCESSES) + " |")
    print(f"\n{time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    guarded(main, sys.argv[1:], "benchmarks")
