"""What a student does in a copy: the table, check, hint, reveal, compare, pack.

course.json, in the copy's root, says whose it is, which exercises it has, of which reference, and how far it has come.
"""
import itertools
import json
import shutil
import textwrap
import zipfile
from pathlib import Path
from types import ModuleType

from data import UserError
from data.course import judging, reference, sources
from data.course.reference import ROOT
from data.formats.files import atomic_write

STATE = "course.json"
LARGEST = 2_000_000         # bytes of a file in a copy


def read_file(copy: Path | zipfile.Path, name: str) -> str:
    with (copy / name).open("rb") as file:
        return file.read(LARGEST).decode(errors="replace")


def read_scripts(copy: Path | zipfile.Path) -> dict[str, str]:
    return {script: read_file(copy, f"{script}.py") for script in reference.SCRIPTS}


def read_state(copy: Path | zipfile.Path) -> dict:
    """UserError where there is no student's copy."""
    if not (copy / STATE).exists():
        raise UserError(f"{copy} is no student's copy: python -m data.course make DIR makes one")
    return json.loads(read_file(copy, STATE))


def write_state(directory: Path, state: dict) -> None:
    atomic_write(directory / STATE, json.dumps(state, indent=1) + "\n")


def get_exercise(number: int) -> ModuleType:
    return reference.load_exercises([number])[number]


def count_points(state: dict, number: int) -> int:
    """As last checked."""
    if number in state["revealed"]:
        return 0
    return state["earned"].get(str(number), 0)


# ------------------------------------------------------------------------------------------------------------
# How far

def show_table() -> None:
    state = read_state(ROOT)
    total, most, following = 0, 0, ""
    print("reference", state["version"], state["student"])
    for number, exercise in reference.load_exercises().items():
        points, worth = count_points(state, number), sum(exercise.PARTS.values())
        bar = ("#" * (16 * points // worth)).ljust(16, "-")
        note = ""
        if number in state["revealed"]:
            note = "  revealed"
        elif points < worth and not following:
            following = f"next: exercise {number} in README.md, then: python -m data.course check {number}"
        print(f"{number:3}  {exercise.TITLE:34} [{bar}] {points:3} of {worth:2}  {exercise.MINUTES:3} min{note}")
        total += points
        most += worth
    print(f"{total} of {most} points\n{following or 'all done: python -m data.course pack'}")


# ------------------------------------------------------------------------------------------------------------
# Checking

def check(numbers: list[int]) -> bool:
    """These exercises, or all -> whether everything that was checked is right."""
    state = read_state(ROOT)
    right = True
    for number, exercise in reference.load_exercises(numbers).items():
        messages = judging.check(exercise, read_scripts(ROOT))
        points = judging.count_points(exercise, messages)
        print(f"{number}. {exercise.TITLE}: {points} of {sum(exercise.PARTS.values())} points")
        said = ""
        for part, worth in exercise.PARTS.items():
            message = messages.get(part, "")
            print(f"  {part:30} {0 if message else worth} of {worth}")
            if message and message != said:
                print(textwrap.indent(message, "      "))
            said = message
        state["earned"][str(number)] = points
        write_state(ROOT, state)
        right = right and not messages
    return right


# ------------------------------------------------------------------------------------------------------------
# Help

def hint(number: int) -> None:
    """The next hint, behind those that were asked for before."""
    state = read_state(ROOT)
    hints = get_exercise(number).HINTS
    shown = min(state["hints"].get(str(number), 0) + 1, len(hints))
    state["hints"][str(number)] = shown
    write_state(ROOT, state)
    for i in range(shown):
        print(f"hint {i + 1} of {len(hints)}: {hints[i]}")


def reveal(number: int) -> None:
    state = read_state(ROOT)
    exercise = get_exercise(number)
    if number not in state["revealed"]:
        answer = input(f"This shows our solution of exercise {number}, which from then on counts 0 points. Type yes: ")
        if answer != "yes":
            return
        state["revealed"].append(number)
        write_state(ROOT, state)
    for target in exercise.TARGETS:
        print(reference.read_source(target))


def compare(number: int) -> None:
    """UserError unless it was solved, or revealed."""
    state = read_state(ROOT)
    exercise = get_exercise(number)
    if number not in state["revealed"] and count_points(state, number) < sum(exercise.PARTS.values()):
        raise UserError(f"exercise {number} is not solved yet, as last checked: python -m data.course check {number}")
    for target in exercise.TARGETS:
        script, name = target.split(".")
        show_beside(sources.get_source(read_file(ROOT, f"{script}.py"), name), reference.read_source(target))


def show_beside(yours: str, ours: str) -> None:
    """In two columns where the terminal is wide enough, else one under the other."""
    columns = shutil.get_terminal_size().columns
    if columns < 100:
        print(f"--- yours\n{yours}\n--- ours\n{ours}")
        return
    width = (columns - 3) // 2
    left, right = wrap(f"--- yours\n{yours}", width), wrap(f"--- ours\n{ours}", width)
    for one, other in itertools.zip_longest(left, right, fillvalue=""):
        print(f"{one:{width}} | {other}".rstrip())


def wrap(text: str, width: int) -> list[str]:
    """Its lines, those that are longer in pieces."""
    lines = []
    for line in text.splitlines():
        lines += textwrap.wrap(line, width) or [""]
    return lines


# ------------------------------------------------------------------------------------------------------------
# Handing in

def pack() -> None:
    """The six scripts and course.json, in one zip."""
    state = read_state(ROOT)
    path = ROOT / f"{Path(state['student']).name or 'course'}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [f"{script}.py" for script in reference.SCRIPTS] + [STATE]:
            archive.write(ROOT / name, name)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, reference {state['version']}")
