"""A student's copy, made from the reference itself, so that it can't drift from it; and its update."""
import ast
import shutil
from pathlib import Path
from types import ModuleType

from data import UserError
from data.course import reference, sources
from data.course.filling import add_line
from data.course.state import read_state, write_state
from data.formats.files import atomic_write

ROOMS = ("answers", "extensions", "formats", "problems", "tiny", "views")
RUNNER = ("__init__", "__main__", "reference", "sources", "filling", "child", "running", "judging", "terminal", "state",
          "exercises/__init__")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.md", "make_tiny.py")

INTRODUCTION = """# The method, by hand

Two language models learn to work together: one writes a plan, the other solves the problem by it, and reinforcement
learning trains them in turn (ReMA, [arXiv 2503.09501](https://arxiv.org/abs/2503.09501)). You have the six scripts of
a small implementation. {functions} functions are missing, and you write them.

```
pip install -r requirements.txt
python -m data.course              what there is to do, and how far you are
python -m data.course check 3      points for exercise 3, and what is wrong
python -m data.course hint 3       a hint; ask again for the next one, there are three
python -m data.course compare 3    our solution under yours, once yours is right
python -m data.course reveal 3     our solution before that; the exercise then counts 0 points
python -m data.course pack         the file to hand in
python train.py                    train the two agents, 3 minutes; what you have not written yet comes from us
```

**How to work.** A missing function stands in its script with its signature and its docstring, and raises
NotImplementedError. The docstring says exactly what it has to do. Write it there, with as many helpers beside it as you
like. Every exercise is checked by itself, with our code around yours, so order is free and one mistake costs one
exercise. What counts are the missing functions and what you add to the same script for them (functions, classes,
constants, imports of installed packages); changes to other functions are ignored.

**How it is checked.** Your function gets numbers, and what it returns is compared with what is due, to nine digits.
An exercise has parts, and each part that is right has its points. Grading runs the same checks with other numbers.
Types count: True is not 1.0, and a tensor is no list. A part has ten seconds.

| | exercise | functions | points | minutes |
|---|---|---|---|---|
{table}
| | together | | {points} | {minutes} |
"""


# ------------------------------------------------------------------------------------------------------------
# Making

def make(directory: Path, student: str, numbers: list[int]) -> None:
    """UserError if there is something in the directory already."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is not empty: name another directory, or bring it up to date with --update")
    write_reference(directory, numbers)
    for script, text in cut_scripts(numbers).items():
        atomic_write(directory / f"{script}.py", text)
    write_state(directory, {"student": student, "exercises": numbers, "version": get_version()})


def get_version() -> str:
    return reference.compute_version(reference.read_texts())


def cut_scripts(numbers: list[int]) -> dict[str, str]:
    """The six scripts without the functions of these exercises."""
    scripts = {script: reference.read_script(script) for script in reference.SCRIPTS}
    for number, exercise in choose(numbers).items():
        docstrings = getattr(exercise, "DOCSTRINGS", {})
        for target in exercise.TARGETS:
            script, path = sources.split_target(target)
            scripts[script] = sources.cut_out(scripts[script], path, number, docstrings.get(target))
    return {script: add_line(text) for script, text in scripts.items()}


def choose(numbers: list[int]) -> dict[int, ModuleType]:
    """UserError for a number that no exercise has."""
    exercises = reference.load_exercises()
    for number in numbers:
        if number not in exercises:
            raise UserError(f"there is no exercise {number}: there are {', '.join(map(str, exercises))}")
    return {number: exercises[number] for number in sorted(numbers)}


def write_reference(directory: Path, numbers: list[int]) -> None:
    """All but the six scripts and the state: what an update replaces."""
    root = reference.ROOT
    for room in ROOMS:
        shutil.copytree(root / "data" / room, directory / "data" / room, ignore=LEFT_OUT, dirs_exist_ok=True)
    files = ["data/__init__.py", "requirements.txt", "LICENSE"]
    files += [f"data/course/{module}.py" for module in RUNNER]
    for file in files:
        atomic_write(directory / file, (root / file).read_bytes())
    atomic_write(directory / "data/course/reference.bin", reference.pack_texts(reference.read_texts()))
    atomic_write(directory / "README.md", write_handout(numbers))


def write_handout(numbers: list[int]) -> str:
    exercises = choose(numbers)
    rows, texts, functions = [], [], 0
    for number, exercise in exercises.items():
        points = sum(exercise.PARTS.values())
        targets = ", ".join(f"`{target}`" for target in exercise.TARGETS)
        parts = ", ".join(f"{part} {worth}" for part, worth in exercise.PARTS.items())
        rows.append(f"| {number} | {exercise.TITLE} | {targets} | {points} | {exercise.MINUTES} |")
        texts.append(f"\n## {number}. {exercise.TITLE.capitalize()}\n\nWrite {targets}. About {exercise.MINUTES} minutes, "
                     f"{points} points: {parts}.\n\n{exercise.TEXT.strip()}\n")
        functions += len(exercise.TARGETS)
    points = sum(sum(exercise.PARTS.values()) for exercise in exercises.values())
    minutes = sum(exercise.MINUTES for exercise in exercises.values())
    head = INTRODUCTION.format(functions=functions, table="\n".join(rows), points=points, minutes=minutes)
    return head + "".join(texts)


# ------------------------------------------------------------------------------------------------------------
# Update: the new reference, with what the student has written

def update(directory: Path) -> list[str]:
    """What there is to say: of functions whose specification has changed. The old scripts stay as NAME.py.before."""
    state = read_state(directory)
    old, trees = {}, {}
    for script in reference.SCRIPTS:
        path = directory / f"{script}.py"
        old[script] = path.read_text(encoding="utf-8")
        trees[script], problem = sources.parse(old[script])
        if problem:
            raise UserError(f"{path}, {problem}: mend that first, nothing was changed")
    numbers = state["exercises"]
    messages = []
    for script, text in cut_scripts(numbers).items():
        new, said = carry_over(script, old[script], trees[script], text, numbers)
        messages += said
        atomic_write(directory / f"{script}.py.before", old[script])
        atomic_write(directory / f"{script}.py", new)
    write_reference(directory, numbers)
    write_state(directory, {**state, "version": get_version()})
    return messages


def carry_over(script: str, old: str, tree: ast.Module, new: str, numbers: list[int]) -> tuple[str, list[str]]:
    """The new text of a script with the student's functions and helpers of the old one."""
    messages, nodes = [], []
    first = None                                     # helpers go before the first function that was written
    for exercise in choose(numbers).values():
        for target in exercise.TARGETS:
            owner, path = sources.split_target(target)
            node = sources.find(tree, path)
            if owner != script or sources.is_unsolved(node):
                continue
            theirs = ast.get_docstring(node)
            ours = ast.get_docstring(sources.find(ast.parse(new), path))
            if theirs != ours:
                messages.append(f"{target}: what it has to do reads otherwise than in your file:\n{ours}")
            nodes.append(node)
            new = sources.replace_function(new, path, sources.get_source(old, path))
            first = first or path.split(".")[0]
    known = set()
    for node in ast.parse(new).body:
        known |= sources.get_names(node)
    helpers = ""
    for node in sources.find_helpers(tree, nodes, known):
        helpers += sources.get_lines(old, node) + "\n\n"
    if helpers:
        line = sources.get_first_line(sources.find(ast.parse(new), first))
        new = sources.replace_lines(new, line, line - 1, helpers)
    return new, messages
