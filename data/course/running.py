"""Runs a student's functions in a process of its own, with a time limit, and reads what they computed.

A part that crashes the process, ends it or never comes back is lost; the others are run in a new one.
"""
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data.course.reference import ROOT

LIMIT = 10.0                # seconds a part
START = 120.0               # seconds until everything is imported, on a slow machine
MOST_READ = 50_000_000      # bytes of results


def answer_apart(exercise, scripts: dict[str, str], cases: list, limit: float = LIMIT) -> list[dict]:
    """As child.answer_cases, in other processes."""
    answers = [None] * len(cases)
    waiting = list(range(len(cases)))
    while waiting:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            found, problem = run_child(exercise, scripts, [cases[i] for i in waiting], Path(directory), limit)
        for place, answer in found.items():
            answers[waiting[place]] = answer
        lost = [i for i in waiting if answers[i] is None]
        for i in lost:
            if cases[i].part == cases[lost[0]].part:
                answers[i] = {"error": problem}
        waiting = [i for i in lost if answers[i] is None]
    return answers


def run_child(exercise, scripts: dict[str, str], cases: list, directory: Path,
              limit: float) -> tuple[dict[int, dict], str]:
    """The answers that came, each by the place of its case, and why others did not."""
    nonce = secrets.token_hex(16)                    # lines without it are somebody else's
    results = directory / f"{nonce}.txt"
    work = directory / "work"
    work.mkdir()
    job = {"exercise": exercise.__name__, "scripts": scripts, "cases": cases, "results": str(results), "nonce": nonce}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
    process = subprocess.Popen([sys.executable, "-m", "data.course.child"], cwd=work, env=environment,
                               stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
        problem = watch(process, results, nonce, limit)
    except OSError:
        problem = "the process ended before it began"
    finally:
        process.kill()
        process.wait()
    answers, _ = read_results(results, nonce)
    return answers, problem


def watch(process, results: Path, nonce: str, limit: float) -> str:
    """Wait until a child has ended, or a part has taken too long; what to say of a part without an answer."""
    begun, size = 0, -1
    deadline = time.monotonic() + START
    while process.poll() is None:
        time.sleep(0.02)
        now = time.monotonic()
        if results.exists() and results.stat().st_size != size:
            size = results.stat().st_size
            _, parts = read_results(results, nonce)
            if parts > begun:
                begun = parts
                deadline = now + limit
        if now > deadline:
            return f"no result after {limit:g} seconds: does a loop never end?"
    return f"the process ended (exit status {process.returncode}) before there was a result"


def read_results(path: Path, nonce: str) -> tuple[dict[int, dict], int]:
    """Answers, and how many parts have begun."""
    answers, begun = {}, 0
    if not path.exists():
        return answers, begun
    with open(path, "rb") as file:
        text = file.read(MOST_READ).decode(errors="replace")
    for line in text.split("\n")[:-1]:
        if not line.startswith(nonce):
            continue
        try:
            record = json.loads(line.removeprefix(nonce))
        except ValueError:
            continue
        if "begins" in record:
            begun += 1
        else:
            answers[record["case"]] = record
    return answers, begun
