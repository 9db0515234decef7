"""How good is the grader, and how fast? Prints markdown: what it gets wrong, then a row a measurement.

    python tests/bench_grader.py                           # all of it, a minute and a half
    python tests/bench_grader.py reports pairs             # these only
    /path/to/side/venv/bin/python tests/bench_grader.py dev rewritings hostile --math-verify --every 40

dev         labelled cases from public projects' own tests: the boxed and undisputed ones
reports     cases from public bug reports
rewritings  MATH answers, mechanically rewritten (right) and corrupted (wrong); --every n takes each n-th answer
golds       each benchmark's references against themselves, verbatim and in a box
pairs       references against those of other problems of the same benchmark: 20,000 pairs, the accepted ones are listed
random      2,000 random expressions, each with an equal and an unequal one
hostile     what was made to hang or crash a grader: passed if refused within 20 ms (--limit), an exception is a failure

The last column is the time of a case with cold caches: median and 99th percentile. Needs the benchmark files (REMA_SHARED,
see conftest.py). With --math-verify the same for that package, whose exceptions count as refusals; it cuts off what takes
longer than two seconds by a timer of its own.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import sys
import time
import types

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
try:
    import pytest                                                   # noqa: F401  test_rewards imports it
except ImportError:                                                 # the side environment may have none
    class Anything:
        def __getattr__(self, name):
            return Anything()

        def __call__(self, *args, **kwargs):
            return args[0] if len(args) == 1 and callable(args[0]) else Anything()
    stand_in = types.ModuleType("pytest")
    stand_in.mark = Anything()
    sys.modules["pytest"] = stand_in

import random_answers
import rewards
import test_rewards
from data.answers import reading

DATA = pathlib.Path(os.environ.get("REMA_SHARED", HERE.parent.parent / "shared")) / "data"
BENCHMARKS = ("math500", "gsm8k", "aime24", "amc23", "gaokao2023en", "minerva", "olympiadbench")


def read_rows(name):
    with open(DATA / f"{name}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# A case: (response, reference, expected verdict, lenient)

def make_dev():
    for row in read_rows("grader_dev"):
        if row["boxed"] and "disputed" not in row:
            yield row["prediction"], row["gold"], row["expected"], False


def make_reports():
    for row in read_rows("grader_reports"):
        if not row["disputed"] and not row["verdict"]:
            yield row["response"], row["gold"], row["expected"], row["lenient"]


def make_rewritings(every):
    for gold in test_rewards.math_answers(DATA)[::every]:
        for text in dict.fromkeys(test_rewards.rewritings(gold)):
            yield box(text), gold, True, False
        for text in dict.fromkeys(test_rewards.corruptions(gold)):
            if not test_rewards.same(gold, text):
                yield box(text), gold, False, False


def make_golds():
    for name in BENCHMARKS:
        for gold in sorted({str(row["answer"]) for row in read_rows(name)}):
            yield box(gold), gold, True, False


def make_pairs():
    rng = random.Random(0)
    golds = {name: sorted({str(row["answer"]) for row in read_rows(name)}) for name in BENCHMARKS}
    for _ in range(20_000):
        first, second = rng.sample(golds[rng.choice(BENCHMARKS)], 2)
        yield box(first), second, False, False


def make_random():
    for text, equal, unequal in random_answers.make_pairs(2_000, seed=1):
        yield box(equal), text, True, False
        yield box(unequal), text, False, False


def make_hostile():
    for gold, response in test_rewards.HOSTILE:
        yield response, gold, False, False


def box(answer):
    return "$\\boxed{" + answer + "}$"


def this_grader(response, gold, lenient):
    reading.parse.cache_clear()                                     # cold
    reading.normalise.cache_clear()
    return rewards.is_correct(response, gold, lenient)


def math_verify(response, gold, lenient):
    from math_verify import parse, verify
    try:
        return verify(parse(f"${gold}$", parsing_timeout=1), parse(response, parsing_timeout=1), timeout_seconds=1)
    except Exception:
        return False


def count_verdicts():
    """The judges' verdicts among the reports: (right, all)."""
    rows = [row for row in read_rows("grader_reports") if row["verdict"] and not row["disputed"]]
    return sum(str(rewards.verdict(row["response"])) == row["gold"] for row in rows), len(rows)


def measure(name, cases, grader, limit, listed):
    """One row of the table; what is wrong is printed before it, up to `listed` cases."""
    right, accepted, negatives, times = 0, 0, 0, []
    for response, gold, expected, lenient in cases:
        start = time.process_time()
        verdict = bool(grader(response, gold, lenient))
        seconds = time.process_time() - start
        if name == "hostile" and seconds > limit:                   # once more: others may use this machine
            start = time.process_time()
            grader(response, gold, lenient)
            seconds = min(seconds, time.process_time() - start)
        times.append(seconds)
        good = verdict == expected and (name != "hostile" or seconds <= limit)
        right += good
        negatives += not expected
        accepted += verdict and not expected
        if not good and listed > 0:
            listed -= 1
            print(f"{name}: {'refused' if expected else 'accepted' if verdict else 'slow'}: `{gold[:80]}` | `{response[:120]}`")
    times.sort()
    slow = times[int(0.99 * len(times))]
    return (f"| {name} | {right:,} of {len(times):,} = {right / len(times):.2%} | {accepted} of {negatives:,} "
            f"| {statistics.median(times) * 1e6:.0f} us, {slow * 1e3:.1f} ms |")


def main():
    makers = {"dev": make_dev, "reports": make_reports, "rewritings": make_rewritings, "golds": make_golds, "pairs": make_pairs,
              "random": make_random, "hostile": make_hostile}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {' '.join(makers)} (default: all)")
    parser.add_argument("--math-verify", action="store_true", help="measure Math-Verify instead (needs the package)")
    parser.add_argument("--every", type=int, default=1, help="take every n-th MATH answer only; Math-Verify is slow")
    parser.add_argument("--limit", type=float, default=0.02, help="seconds that a hostile case may take")
    parser.add_argument("--listed", type=int, default=20, help="wrong cases that are printed for each measurement")
    args = parser.parse_args()
    rows = []
    for name in args.names or makers:
        cases = list(makers[name](args.every) if name == "rewritings" else makers[name]())
        rows.append(measure(name, cases, math_verify if args.math_verify else this_grader, args.limit, args.listed))
    print("\n| cases | right | accepted wrongly | median, 99th percentile |\n|---|---|---|---|")
    print("\n".join(rows))
    if "reports" in (args.names or makers) and not args.math_verify:
        print("| verdicts of judges | {} of {} | | |".format(*count_verdicts()))


if __name__ == "__main__":
    main()
