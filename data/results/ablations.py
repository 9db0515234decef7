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

from data import UserError  # noqa: E402
from data.extensions.guide import ACTIONS  # noqa: E402
from data.formats.files import read_json  # noqa: E402
from data.results.collect import read_without_paths  # noqa: E402
from data.views.curves import choose_lines, get_values, read_metrics  # noqa: E402
from data.views.program import Parser, run_program  # noqa: E402
from data.views.statistics import compute_mean, show_error  # noqa: E402
from data.views.terminal import count_spent_tokens  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RUNS, KEPT = ROOT / "out" / "ablations", pathlib.Path(__file__).parent / "ablations"
GOAL = 70                        # percent at temperature 1: how many tokens until a process gets there?
COMMON = "--data arithmetic --max-new-tokens 64 --lr 3e-4 --eval-questions 300 --questions 32"
TALK = "--turns 2 --updates 4 --switch-every 0 --questions 12 --steps 14 --eval-every 7 --normalise turn"
AGREE = "--followers 4 --eval-every 5 --questions 16"
HABITS = "out/ablations/habits.jsonl"
REVERSED = f"{AGREE} --steps 40 --sft {HABITS} --sft-lr 5e-4"
JSON = "--plan-format json --steps 20 --eval-every 10"
# question -> arm -> flags of train.py. The arms of "processes" sample as many tokens, by their steps.
ABLATIONS = {
    "processes": {"ReMA": "--steps 30 --eval-every 3",
                  "MRP": "--process mrp --steps 24 --eval-every 2",
                  "VRP": "--process vrp --steps 38 --eval-every 3"},
    "reward": {"base": f"{AGREE} --steps 20 --reward base",
               "consistency": f"{AGREE} --steps 20 --reward consistency"},
    "reversal": {"base": f"{REVERSED} --reward base",
                 "consistency": f"{REVERSED} --reward consistency"},
    "weights": {"alternating": "--steps 20 --eval-every 4",
                "simultaneous": "--switch-every 0 --group 4 2 --steps 20 --eval-every 4",
                "shared": "--share --group 4 2 --steps 20 --eval-every 4"},
    "ratio": {"token, clip 0.2": f"{TALK} --ratio token --clip 0.2",
              "token, clip 3e-4": f"{TALK} --ratio token --clip 3e-4",
              "turn, clip 0.2": f"{TALK} --ratio turn --clip 0.2",
              "turn, clip 3e-4": f"{TALK} --ratio turn --clip 3e-4"},
    "sizes": {"nano": f"{JSON} --model out/nano",
              "small": f"{JSON} --model out/small",
              "tiny": f"{JSON} --model tiny"},
}
BUILT = {"sizes": ["small", "nano"], "reversal": ["habits"]}     # what has to be there before a question's runs
LINES = {                        # of the figures: field of metrics.jsonl -> its name
    "reversal": {"heldout_t1": "right", "heldout_t1_leaks": "plan holds the answer",
                 "heldout_t1_verifying": "answer checks"}}
SHOWN = {                        # column -> (field of metrics.jsonl, factor), before training and after
    "greedy": ("heldout_greedy", 1), "temperature 1": ("heldout_t1", 1),
    "verifying, greedy": ("heldout_greedy_verifying", 1), "verifying": ("heldout_t1_verifying", 1),
    "leaks, greedy": ("heldout_greedy_leaks", 1), "leaks": ("heldout_t1_leaks", 1)}
for action in ACTIONS:
    SHOWN[action] = (f"heldout_t1_share_{action}", 100)


# ------------------------------------------------------------------------------------------------------------
# Runs

def directory(question, arm, seed, root=RUNS):
    name = arm.replace(", ", "-").replace(" ", "")
    return root / question / f"{name}-s{seed}"


def finished(place):
    """Whether a directory holds a run that has come to its end."""
    try:
        return read_metrics(place)[-1]["step"] == read_json(place / "config.json")["steps"]
    except UserError:                    # nothing there, or the run was killed
        return False


def places(question, arm, seeds):
    """The finished runs of an arm: those of out/ablations, or else the published ones."""
    found = []
    for seed in seeds:
        for place in (directory(question, arm, seed), directory(question, arm, seed, KEPT)):
            if finished(place):
                found.append(place)
                break
    return found


