"""The table of graders: this one, and Math-Verify where it can be imported. Prints markdown.

    python tests/bench_grader.py                         # this grader: all rewritings, about ten seconds
    /path/to/side/venv/bin/python tests/bench_grader.py --math-verify --every 40      # in an environment with math-verify

Needs the benchmark files (REMA_SHARED, see conftest.py). A hostile case passes if it is refused, or accepted where it is
the answer, within --limit seconds; a case that takes longer than two seconds is cut off by Math-Verify's own timer.
"""
import argparse
import json
import os
import pathlib
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

import rewards
from data.answers.reading import normalise
import test_rewards

SHARED = pathlib.Path(os.environ.get("REMA_SHARED", HERE.parent.parent / "shared"))


def this_grader(response, gold):
    rewards.parse.cache_clear()                                     # cold
    normalise.cache_clear()
    return rewards.is_correct(response, gold)


def math_verify(response, gold):
    from math_verify import parse, verify
    reference = parse(f"${gold}$", parsing_timeout=1)
    return verify(reference, parse(response, parsing_timeout=1), timeout_seconds=1)


def judge(grader, cases):
    """[(expected, verdict, seconds)]; an exception counts as a refusal."""
    results = []
    for response, gold, expected in cases:
        start = time.perf_counter()
        try:
            verdict = bool(grader(response, gold))
        except Exception:
            verdict = False
        results.append((expected, verdict, time.perf_counter() - start))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--math-verify", action="store_true", help="measure Math-Verify too (needs the package)")
    parser.add_argument("--every", type=int, default=1, help="take every n-th MATH answer only; Math-Verify is slow")
    parser.add_argument("--limit", type=float, default=0.1, help="seconds that a hostile case may take")
    args = parser.parse_args()
    suite = [json.loads(line) for line in open(SHARED / "data" / "grader_dev.jsonl", encoding="utf-8")]
    suite = [(r["prediction"], r["gold"], r["expected"]) for r in suite if r["boxed"] and "disputed" not in r]
    rewritten = [("$\\boxed{" + text + "}$", gold, kind) for gold in test_rewards.math_answers(SHARED / "data")[::args.every]
                 for kind, texts in ((True, test_rewards.rewritings(gold)), (False, test_rewards.corruptions(gold)))
                 for text in dict.fromkeys(texts) if kind or not test_rewards.same(gold, text)]
    hostile = [(response, gold, False) for gold, response in test_rewards.HOSTILE]
    print(f"{len(suite)} boxed undisputed cases, {len(rewritten)} rewritings and corruptions, {len(hostile)} hostile cases\n")
    print("| grader | boxed, undisputed: right | false accepts | own MATH rewritings: right | false accepts | hostile passed "
          "| median us | p99 ms |\n|---|---|---|---|---|---|---|---|")
    for name, grader in [("rewards.py", this_grader)] + [("Math-Verify", math_verify)] * args.math_verify:
        cells, times = [], []
        for cases in (suite, rewritten):
            results = judge(grader, cases)
            wrongly = sum(verdict for expected, verdict, _ in results if not expected)
            negatives = sum(not expected for expected, _, _ in results)
            cells += [f"{sum(e == v for e, v, _ in results) / len(results):.1%}", f"{wrongly} of {negatives}"]
            times = times or sorted(seconds for _, _, seconds in results)
        passed = sum(not verdict and seconds <= args.limit for _, verdict, seconds in judge(grader, hostile))
        print(f"| {name} | {' | '.join(cells)} | {passed} of {len(hostile)} | {statistics.median(times) * 1e6:.0f} | "
              f"{times[int(0.99 * len(times))] * 1e3:.1f} |", flush=True)


if __name__ == "__main__":
    main()
