"""Two evaluations of the same problems, compared problem by problem: is the difference more than noise?

    python eval.py --model tiny --out before
    python eval.py --model out/tiny-rema-s0 --out after
    python -m data.results.compare before after
"""
import pathlib
import sys

from data import UserError, guarded
from data.problems.benchmarks import read_jsonl
from eval import accuracy


def compare(first, second):
    """Two evaluations of the same problems, paired: what the second gains, as text. Directories of eval.py.

    Of several samples the mean counts. UserError if they have no problem in common.
    """
    def outcomes(directory):
        found = {}
        for row in read_jsonl(pathlib.Path(directory) / "episodes.jsonl", ("id", "problem", "correct")):
            found.setdefault((row["id"], row["problem"]), []).append(row["correct"])
        return {name: sum(values) / len(values) for name, values in found.items()}

    a, b = outcomes(first), outcomes(second)
    shared = [name for name in a if name in b]
    if not shared:
        raise UserError(f"{first} and {second} have no problem in common")
    lines = [f"{str(label):10} {accuracy([values[name] for name in shared])[0]:6.1f} %"
             for label, values in ((first, a), (second, b))]
    gain = accuracy([b[name] - a[name] for name in shared])
    return "\n".join([*lines, f"{len(shared)} problems in both (of {len(a)} and {len(b)}); the second gains "
                      f"{gain[0]:+.1f} points +- {gain[1]:.1f} (paired)"])


def run(directories):
    if len(directories) != 2:
        raise UserError("two directories of eval.py, please")
    print(compare(*directories))


if __name__ == "__main__":
    guarded(run, sys.argv[1:], "compare")
