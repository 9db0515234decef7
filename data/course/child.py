"""Computes what a student's functions give for some inputs. Nothing here knows what is right.

    python -m data.course.child        a job as JSON on its standard input, see running.py

It runs the reference with the targets of one exercise, and what the student has added to their scripts, put in their
place. Each output is told as soon as it is there, so a crash costs what comes after it and nothing before.
"""
import ast
import contextlib
import copy
import importlib
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator

from data.course import reference, sources
from data.course.exercises import Case, Wrong

MOST_PRINTED = 2_000        # characters a case
MOST_ELEMENTS = 200_000     # of an output


class Notebook(io.StringIO):
    """Keeps the beginning of what is printed."""

    def write(self, text):
        super().write(text[:max(0, MOST_PRINTED - self.tell())])
        return len(text)


# ------------------------------------------------------------------------------------------------------------
# Outputs as a flat list, which JSON holds, and which keeps 1, 1.0 and True apart

def flatten(value, name: str = "result") -> list[tuple]:
    """[(name, kind, content), ...]: of a container its kind says how many parts it has, and its parts follow."""
    kind, content, parts = f"{type(value).__name__} object", None, {}
    if type(value).__name__ == "Tensor":             # by its name: some exercises need no torch
        refuse_large(value.numel())
        kind = f"tensor of {value.dtype} and shape {list(value.shape)}"
        parts = {name: value.tolist()}
    elif type(value) is dict:
        kind = f"dict with the keys {sorted(value)}"
        parts = dict(sorted(value.items()))          # by the names that `run` gives its outputs
    elif type(value) in (list, tuple):
        refuse_large(len(value))
        kind = f"{type(value).__name__} of {len(value)} elements"
        parts = {f"{name}[{i}]": part for i, part in enumerate(value)}
    elif isinstance(value, float):                   # also numpy's float64, which is one
        kind, content = "float", float(value)
    elif value is None or type(value) in (bool, int, str):
        kind, content = type(value).__name__, value
    flat = [(name, kind, content)]
    for part in parts:
        flat += flatten(parts[part], part)
    return flat


def refuse_large(elements: int) -> None:
    if elements > MOST_ELEMENTS:
        raise Wrong(f"the result has {elements:,} elements")


# ------------------------------------------------------------------------------------------------------------
# Answers: {"value": a flat list} or {"error": text}, and what was printed

def answer_cases(exercise, scripts: dict[str, str], cases: list) -> Iterator[dict]:
    """An answer to each case, in order, with a student's targets in the place of the reference's.

    scripts: name -> the student's text of it. Whoever takes one answer should take all: then the modules are again
    what they were.
    """
    kept = {}
    for script in scripts:
        kept[script] = dict(vars(importlib.import_module(script)))
    problem = ""
    try:
        put_in_place(exercise.TARGETS, scripts)
    except BaseException as error:                   # the student's functions could not even be made
        problem = describe_error(error)
    for case in cases:
        if problem:
            yield {"error": problem}
        else:
            yield answer(exercise, case)
    for script, names in kept.items():
        vars(sys.modules[script]).clear()
        vars(sys.modules[script]).update(names)


def put_in_place(targets: list[str], scripts: dict[str, str]) -> None:
    for script, text in scripts.items():
        namespace = vars(sys.modules[script])
        for target in targets:
            namespace.pop(target.removeprefix(f"{script}."), None)
        own = sources.choose_own(ast.parse(text, f"{script}.py"), set(namespace))
        sources.run_nodes(own, namespace, f"{script}.py")


def answer(exercise, case) -> dict:
    printed = Notebook()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            found = {"value": flatten(exercise.run(copy.deepcopy(case.given)))}      # nobody can change another case's
            json.dumps(found)                        # fails where a number has too many digits
        except BaseException as error:               # SystemExit is no way out, nor KeyboardInterrupt
            found = {"error": describe_error(error)}
    return {**found, "printed": printed.getvalue()}


def describe_error(error: BaseException) -> str:
    """What went wrong and where in the student's file."""
    if isinstance(error, Wrong):
        return str(error)
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.removesuffix(".py") in reference.SCRIPTS:
            place = f" ({frame.filename}, line {frame.lineno})"
    return f"{type(error).__name__}: {str(error)[:300]}{place}"


# ------------------------------------------------------------------------------------------------------------
# The process

def main() -> None:
    """A line for each answer, on a copy of standard output: the student's code may close the first one."""
    job = json.loads(sys.stdin.buffer.read())
    pipe = os.fdopen(os.dup(1), "w")

    def tell(record: dict) -> None:
        pipe.write(f"\n{job['nonce']}{json.dumps(record)}\n")
        pipe.flush()

    reference.take_scripts_from_archive()
    exercise = importlib.import_module(job["exercise"])
    for script in job["scripts"]:
        importlib.import_module(script)
    tell({})
    for record in answer_cases(exercise, job["scripts"], [Case(*case) for case in job["cases"]]):
        tell(record)
    os._exit(0)                                      # whatever threads there may be


if __name__ == "__main__":
    main()