def call(*arguments):
    """Run Python on one thread -> "done" and how long it took, or what went wrong."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True)
    if done.returncode == 0:
        return f"done, {time.perf_counter() - started:.0f} s"
    said = done.stderr.strip() or "?"
    return f"failed: {said.splitlines()[-1]}"


def run(question, arm, seed, needed):
    """One run of train.py, unless it is there -> its name, or what went wrong. needed: what it waits for."""
    concurrent.futures.wait(needed)
    place = directory(question, arm, seed)
    if finished(place):
        return f"{place.name}: there"
    shutil.rmtree(place, ignore_errors=True)
    flags = [*COMMON.split(), *ABLATIONS[question][arm].split(), "--seed", str(seed)]
    return f"{place.name}: {call('train.py', *flags, '--out', str(place))}"


def build(name):
    """What some runs start from, unless it is there: a smaller embedded model, habits -> how that went."""
    if name == "habits":
        made = ROOT / HABITS
        arguments = ["-m", "data.results.habits", HABITS]
    else:
        made = ROOT / "out" / name / "config.json"
        arguments = ["-m", "data.tiny.make_tiny", "--size", name, "--out", f"out/{name}"]
    if made.exists():
        return f"{name}: there"
    return f"{name}: {call(*arguments)}"


def run_all(questions, seeds):
    """Two programs at a time -> how many failed."""
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        needed = {}
        for question in questions:
            needed[question] = [pool.submit(build, name) for name in BUILT.get(question, [])]
        works = sum(needed.values(), [])
        for question in questions:
            for seed in range(seeds):
                for arm in ABLATIONS[question]:
                    works.append(pool.submit(run, question, arm, seed, needed[question]))
        try:
            for work in tqdm(concurrent.futures.as_completed(works), total=len(works), unit="run"):
                tqdm.write(work.result())
                failed += "failed" in work.result()
        except BaseException:                            # Ctrl-C: those that run end, no other begins
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def publish(questions, seeds):
    """Copy the settings and metrics of finished runs to data/results/ablations."""
    for question in questions:
        for arm in ABLATIONS[question]:
            for seed in range(seeds):
                place, goal = directory(question, arm, seed), directory(question, arm, seed, KEPT)
                if not finished(place):
                    continue
                goal.mkdir(parents=True, exist_ok=True)
                for name in ("config.json", "metrics.jsonl"):
                    (goal / name).write_text(read_without_paths(place / name), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------
# Tables. runs: for each seed the lines of its metrics.jsonl

def spent(lines, field="heldout_t1"):
    """(tokens, episodes, held-out accuracy at temperature 1 or another field) at each evaluation of a run."""
    tokens, episodes, curve = 0, 0, []
    for line in lines:
        tokens += count_spent_tokens([line])
        episodes += line.get("episodes", 0)
        if "heldout_t1" in line:
            curve.append((tokens, episodes, line[field]))
    return curve


def show_change(runs, field, factor):
    """Mean before → mean after ± standard error over seeds; "" where the runs have no such field."""
    before, after = [], []
    for lines in runs:
        measured = choose_lines(lines, "heldout_greedy")
        if measured[0].get(field) is None:
            return ""
        before.append(factor * measured[0][field])
        after.append(factor * measured[-1][field])
    mean, error = compute_mean(before)
    text = f"{mean:.1f}"
    if error and error > 0.05:           # runs may start from different weights
        text += f" ± {show_error(error)}"
    mean, error = compute_mean(after)
    return f"{text} → {mean:.1f} ± {show_error(error)}"


def show_goal(lines):
    """Tokens and episodes until a run has reached the goal."""
    for tokens, episodes, value in spent(lines):
        if value >= GOAL:
            return f"{tokens:,} / {episodes:,}"
    return "never"


def table_row(arm, runs):
    """An arm's runs as a row of Markdown."""
    cells = [f"{arm} ({len(runs)} seeds)"]
    for field, factor in SHOWN.values():
        cells.append(show_change(runs, field, factor))
    clipped, tokens, goals = [], [], []
    for lines in runs:
        clipped += get_values(choose_lines(lines, "clip_share"), "clip_share")
        tokens.append(spent(lines)[-1][0])
        goals.append(show_goal(lines))
    cells.append(f"{100 * compute_mean(clipped)[0]:.2f}")
    cells.append(f"{compute_mean(tokens)[0]:,.0f}")
    cells.append(", ".join(goals))
    return f"| {' | '.join(cells)} |"


