"""Runs a student's functions in a process of its own, with a time limit, and reads what they computed.

A part that crashes the process, ends it or never comes back is lost; the others are run in a new one. Outputs come
through a pipe, which nobody can empty, in lines that begin with a word that only we know.
"""
import json
import os
import queue
import secrets
import subprocess
import sys
import tempfile
import threading

from data.course.reference import ROOT

LIMIT = 10.0                # seconds a case
START = 120.0               # seconds until everything is imported, on a slow machine
LONGEST = 20_000_000        # bytes of a line


def answer_apart(exercise, scripts: dict[str, str], cases: list, limit: float = LIMIT) -> list[dict]:
    """As child.answer_cases, in other processes. cases: those of a part stand side by side."""
    answers = []
    while len(answers) < len(cases):
        found, problem = run_child(exercise, scripts, cases[len(answers):], limit)
        answers += found
        rest = cases[len(answers):]
        for case in rest:
            if case.part == rest[0].part:
                answers.append({"error": problem})
    return answers


def run_child(exercise, scripts: dict[str, str], cases: list, limit: float) -> tuple[list[dict], str]:
    """The answers that came, in the order of cases, and why there are no more."""
    nonce = secrets.token_hex(16)
    job = {"exercise": exercise.__name__, "scripts": scripts, "cases": cases, "nonce": nonce}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        process = subprocess.Popen([sys.executable, "-m", "data.course.child"], cwd=work, env=environment,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        records = queue.Queue()
        threading.Thread(target=read_records, args=(process.stdout, nonce.encode(), records), daemon=True).start()
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
        found, problem = [], ""
        wait = START                                 # until the child says that it begins
        while len(found) <= len(cases) and not problem:
            try:
                found.append(records.get(timeout=wait))
            except queue.Empty:
                problem = f"no result after {limit:g} seconds: does a loop never end?"
            wait = limit
            if found and found[-1] is None:
                found.pop()
                problem = "the process ended before there was a result"
        process.kill()
        process.wait()
    if problem:                                      # a sign of life, ten seconds after the last one
        print(f"  {problem}", file=sys.stderr)
    return found[1:], problem


def read_records(stream, nonce: bytes, records: queue.Queue) -> None:
    """In a thread: what the child tells, then None. Other lines are noise of the student's."""
    while line := stream.readline(LONGEST):
        if line.startswith(nonce):
            records.put(json.loads(line.removeprefix(nonce)))
    records.put(None)
