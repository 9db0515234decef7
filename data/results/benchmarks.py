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
from data.problems.reading import read_jsonl
from data.views.program import Parser, run_program
from data.views.statistics import mean

TESTS = ("math500", "gsm8k", "aime24", "amc23", "gaokao2023en", "minerva", "olympiadbench", "rewardbench970",
         "judgebench")
PROCESSES = ("vrp", "mrp", "rema")


def evaluate(name: str, process: str, flags: list[str]) -> str:
    """Run eval.py on one benchmark -> a cell of the table."""
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        out = pathlib.Path(place) / "out"
        evaluation.program([*flags, "--data", name, "--process", process, "--out", str(out)])
        rows = read_jsonl(out / "episodes.jsonl")
    right = 100 * mean([row["correct"] for row in rows])
    answered = 100 * mean([row["extracted"] is not None for row in rows])
    return f"{right:.0f} ({answered:.0f})"


def program(argv: list[str] | None) -> None:
    _, flags = Parser(__doc__).parse_known_args(argv)
    started = time.perf_counter()
    cells = {}
    with tqdm(total=len(TESTS) * len(PROCESSES), unit="evaluation") as bar:
        for name in TESTS:
            for process in PROCESSES:
                cells[name, process] = evaluate(name, process, flags)
                bar.update()
    print(f"`eval.py {' '.join(flags)}`, percent right (percent with an answer)\n\n| | VRP | MRP | ReMA |\n"
          "|---|---|---|---|")
    for name in TESTS:
        row = [cells[name, process] for process in PROCESSES]
        print(f"| {name} | {' | '.join(row)} |")
    print(f"\n{time.perf_counter() - started:.0f} s", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "benchmarks")


if __name__ == "__main__":
    main()