def summarise(question, seeds, out):
    """The table of a question as Markdown, "" if it has no runs; its figure goes to the directory `out`."""
    found = {}
    for arm in ABLATIONS[question]:
        runs = [read_metrics(place) for place in places(question, arm, seeds)]
        if runs:
            found[arm] = runs
    if not found:
        return ""
    out.mkdir(parents=True, exist_ok=True)
    draw(question, found, out / f"{question}.png")
    head = [""] + [f"{name}, %" for name in SHOWN]
    head += ["clipped, %", "sampled tokens", f"tokens / episodes to {GOAL} % (temperature 1), by seed"]
    rows = [table_row(arm, runs) for arm, runs in found.items()]
    return "\n".join([f"### {question}", "", f"`python -m data.results.ablations {question}`", "",
                      f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows, ""])


# ------------------------------------------------------------------------------------------------------------
# Figures. found: {arm: its runs}

def draw(question, found, path):
    figure, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    if question == "sizes":
        draw_actions(axis, found)
    else:
        draw_curves(axis, found, LINES.get(question, {"heldout_t1": ""}))
        axis.set(xlabel="sampled tokens of all agents, thousands", ylim=(0, 100))
        axis.set_ylabel("held-out accuracy at temperature 1, %")
        if question in LINES:
            axis.set_ylabel("held-out problems at temperature 1, %")
    axis.set_title(f"{question} (mean ± standard error of seeds)")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_curves(axis, found, fields):
    """A colour for each arm, a style for each field."""
    for i, (arm, runs) in enumerate(found.items()):
        for (field, name), style in zip(fields.items(), ("-", "--", ":")):
            x, y, errors = [], [], []
            curves = [spent(lines, field) for lines in runs]
            for points in zip(*curves):                      # of all seeds at one evaluation
                x.append(compute_mean([tokens / 1000 for tokens, _, _ in points])[0])
                mean, error = compute_mean([value for _, _, value in points])
                y.append(mean)
                errors.append(error or 0)
            label = arm
            if name:
                label = f"{arm}: {name}"
            axis.errorbar(x, y, errors, capsize=2, marker="o", markersize=3, color=f"C{i}", linestyle=style,
                          label=label)


def draw_actions(axis, found):
    """Shares of actions as bars: before training pale, after it with errors."""
    width = 0.8 / len(found)
    for i, (arm, runs) in enumerate(found.items()):
        for place, when, which, alpha in ((0, "before", 0, 0.35), (1, "after", -1, 1)):
            for j, action in enumerate(ACTIONS):
                shares = []
                for lines in runs:
                    measured = choose_lines(lines, "heldout_t1")[which]
                    shares.append(100 * measured[f"heldout_t1_share_{action}"])
                mean, error = compute_mean(shares)
                look = dict(color=f"C{i}", alpha=alpha)
                if when == "after":
                    look.update(yerr=error or 0, capsize=2)
                if j == 0:                                   # once in the legend
                    look["label"] = f"{arm}, {when}"
                axis.bar(2.2 * j + place + i * width - 0.4, mean, width, **look)
    axis.set_xticks([0.4, 2.6, 4.8], ACTIONS)
    axis.set(ylabel="share of plans at temperature 1, %", ylim=(0, 100))


# ------------------------------------------------------------------------------------------------------------
# The program

def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("questions", nargs="*", help=f"of {', '.join(ABLATIONS)} (all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (3)")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--publish", action="store_true", help="replace what is in data/results/ablations")
    args = parser.parse_args(argv)
    questions = args.questions or list(ABLATIONS)
    for question in questions:
        if question not in ABLATIONS:
            raise UserError(f"no question {question}: there are {', '.join(ABLATIONS)}")
    least = 1
    if args.publish:
        least = 3
    if args.seeds < least:
        raise UserError(f"--seeds must be at least 1, to --publish 3, not {args.seeds}")
    failed, started = 0, time.perf_counter()
    if not args.table:
        failed = run_all(questions, args.seeds)
    out = RUNS
    if args.publish:
        out = KEPT
        publish(questions, args.seeds)
    missing = []
    for question in questions:
        text = summarise(question, range(args.seeds), out)
        if text:
            (out / f"{question}.md").write_text(text)
            print(text)
        else:
            missing.append(question)
    print(f"{out}: tables and figures; {(time.perf_counter() - started) / 60:.0f} minutes")
    if failed:
        raise UserError(f"{failed} runs failed, see above")
    if missing:
        raise UserError(f"of {', '.join(missing)} no run has come to its end, so there is nothing to show")


if __name__ == "__main__":
    run_program(main, None, "ablations")
