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

LIMIT = 10.0                # seconds a part
START = 120.0               # seconds until everything is imported, on a slow machine
LONGEST = 20_000_000        # bytes of a line


def answer_apart(exercise, scripts: dict[str, str], cases: list, limit: float = LIMIT) -> list[dict]:
    """As child.answer_cases, in other processes."""
    answers = [None] * len(cases)
    waiting = list(range(len(cases)))
    while waiting:
        found, problem = run_child(exercise, scripts, [cases[i] for i in waiting], limit)
        for i, answer in zip(waiting, found):
            answers[i] = answer
        rest, waiting = waiting[len(found):], []
        for i in rest:
            if cases[i].part == cases[rest[0]].part:
                answers[i] = {"error": problem}
            else:
                waiting.append(i)
    return answers


def run_child(exercise, scripts: dict[str, str], cases: list, limit: float) -> tuple[list[dict], str]:
    """The answers that came, in the order of cases, and why there are no more."""
    nonce = secrets.token_hex(16)
    job = {"exercise": exercise.__name__, "scripts": scripts, "cases": cases, "nonce": nonce}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        process = subprocess.Popen([sys.executable, "-m", "data.course.child"], cwd=work, env=environment,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        records = queue.Queue()
        threading.Thread(target=read_records, args=(process.stdout, nonce, records), daemon=True).start()
        try:
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
        except OSError:                              # it has ended already: the queue will say so
            pass
        found = collect(records, len(cases), limit)
        process.kill()
        process.wait()
    return found


def read_records(stream, nonce: str, records: queue.Queue) -> None:
    """In a thread: what the child tells, then None. Other lines are noise of the student's."""
    for line in iter(lambda: stream.readline(LONGEST), b""):
        if line.startswith(nonce.encode()):
            records.put(json.loads(line.removeprefix(nonce.encode())))
    records.put(None)


def collect(records: queue.Queue, most: int, limit: float) -> tuple[list[dict], str]:
    answers = []
    wait = START                                     # until the child tells something; then a part has its limit
    while len(answers) < most:
        try:
            record = records.get(timeout=wait)
        except queue.Empty:
            return answers, f"no result after {limit:g} seconds: does a loop never end?"
        if record is None:
            return answers, "the process ended before there was a result"
        wait = limit
        if record:                                   # {}: everything is imported
            answers.append(record)
    return answers, ""
