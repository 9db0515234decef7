"""The questions that the paper leaves open, on the embedded model: seeds, error bars, a figure for each.

    python -m data.results.ablations                    all of them, 70 minutes on two cores,
                                                        26 of them to build two smaller models
    python -m data.results.ablations processes reward   some
    python -m data.results.ablations --table            only the tables and figures of the runs that are there

Two runs at a time, each on one thread; a run that is there already is not run again. Runs, tables and figures
go to out/ablations, with --publish also to data/results/ablations (of a run: config.json and metrics.jsonl).
The question about sizes first builds two smaller models, out/nano and out/small; the one about reversed
roles gives the embedded model two more habits first, see data/results/habits.py.
"""
import concurrent.futures
import math
import os
import pathlib
import shutil
import subprocess
import sys
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from tqdm import tqdm  # noqa: E402

from data import Parser, UserError, guarded  # noqa: E402
from data.formats.files import read_json  # noqa: E402
from data.extensions.guide import ACTIONS  # noqa: E402
from data.views.plots import read, spent_tokens  # noqa: E402
from eval import accuracy  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RUNS, KEPT = ROOT / "out" / "ablations", pathlib.Path(__file__).parent / "ablations"
GOAL = 70                        # percent at temperature 1: how many tokens until a process gets there?
COMMON = "--data arithmetic --max-new-tokens 64 --lr 3e-4 --eval-questions 300 --questions 32"
TALK = "--turns 2 --updates 4 --switch-every 0 --questions 12 --steps 14 --eval-every 7"
HABITS = "out/ablations/habits.jsonl"
JSON = "--plan-format json --steps 20 --eval-every 10"
# question -> arm -> flags of train.py. The arms of "processes" sample as many tokens, by their steps.
ABLATIONS = {
    "processes": {"ReMA": "--steps 30 --eval-every 3", "MRP": "--process mrp --steps 24 --eval-every 2",
                  "VRP": "--process vrp --steps 38 --eval-every 3"},
    "reward": {reward: f"--answers-high 4 --steps 20 --eval-every 5 --questions 16 --reward {reward}"
               for reward in ("base", "consistency")},
    "reversal": {reward: f"--answers-high 4 --steps 40 --eval-every 5 --questions 16 --reward {reward} "
                 f"--sft {HABITS} --sft-lr 5e-4" for reward in ("base", "consistency")},
    "weights": {"alternating": "--steps 20 --eval-every 4",
                "simultaneous": "--switch-every 0 --plans 4 --answers 2 --steps 20 --eval-every 4",
                "shared": "--share --plans 4 --answers 2 --steps 20 --eval-every 4"},
    "ratio": {f"{ratio}, clip {clip}": f"{TALK} --ratio {ratio} --normalise turn --clip {clip}"
              for ratio in ("token", "turn") for clip in ("0.2", "3e-4")},
    "sizes": {size: f"{JSON} --model {model}" for size, model in (
        ("nano", "out/nano"), ("small", "out/small"), ("tiny", "tiny"))},
}
LINES = {                        # of the figures: field of metrics.jsonl -> its name
    "reversal": {"heldout_t1": "right", "heldout_t1_leaks": "plan holds the answer",
                 "heldout_t1_verifying": "answer checks"}}
SHOWN = {                        # column -> (field of metrics.jsonl, factor), before training and after
    "greedy": ("heldout_greedy", 1), "temperature 1": ("heldout_t1", 1),
    "verifying, greedy": ("heldout_greedy_verifying", 1), "verifying": ("heldout_t1_verifying", 1),
    "leaks, greedy": ("heldout_greedy_leaks", 1), "leaks": ("heldout_t1_leaks", 1),
    **{action: (f"heldout_t1_share_{action}", 100) for action in ACTIONS}}


def directory(question, arm, seed, root=RUNS):
    return root / question / f"{arm.replace(', ', '-').replace(' ', '')}-s{seed}"


def finished(place):
    """Whether a directory holds a run that has come to its end."""
    try:
        return read(place)[-1]["step"] == read_json(place / "config.json")["steps"]
    except UserError:                    # nothing there, or the run was killed
        return False


