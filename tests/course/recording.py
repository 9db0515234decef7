"""How far the checks can be trusted, measured and written to data/course/measured.json, with the commit.

    python -m tests.course.recording               what is not up to date; an interrupted run goes on where it was

Of each exercise: how many named mistakes its check catches, and whether it changes its mind in 50 seeds: about the
reference, with one and with two threads each, and about each mistake, with ten of them. Of the check of all
exercises in a student's copy, on one core: seconds, and peak memory of the largest process (POSIX only). Automatic
mutants have a record of their own, see mutating.py.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from data.course import child, judging, making, reference, sources
from data.formats.files import atomic_write
from tests.course import mutating

RECORD = reference.ROOT / "data/course/measured.json"
SEEDS = 50


def get_commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=reference.ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def read_record() -> dict:
    if not RECORD.exists():
        return {}
    return json.loads(RECORD.read_text(encoding="utf-8"))


def write_entry(name: str, entry: dict) -> None:
    record = {**read_record(), name: entry}
    atomic_write(RECORD, json.dumps({key: record[key] for key in sorted(record)}, indent=1) + "\n")
    print(name, entry, flush=True)


# ------------------------------------------------------------------------------------------------------------
# Seeds

def measure_seeds(exercise, seeds: int = SEEDS) -> dict:
    """"changed its mind": seeds and threads with which the reference does not have full marks, or a mistake has."""
    full = sum(exercise.PARTS.values())
    changed, caught = [], [True] * len(exercise.MISTAKES)
    threads = torch.get_num_threads()
    right = take_reference(exercise)
    for seed in range(seeds):
        for number in (1, 2):
            torch.set_num_threads(number)
            if count_points(exercise, right, seed) < full:
                changed.append(f"seed {seed}, threads {number}: the reference")
        for i, mistake in enumerate(exercise.MISTAKES):
            if seed % 5 == i % 5 and count_points(exercise, judging.apply_mistake(exercise, mistake), seed) == full:
                caught[i] = False
                changed.append(f"seed {seed}: {mistake.says}")
    torch.set_num_threads(threads)
    return {"mistakes": len(caught), "caught": sum(caught), "seeds": seeds, "changed its mind": changed}


def take_reference(exercise) -> dict[str, str]:
    """The scripts that a perfect student would have."""
    scripts = {}
    for target in exercise.TARGETS:
        script, _ = target.split(".")
        scripts[script] = reference.read_text(f"{script}.py")
    return scripts


def count_points(exercise, scripts: dict[str, str], seed: int) -> int:
    cases = judging.make_cases(exercise, [seed])
    return mutating.count_points(exercise, cases, list(child.answer_cases(exercise, scripts, cases)))


# ------------------------------------------------------------------------------------------------------------
# All checks in a copy, on one core

# A process's peak begins with the memory of the one that starts it, so a small one does.
STARTER = """
import platform, resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "data.course", "check"])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(peak if platform.system() == "Darwin" else peak * 1024)
sys.exit(done.returncode)
"""


def measure_checks() -> dict:
    """With the reference's functions put back, so nothing ends early."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "a copy"
        making.make(copy, "", [], update=False)
        for exercise in reference.load_exercises().values():
            for target in exercise.TARGETS:
                put_back(copy, target)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        before = time.monotonic()
        done = subprocess.run([sys.executable, "-c", STARTER], cwd=copy, env=environment, capture_output=True, text=True,
                              preexec_fn=use_one_core)
        seconds = time.monotonic() - before
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return {"seconds": round(seconds, 1), "peak MB": round(int(done.stdout.split()[-1]) / 1e6)}


def put_back(copy: Path, target: str) -> None:
    script, name = target.split(".")
    path = copy / f"{script}.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(sources.get_source(text, name), reference.read_source(target)), encoding="utf-8")


def use_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def main() -> None:
    record = read_record()
    everything = {"version": reference.compute_version()}
    for exercise in reference.load_exercises().values():
        name, state = exercise.__name__.split(".")[-1], mutating.compute_state(exercise)
        if record.get(name, {}).get("state") != state:
            write_entry(name, {"commit": get_commit(), "state": state, **measure_seeds(exercise)})
    if record.get("all checks", {}).get("version") != everything["version"]:
        write_entry("all checks", {"commit": get_commit(), **everything, **measure_checks()})


if __name__ == "__main__":
    main()
