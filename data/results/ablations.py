"""The questions that the paper leaves open, on the embedded model: seeds, error bars, a figure for each.

    python -m data.results.ablations                    all of them
    python -m data.results.ablations processes reward   some
    python -m data.results.ablations --table            only the tables and figures of the runs that are there

Two runs at a time, each on one thread; a run that is there already is not run again. Runs go to
out/ablations, their config.json and metrics.jsonl, the tables and the figures to data/results/ablations.
"""
import argparse
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from tqdm import tqdm  # noqa: E402

from data.plots import read  # noqa: E402
from eval import accuracy  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RUNS, KEPT = ROOT / "out" / "ablations", pathlib.Path(__file__).parent / "ablations"
CONVERSATION = "--turns 2 --updates 4 --switch-every 0 --questions 16"
# question -> arm -> flags of train.py. By their steps, the arms of a question sample about as many tokens.
ABLATIONS = {
    "processes": {"ReMA": "--steps 60 --eval-every 5", "MRP": "--process mrp --steps 46 --eval-every 4",
                  "VRP": "--process vrp --steps 76 --eval-every 6"},
    "reward": {"base": "--answers-high 4 --steps 40",
               "consistency": "--reward consistency --answers-high 4 --steps 40"},
    "weights": {"alternating": "", "simultaneous": "--switch-every 0 --plans 4 --answers 2",
                "shared": "--share --plans 4 --answers 2"},
    "ratio": {"token, clip 0.2": f"{CONVERSATION} --steps 30",
              "turn, clip 0.2": f"{CONVERSATION} --steps 30 --ratio turn --normalise turn",
              "turn, clip 3e-4": f"{CONVERSATION} --steps 30 --ratio turn --normalise turn --clip 3e-4"},
    "sizes": {size: f"--plan-format json --steps 40 --model {model}" for size, model in (
        ("small", "out/small"), ("tiny", "tiny"), ("large", "out/large"))},
}
SHOWN = {                        # column -> field of metrics.jsonl, before training and after
    "greedy": "heldout_greedy", "temperature 1": "heldout_t1", "verifying": "heldout_greedy_verifying",
    "leaks": "heldout_greedy_leaks", **{action: f"heldout_t1_share_{action}"
                                        for action in ("DECOMPOSE", "REWRITE", "EMPTY")}}


def directory(question, arm, seed):
    return RUNS / question / f"{arm.replace(', ', '-').replace(' ', '')}-s{seed}"


def run(job):
    """One run of train.py, unless it is there -> its name, or what went wrong."""
    question, arm, seed, extra = job
    place = directory(question, arm, seed)
    if (place / "curves.png").exists():
        return f"{place.name}: there"
    shutil.rmtree(place, ignore_errors=True)
    flags = ABLATIONS[question][arm].split()
    if "--data" not in flags:
        flags += ["--data", "arithmetic", "--max-new-tokens", "64", "--lr", "3e-4", "--eval-questions",
                  "1000"]
    if "--questions" not in flags:
        flags += ["--questions", "32"]
    done = subprocess.run(
        [sys.executable, "train.py", *flags, *extra, "--seed", str(seed), "--out", str(place)], cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    return f"{place.name}: {'done' if done.returncode == 0 else done.stderr.strip().splitlines()[-1]}"


def build_sizes():
    for size in ("small", "large"):
        if not (ROOT / "out" / size / "config.json").exists():
            subprocess.run([sys.executable, "-m", "data.make_tiny", "--size", size, "--out", f"out/{size}"],
                           cwd=ROOT, check=True)


def summarise(question, seeds):
    """The table of a question as Markdown, and its figure: held-out accuracy against sampled tokens."""
    figure, axis = plt.subplots(figsize=(7, 4.5))
    rows = []
    for arm in ABLATIONS[question]:
        places = [directory(question, arm, seed) for seed in seeds]
        runs = [read(place) for place in places if place.exists()]
        if not runs:
            continue
        measured = [[line for line in lines if "heldout_greedy" in line] for lines in runs]
        cells = []
        for field in SHOWN.values():
            pairs = [(100 ** ("share" in field) * one[0][field], 100 ** ("share" in field) * one[-1][field])
                     for one in measured if one[0].get(field) is not None]
            if not pairs:
                cells.append("")
                continue
            mean, error = (x / 100 for x in accuracy([after for _, after in pairs]))
            cells.append(f"{pairs[0][0]:.1f} -> {mean:.1f} ± {error:.1f}")
        clipped = [line["clip_share"] for lines in runs for line in lines
                   if line.get("clip_share") is not None]
        tokens = [spent(lines)[-1][0] for lines in runs]
        cells += [f"{100 * sum(clipped) / max(1, len(clipped)):.2f}", f"{sum(tokens) / len(tokens):,.0f}",
                  ", ".join(reached(lines, 80) for lines in runs)]
        rows.append(f"| {arm} ({len(runs)}) | " + " | ".join(cells) + " |")
        curves = [spent(lines) for lines in runs]
        places = [sum(curve[i][0] for curve in curves) / len(curves) for i in range(min(map(len, curves)))]
        values = [accuracy([curve[i][1] / 100 for curve in curves]) for i in range(len(places))]
        axis.errorbar([x / 1000 for x in places], [v for v, _ in values], yerr=[e for _, e in values],
                      capsize=2, marker="o", markersize=3, label=arm)
    axis.set(xlabel="sampled tokens, thousands", ylabel="held-out accuracy at temperature 1, %",
             title=question, ylim=(0, 100))
    axis.legend()
    figure.tight_layout()
    figure.savefig(KEPT / f"{question}.png", dpi=110)
    plt.close(figure)
    head = ["", *(f"{name}, %" for name in SHOWN), "clipped, %", "sampled tokens",
            "tokens to 80 % (temperature 1), by seed"]
    return "\n".join([f"### {question}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows,
                      ""])


def spent(lines):
    """(tokens sampled so far, held-out accuracy at temperature 1) at each evaluation of a run."""
    total, curve = 0, []
    for line in lines:
        total += line.get("sampled_tokens", 0) + line.get("filter_tokens", 0)
        if "heldout_t1" in line:
            curve.append((total, line["heldout_t1"]))
    return curve


def reached(lines, goal):
    return next((f"{tokens:,}" for tokens, value in spent(lines) if value >= goal), "never")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", help=f"of {', '.join(ABLATIONS)} (all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (3)")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--extra", default="", help="flags added to every run, for a quick look")
    args = parser.parse_args()
    questions = args.questions or list(ABLATIONS)
    if set(questions) - set(ABLATIONS):
        parser.error(f"there are {', '.join(ABLATIONS)}")
    jobs = [(question, arm, seed, args.extra.split()) for question in questions for seed in range(args.seeds)
            for arm in ABLATIONS[question]]
    if not args.table:
        if "sizes" in questions:
            build_sizes()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for told in tqdm(pool.map(run, jobs), total=len(jobs), desc="ablations", unit="run"):
                tqdm.write(told)
    KEPT.mkdir(exist_ok=True)
    tables = [summarise(question, range(args.seeds)) for question in questions]
    for question, arm, seed, _ in jobs:
        place = directory(question, arm, seed)
        if place.exists():
            goal = KEPT / question / place.name
            goal.mkdir(parents=True, exist_ok=True)
            for name in ("config.json", "metrics.jsonl"):
                config = (place / name).read_text().replace(str(ROOT) + "/", "")
                (goal / name).write_text(config)
    (KEPT / "tables.md").write_text("\n".join(tables))
    print("\n".join(tables))


if __name__ == "__main__":
    main()