def places(question, arm, seeds):
    """The finished runs of an arm: those of out/ablations, or else the published ones."""
    pairs = [(directory(question, arm, seed), directory(question, arm, seed, KEPT)) for seed in seeds]
    return [found for pair in pairs if (found := next(filter(finished, pair), None))]


def call(*arguments):
    """Run Python on one thread -> "done" and how long it took, or what went wrong."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True)
    if done.returncode == 0:
        return f"done, {time.perf_counter() - started:.0f} s"
    return "failed: " + (done.stderr.strip() or "?").splitlines()[-1]


def run(job):
    """One run of train.py, unless it is there -> its name, or what went wrong."""
    question, arm, seed = job
    place = directory(question, arm, seed)
    if finished(place):
        return f"{place.name}: there"
    shutil.rmtree(place, ignore_errors=True)
    flags = [*COMMON.split(), *ABLATIONS[question][arm].split(), "--seed", str(seed)]
    return f"{place.name}: {call('train.py', *flags, '--out', str(place))}"


def build(name):
    """What some runs start from, unless it is there: a smaller embedded model, habits -> how that went."""
    place = ROOT / "out" / name
    if (ROOT / HABITS if name == "habits" else place / "config.json").exists():
        return f"{name}: there"
    if name == "habits":
        return f"{name}: {call('-m', 'data.results.habits', HABITS)}"
    return f"{name}: {call('-m', 'data.tiny.make_tiny', '--size', name, '--out', str(place))}"


def mean(values):
    """(mean, standard error of the mean) of the seeds' values, in their own unit."""
    return tuple(x / 100 for x in accuracy(values))


def spent(lines, field="heldout_t1"):
    """(tokens, episodes, held-out accuracy at temperature 1 or another field) at each evaluation of a run."""
    tokens, episodes, curve = 0, 0, []
    for line in lines:
        tokens += spent_tokens([line])
        episodes += line.get("episodes", 0)
        if "heldout_t1" in line:
            curve.append((tokens, episodes, line[field]))
    return curve


def table_row(arm, runs):
    """An arm's runs as a row of Markdown: mean before -> mean after ± standard error over seeds."""
    cells, ends = [], [(measured[0], measured[-1]) for measured in (
        [line for line in lines if "heldout_greedy" in line] for lines in runs)]
    for field, factor in SHOWN.values():
        if ends[0][0].get(field) is None:
            cells.append("")
        else:
            (was, spread), (now, error) = (mean([factor * end[field] for end in same]) for same in zip(*ends))
            cells.append(f"{was:.1f}{f' ± {spread:.1f}' * (spread > 0.05)} → {now:.1f} ± {error:.1f}")
    clipped = [100 * line["clip_share"] for lines in runs for line in lines
               if line.get("clip_share") is not None]
    curves = [spent(lines) for lines in runs]
    reached = [next((f"{tokens:,} / {episodes:,}" for tokens, episodes, value in curve if value >= GOAL),
                    "never") for curve in curves]
    cells += [f"{sum(clipped) / max(1, len(clipped)):.2f}",
              f"{sum(curve[-1][0] for curve in curves) / len(curves):,.0f}", ", ".join(reached)]
    return f"| {arm} ({len(runs)} seeds) | " + " | ".join(cells) + " |"


