"""A student's copy, made from the reference itself, so that it can't drift from it; and its update."""
import ast
import shutil
import zipfile
from pathlib import Path

from data import UserError
from data.course import reference, sources
from data.course.filling import LINE, add_line
from data.course.terminal import get_exercise, read_state, write_state
from data.formats.files import atomic_write

# Of data/.
LEFT_OUT = shutil.ignore_patterns("results", "examples", "make_tiny.py", "e[0-9]*.py", "grading.py", "making.py",
                                  "*.md", "mutants.json", "measured.json", "__pycache__")

INTRODUCTION = """# The method, by hand

Two language models learn to work together: one writes a plan, the other solves the problem by it, and reinforcement
learning trains them in turn (ReMA, [arXiv 2503.09501](https://arxiv.org/abs/2503.09501)). You have the six scripts of
a small implementation. Some functions are missing, and you write them.

```
pip install -r requirements.txt
python -m data.course              what there is to do, and how far you are
python -m data.course check 3      points for exercise 3, and what is wrong
python -m data.course hint 3       a hint; ask again for the next one, there are three
python -m data.course compare 3    our solution beside yours, once yours is right
python -m data.course reveal 3     our solution before that; the exercise then counts 0 points
python -m data.course pack         the file to hand in
python train.py                    train the two agents, 3 minutes; what you have not written yet comes from us
```

**How to work.** A missing function stands in its script with its signature and its docstring, and raises
NotImplementedError. The docstring says exactly what it has to do. Write it there, with as many helpers beside it as you
like. Every exercise is checked by itself, with our code around yours, so order is free and one mistake costs one
exercise (but a script that Python can't read costs all that are in it). What counts are the missing functions and what
you add to the same script (functions, classes, constants, imports of installed packages); changes to other functions
are ignored. What a function prints is shown where it is wrong.

**How it is checked.** Your function gets numbers, and what it returns is compared with what is due, to nine digits.
An exercise has parts, and each part that is right has its points. Grading runs the same checks with other numbers.
Types count: True is not 1.0, and a tensor is no list. Each case has ten seconds, so a loop that
never ends takes that long for each part that meets it.

| | exercise | functions | points | minutes |
|---|---|---|---|---|
{table}
| | together | | {points} | {minutes} |
"""


# ------------------------------------------------------------------------------------------------------------
# Making

def make(directory: Path, student: str, only: list[int], update: bool) -> None:
    """only: numbers of exercises; none: all. With update: those that the copy gets besides its own; none: no others.

    UserError if there is something in the directory already, and nothing is to be updated.
    """
    if update:
        return bring_up_to_date(directory, only)
    if any(directory.glob("*")):
        raise UserError(f"{directory} is not empty: name another directory, or bring it up to date with --update")
    numbers = list(reference.load_exercises(only))
    for script, text in cut_scripts(numbers).items():
        atomic_write(directory / f"{script}.py", text)
    write_rest(directory, {"student": student, "exercises": numbers, "earned": {}, "hints": {}, "revealed": []})


def cut_scripts(numbers: list[int]) -> dict[str, str]:
    """The six scripts without the functions of these exercises."""
    scripts = {script: add_line(reference.read_text(f"{script}.py")) for script in reference.SCRIPTS}
    for number in numbers:
        body = f'raise NotImplementedError("exercise {number}")'
        for target in get_exercise(number).TARGETS:
            script, name = target.split(".")
            scripts[script] = sources.replace_body(scripts[script], name, body)
    return scripts


def write_rest(directory: Path, state: dict) -> None:
    """All but the six scripts: what an update replaces."""
    state["version"] = reference.compute_version()
    shutil.copytree(reference.ROOT / "data", directory / "data", ignore=LEFT_OUT, dirs_exist_ok=True)
    for file in ("requirements.txt", "LICENSE"):
        shutil.copy(reference.ROOT / file, directory / file)
    with zipfile.ZipFile(directory / "data/course/reference.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in reference.list_files(state["exercises"]):
            archive.writestr(file, reference.read_text(file))
    atomic_write(directory / "README.md", write_handout(state["exercises"]))
    write_state(directory, state)
    print(f"{directory}: exercises {state['exercises']} of reference {state['version']}; its README.md is the handout")


def write_handout(numbers: list[int]) -> str:
    rows, texts, points, minutes = [], [], 0, 0
    for number, exercise in reference.load_exercises(numbers).items():
        worth = sum(exercise.PARTS.values())
        targets = ", ".join(f"`{target}`" for target in exercise.TARGETS)
        parts = ", ".join(f"{part} {worth}" for part, worth in exercise.PARTS.items())
        rows.append(f"| {number} | {exercise.TITLE} | {targets} | {worth} | {exercise.MINUTES} |")
        texts.append(f"\n## {number}. {exercise.TITLE.capitalize()}\n\nWrite {targets}.\n"
                     f"About {exercise.MINUTES} minutes, {worth} points: {parts}.\n\n{exercise.TEXT.strip()}\n")
        points += worth
        minutes += exercise.MINUTES
    return INTRODUCTION.format(table="\n".join(rows), points=points, minutes=minutes) + "".join(texts)


# ------------------------------------------------------------------------------------------------------------
# Update: the new reference, with what the student has written

def bring_up_to_date(directory: Path, only: list[int]) -> None:
    """The old scripts stay beside the new ones, under the version that they were made with."""
    state = read_state(directory)
    own = [target for number in state["exercises"] for target in get_exercise(number).TARGETS]
    state["exercises"] = sorted({*state["exercises"], *only})
    new = {}
    for script, text in cut_scripts(state["exercises"]).items():
        path = directory / f"{script}.py"
        new[path] = carry_over(path, text, own)
    for path, text in new.items():
        shutil.copy(path, f"{path}.{state['version']}")
        atomic_write(path, text)
    write_rest(directory, state)


def carry_over(path: Path, new: str, own: list[str]) -> str:
    """The new text of a script, with the student's functions and what else the student has added to it.

    own: the targets that were the student's to write. (Of others the old script holds our solution.)
    """
    old = path.read_text(encoding="utf-8")
    tree, fresh = ast.parse(old, path.name), ast.parse(new)
    added = ""
    for node in sources.choose_own(tree, sources.get_names(fresh.body)):
        added += sources.get_lines(old, node) + "\n\n"
    for node in sources.list_unsolved(fresh):
        source = stub = sources.get_source(new, node.name)
        if f"{path.stem}.{node.name}" in own and not sources.is_unsolved(sources.find(tree, node.name)):
            source = sources.get_source(old, node.name)
        new = new.replace(stub, added + source)
        added = ""
    return new.replace(LINE, added + LINE)           # where no function is missing
