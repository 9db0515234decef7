"""Computes what a student's functions give for some inputs. Nothing here knows what is right.

    python -m data.course.child        a job as JSON on its standard input, see running.py

It runs the reference with the targets of one exercise, and what the student has added for them, put in their place.
Each output is told as soon as it is there, so a crash costs what comes after it and nothing before.
"""
import contextlib
import importlib
import io
import itertools
import json
import os
import sys
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
# Outputs as JSON, which keeps 1, 1.0 and true apart

def encode(value):
    """Numbers, strings, None and lists as they are, everything else as {its kind: what it holds}."""
    if isinstance(value, float):                     # also numpy's float64, which is one
        return float(value)
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) in (list, tuple, dict):
        refuse_large(len(value))
    if type(value) is list:
        return [encode(part) for part in value]
    if type(value) is tuple:
        return {"tuple": encode(list(value))}
    if type(value) is dict:
        return {"dict": [[str(key), encode(part)] for key, part in value.items()]}
    torch = sys.modules.get("torch")                 # where nobody has imported it there are no tensors
    if torch is not None and isinstance(value, torch.Tensor):
        refuse_large(value.numel())
        return {f"tensor of {value.dtype} and shape {list(value.shape)}": value.tolist()}
    return {f"{type(value).__module__}.{type(value).__name__}": None}


def refuse_large(elements: int) -> None:
    if elements > MOST_ELEMENTS:
        raise Wrong(f"the result has {elements:,} elements")


# ------------------------------------------------------------------------------------------------------------
# In their place

@contextlib.contextmanager
def in_place(targets: list[str], scripts: dict[str, str]) -> Iterator[None]:
    """Inside, the reference's modules have a student's targets. scripts: name -> the student's text of it."""
    for script in scripts:
        importlib.import_module(script)
    modules = [sys.modules[script] for script in reference.SCRIPTS if script in sys.modules]
    kept = [dict(vars(module)) for module in modules]
    methods = []
    try:
        for script, text in scripts.items():
            namespace = vars(sys.modules[script])
            tree, _ = sources.parse(text)
            functions = sources.find_targets(tree, script, targets)
            helpers = sources.find_helpers(tree, list(functions.values()), set(namespace))
            sources.run_nodes(helpers, namespace, f"{script}.py")
            for path, node in functions.items():
                if node is None:
                    raise Wrong(f"{script}.py has no {path}")
                before = namespace.get(path)         # of a function; a method stands in its class
                if before is None:
                    owner, name = path.split(".")
                    methods.append((namespace[owner], name, vars(namespace[owner])[name]))
                sources.define(node, path, namespace, f"{script}.py")
                if before is not None:
                    replace_imported(modules, before, namespace[path])
        yield
    finally:
        for module, names in zip(modules, kept):
            vars(module).clear()
            vars(module).update(names)
        for owner, name, before in methods:
            setattr(owner, name, before)


def replace_imported(modules: list, before, after) -> None:
    """Where another script has imported a function by its name, it has the new one, too."""
    for module in modules:
        for name, value in list(vars(module).items()):
            if value is before:
                setattr(module, name, after)


# ------------------------------------------------------------------------------------------------------------
# Answers: {"value": encoded} or {"error": text}, and what was printed

def answer_cases(exercise, scripts: dict[str, str], cases: list) -> Iterator[dict]:
    """An answer to each case, in order. Whoever takes them should take them all: the modules are changed meanwhile."""
    try:
        place = in_place(exercise.TARGETS, scripts)
        place.__enter__()
    except BaseException as error:                   # the student's functions could not even be made
        for _ in cases:
            yield {"error": describe_error(error)}
        return
    try:
        for case in cases:
            yield answer(exercise, case)
    finally:
        place.__exit__(None, None, None)


def answer(exercise, case) -> dict:
    printed = Notebook()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(Notebook()):
        try:
            given = json.loads(json.dumps(case.given))       # a copy: nobody can change another case's
            found = {"value": encode(exercise.run(given))}
            json.dumps(found)                        # fails where a number has too many digits, a list holds itself
        except BaseException as error:               # SystemExit is no way out, nor KeyboardInterrupt
            found = {"error": describe_error(error)}
    return {**found, "printed": printed.getvalue()}


def describe_error(error: BaseException) -> str:
    """What went wrong and where in the student's file."""
    if isinstance(error, Wrong):
        return str(error)
    place = ""
    at = error.__traceback__
    while at is not None:
        filename = at.tb_frame.f_code.co_filename
        if filename.removesuffix(".py") in reference.SCRIPTS:
            place = f" ({filename}, line {at.tb_lineno})"
        at = at.tb_next
    if isinstance(error, NotImplementedError):
        return f"not written yet{place}"
    return f"{type(error).__name__}: {str(error)[:300]}{place}"


# ------------------------------------------------------------------------------------------------------------
# The process

def main() -> None:
    """A line for each answer, on a copy of standard output: the student's code may close the first one."""
    job = json.loads(sys.stdin.buffer.read())
    pipe = os.fdopen(os.dup(1), "w")
    reference.take_scripts_from_archive()
    exercise = importlib.import_module(job["exercise"])
    for script in job["scripts"]:
        importlib.import_module(script)
    cases = [Case(*case) for case in job["cases"]]
    for record in itertools.chain([{}], answer_cases(exercise, job["scripts"], cases)):
        pipe.write(f"\n{job['nonce']}{json.dumps(record)}\n")
        pipe.flush()
    os._exit(0)                                      # whatever threads there may be


if __name__ == "__main__":
    main()
