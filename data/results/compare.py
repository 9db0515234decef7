"""Two evaluations of the same problems, compared problem by problem: is the difference more than noise?

    python eval.py --model tiny --out before
    python eval.py --model out/tiny-rema-s0 --out after
    python -m data.results.compare before after
"""
import pathlib

from data import UserError
from data.problems.reading import problem_text, read_jsonl
from data.views.program import Parser, run_program
from data.views.statistics import mean, show_error
from eval import compute_gain, compute_percent


def read_outcomes(directory: str) -> dict[str, float]:
    """What eval.py wrote -> {problem: share of its samples that are right}. Copies of a problem are samples of it."""
    verdicts = {}
    for row in read_jsonl(pathlib.Path(directory) / "episodes.jsonl", ("id", "problem", "correct")):
        verdicts.setdefault(problem_text(row), []).append(row["correct"])
    outcomes = {}
    for name, values in verdicts.items():
        outcomes[name] = mean(values)
    return outcomes


def compare(first: str, second: str) -> str:
    """Two directories of eval.py, paired: what the second gains, as text. UserError: no problem in common."""
    before, after = read_outcomes(first), read_outcomes(second)
    shared = [name for name in before if name in after]
    if not shared:
        raise UserError(f"{first} and {second} have no problem in common")

    lines = []
    for directory, outcomes in ((first, before), (second, after)):
        percent, _ = compute_percent([outcomes[name] for name in shared])
        lines.append(f"{directory:10} {percent:6.1f} %")
    gain, error = compute_gain([after[name] - before[name] for name in shared])
    lines.append(f"{len(shared)} problems in both (of {len(before)} and {len(after)}); the second gains "
                 f"{gain:+.1f} points +- {show_error(error)} (paired)")
    return "\n".join(lines)


def program(argv: list[str] | None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("first", help="a directory of eval.py")
    parser.add_argument("second", help="another one")
    args = parser.parse_args(argv)
    print(compare(args.first, args.second))


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "compare")


if __name__ == "__main__":
    main()
