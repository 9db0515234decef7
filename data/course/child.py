"""Computes what a student's functions give for some inputs. Nothing here knows what is right.

    python -m data.course.child        a job as JSON on its standard input, see running.py

It runs the reference with the targets of one exercise, and what the student has added for them, put in their place.
Each output goes to a file as soon as it is there, so a crash costs what comes after it and nothing before.
"""
import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Iterator

from data.course import reference, sources
from data.course.exercises import Wrong

MOST_PRINTED = 2_000        # characters a case
MOST_ELEMENTS = 200_000     # of an output


class Notebook(io.StringIO):
    """Keeps the beginning of what is printed."""

    def write(self, text):
        room = MOST_PRINTED - self.tell()
        if room > 0:
            super().write(text[:room])
        return len(text)


# ------------------------------------------------------------------------------------------------------------
# Outputs as JSON, each with its kind: 1, 1.0, True and a tensor are not the same

def encode(value) -> list:
    """[kind, content]. Kinds: None, bool, int, float, str, list, tuple, dict, tensor; other names its type."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return [kind.__name__, kind(value)]
    if value is None:
        return ["None", None]
    if type(value) in (list, tuple):
        refuse_large(len(value))
        return [type(value).__name__, [encode(part) for part in value]]
    if type(value) is dict:
        refuse_large(len(value))
        return ["dict", [[encode(key), encode(part)] for key, part in value.items()]]
    torch = sys.modules.get("torch")                 # where nobody has imported it there are no tensors
    if torch is not None and isinstance(value, torch.Tensor):
        refuse_large(value.numel())
        dtype = str(value.dtype).removeprefix("torch.")
        return ["tensor", [dtype, list(value.shape), value.detach().double().flatten().tolist()]]
    return ["other", type(value).__name__]


def refuse_large(elements: int) -> None:
    if elements > MOST_ELEMENTS:
        raise Wrong(f"the result has {elements:,} elements")


# ------------------------------------------------------------------------------------------------------------
# In their place

@contextlib.contextmanager
def in_place(targets: list[str], scripts: dict[str, str]) -> Iterator[None]:
    """Inside, the reference's modules have a student's targets. scripts: name -> the student's text of it."""
    trees, modules = {}, {}
    for script, text in scripts.items():
        trees[script], _ = sources.parse(text)
        modules[script] = importlib.import_module(script)
    kept = []
    for script in reference.SCRIPTS:
        if script in sys.modules:
            kept.append((vars(sys.modules[script]), dict(vars(sys.modules[script]))))
    attributes = []
    try:
        for script, tree in trees.items():
            namespace = vars(modules[script])
            paths = [path for owner, path in map(sources.split_target, targets) if owner == script]
            nodes = [sources.find(tree, path) for path in paths]
            helpers = sources.find_helpers(tree, [node for node in nodes if node], set(namespace))
            sources.run_nodes(helpers, namespace, f"{script}.py")
            for path, node in zip(paths, nodes):
                *owners, name = path.split(".")
                for owner in owners:
                    attributes.append((namespace[owner], name, vars(namespace[owner])[name]))
                before = namespace.get(path)
                if node is None:
                    raise Wrong(f"{script}.py has no {path}")
                sources.define(node, path, namespace, f"{script}.py")
                replace_imported(before, namespace.get(path))
        yield
    finally:
        for namespace, before in kept:
            namespace.clear()
            namespace.update(before)
        for owner, name, before in attributes:
            setattr(owner, name, before)


def replace_imported(before, after) -> None:
    """Where another script has imported a function by name, it has the new one, too."""
    for script in reference.SCRIPTS:
        names = vars(sys.modules.get(script, object))
        for name, value in list(names.items()):
            if before is not None and value is before:
                setattr(sys.modules[script], name, after)


# ------------------------------------------------------------------------------------------------------------
# Answers: {"value": encoded} or {"error": text}, and what was printed

def answer_cases(exercise, scripts: dict[str, str], cases: list) -> Iterator[dict]:
    """An answer to each case, in order."""
    failure = None
    done = 0
    try:
        with in_place(exercise.TARGETS, scripts):
            for case in cases:
                yield answer(exercise, case)
                done += 1
    except GeneratorExit:
        raise
    except BaseException as error:                   # before any case: the student's functions could not be made
        failure = {"error": describe_error(error)}
    for _ in cases[done:]:
        yield failure


def answer(exercise, case) -> dict:
    printed = Notebook()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            given = json.loads(json.dumps(case.given))       # a copy: nobody can change another case's
            found = {"value": encode(exercise.run(given))}
        except BaseException as error:               # SystemExit is no way out, nor KeyboardInterrupt
            found = {"error": describe_error(error)}
    if printed.getvalue():
        found["printed"] = printed.getvalue()
    return found


def describe_error(error: BaseException) -> str:
    """What went wrong and where in the student's file."""
    if isinstance(error, Wrong):
        return str(error)
    place = ""
    at = error.__traceback__
    while at is not None:
        filename = at.tb_frame.f_code.co_filename
        if filename in [f"{script}.py" for script in reference.SCRIPTS]:
            place = f" ({filename}, line {at.tb_lineno})"
        at = at.tb_next
    if isinstance(error, NotImplementedError):
        return f"not written yet{place}"
    return f"{type(error).__name__}: {str(error)[:300]}{place}"


# ------------------------------------------------------------------------------------------------------------
# The process

def main() -> None:
    from data.course.exercises import Case

    job = json.loads(sys.stdin.buffer.read())
    reference.take_scripts_from_archive()
    exercise = importlib.import_module(job["exercise"])
    for script in job["scripts"]:
        importlib.import_module(script)
    cases = [Case(*case) for case in job["cases"]]
    with open(job["results"], "a", encoding="utf-8") as file:
        write(file, job["nonce"], {"begins": "imported"})
        part = None
        answers = answer_cases(exercise, job["scripts"], cases)
        for i, case in enumerate(cases):
            if case.part != part:
                part = case.part
                write(file, job["nonce"], {"begins": part})
            write(file, job["nonce"], {"case": i, **next(answers)})
    os._exit(0)                                      # whatever threads there may be


def write(file, nonce: str, record: dict) -> None:
    try:
        line = json.dumps(record)
    except (ValueError, RecursionError):
        line = json.dumps({"case": record["case"], "error": "the result can't be written down"})
    file.write(f"{nonce} {line}\n")
    file.flush()


if __name__ == "__main__":
    main()