def summarise(question, seeds, out):
    """The table of a question as Markdown, "" if it has no runs; its figure goes to the directory `out`."""
    found = {arm: [read(place) for place in places(question, arm, seeds)] for arm in ABLATIONS[question]}
    found = {arm: lines for arm, lines in found.items() if lines}
    if not found:
        return ""
    (figure, axis), width = plt.subplots(figsize=(9, 4.5), layout="constrained"), 0.8 / len(found)
    for i, (arm, runs) in enumerate(found.items()):
        if question == "sizes":                          # shares of actions, before (pale) and after
            for place, when, alpha in ((0, 0, 0.35), (1, -1, 1)):
                shares = [mean([100 * [line for line in lines if "heldout_t1" in line][when][
                    f"heldout_t1_share_{action}"] for lines in runs]) for action in ACTIONS]
                axis.bar([2.2 * j + place + i * width - 0.4 for j in range(3)], [v for v, _ in shares], width,
                         yerr=[e if place else math.nan for _, e in shares], color=f"C{i}", alpha=alpha,
                         capsize=2, label=f"{arm}, {'after' if place else 'before'}")
            continue
        for (field, name), style in zip(LINES.get(question, {"heldout_t1": ""}).items(), ("-", "--", ":")):
            curves = [spent(lines, field) for lines in runs]
            points = [mean([curve[j][0] / 1000 for curve in curves]) + mean([curve[j][2] for curve in curves])
                      for j in range(min(map(len, curves)))]
            axis.errorbar([x for x, *_ in points], [y for _, _, y, _ in points], yerr=[e for *_, e in points],
                          capsize=2, marker="o", markersize=3, color=f"C{i}", linestyle=style,
                          label=f"{arm}: {name}" if name else arm)
    if question == "sizes":
        axis.set_xticks([2.2 * j + 0.4 for j in range(3)], ACTIONS)
        axis.set(ylabel="share of plans at temperature 1, %", ylim=(0, 100))
    else:
        axis.set(xlabel="sampled tokens of all agents, thousands", ylim=(0, 100),
                 ylabel="held-out problems at temperature 1, %" if question in LINES else
                 "held-out accuracy at temperature 1, %")
    axis.set_title(f"{question} (mean ± standard error of seeds)")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{question}.png", dpi=110)
    plt.close(figure)
    head = ["", *(f"{name}, %" for name in SHOWN), "clipped, %", "sampled tokens",
            f"tokens / episodes to {GOAL} % (temperature 1), by seed"]
    rows = [table_row(arm, runs) for arm, runs in found.items()]
    return "\n".join([f"### {question}", "", f"`python -m data.results.ablations {question}`", "",
                      "| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows, ""])


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("questions", nargs="*", help=f"of {', '.join(ABLATIONS)} (all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (3)")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--publish", action="store_true", help="replace what is in data/results/ablations")
    args = parser.parse_args(argv)
    questions = args.questions or list(ABLATIONS)
    if unknown := set(questions) - set(ABLATIONS):
        raise UserError(f"no question {min(unknown)}: there are {', '.join(ABLATIONS)}")
    if args.seeds < (3 if args.publish else 1):
        raise UserError(f"--seeds must be at least 1, to --publish 3, not {args.seeds}")
    jobs = [(question, arm, seed) for question in questions for seed in range(args.seeds)
            for arm in ABLATIONS[question]]
    failed, started = 0, time.perf_counter()
    if not args.table:
        first = ["small", "nano"] * ("sizes" in questions) + ["habits"] * ("reversal" in questions)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            built = [pool.submit(build, name) for name in first]

            def after(job):                                  # the others need not wait for what is built
                if job[0] in ("sizes", "reversal"):
                    concurrent.futures.wait(built)
                return run(job)
            works = built + [pool.submit(after, job) for job in jobs]
            try:
                for work in tqdm(concurrent.futures.as_completed(works), total=len(works), unit="run"):
                    tqdm.write(work.result())
                    failed += "failed" in work.result()
            except BaseException:                            # Ctrl-C: those that run end, no other begins
                pool.shutdown(cancel_futures=True)
                raise
    for question, arm, seed in jobs if args.publish else ():
        place, goal = directory(question, arm, seed), directory(question, arm, seed, KEPT)
        if finished(place):
            goal.mkdir(parents=True, exist_ok=True)
            for name in ("config.json", "metrics.jsonl"):
                (goal / name).write_text((place / name).read_text().replace(str(ROOT) + "/", ""))
    out = KEPT if args.publish else RUNS
    missing = []
    for question in questions:
        if text := summarise(question, range(args.seeds), out):
            (out / f"{question}.md").write_text(text)
            print(text)
        else:
            missing.append(question)
    print(f"{out}: tables and figures; {len(jobs)} runs, {(time.perf_counter() - started) / 60:.0f} minutes")
    if failed:
        raise UserError(f"{failed} runs failed, see above")
    if missing:
        raise UserError(f"of {', '.join(missing)} no run has come to its end, so there is nothing to show")


if __name__ == "__main__":
    guarded(main, None, "ablations")
