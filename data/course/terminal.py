"""What a student does in a copy: the table, check, hint, reveal, compare, pack."""
import io
import zipfile
from pathlib import Path

from data import UserError
from data.course import judging, reference, sources
from data.course.reference import ROOT
from data.course.state import NAME, read_state, write_state
from data.formats.files import atomic_write

WIDTH = 16                  # of a bar


def get_exercise(state: dict, number: int):
    """UserError if this copy does not have it."""
    if number not in state["exercises"]:
        raise UserError(f"there is no exercise {number} here: there are {', '.join(map(str, state['exercises']))}")
    return reference.load_exercises()[number]


def read_scripts(directory: Path) -> dict[str, str]:
    """The student's scripts, as far as they are there."""
    scripts = {}
    for script in reference.SCRIPTS:
        path = directory / f"{script}.py"
        if path.exists():
            scripts[script] = path.read_text(encoding="utf-8", errors="replace")
    return scripts


# ------------------------------------------------------------------------------------------------------------
# How far

def show_table() -> None:
    state = read_state(ROOT)
    total, most, next_one = 0, 0, None
    print(f"{state['student']}, reference {state['version']}".lstrip(", "))
    for number in state["exercises"]:
        exercise = get_exercise(state, number)
        points = count_points(state, number)
        worth = sum(exercise.PARTS.values())
        filled = WIDTH * points // worth
        bar = "#" * filled + "-" * (WIDTH - filled)
        line = f"{number:3}  {exercise.TITLE:34} [{bar}] {points:3} of {worth:2}  {exercise.MINUTES:3} min"
        if number in state["revealed"]:
            line += "  revealed"
        print(line)
        total += points
        most += worth
        if next_one is None and points < worth and number not in state["revealed"]:
            next_one = number
    print(f"{total} of {most} points")
    if next_one is None:
        print("all done: python -m data.course pack")
    else:
        exercise = get_exercise(state, next_one)
        print(f"next: {next_one}, {', '.join(exercise.TARGETS)}, about {exercise.MINUTES} minutes; "
              f"its text is in README.md, then: python -m data.course check {next_one}")


def count_points(state: dict, number: int) -> int:
    if number in state["revealed"]:
        return 0
    return sum(state["earned"].get(str(number), {}).values())


# ------------------------------------------------------------------------------------------------------------
# Checking

def check(number: int | None) -> bool:
    """One exercise, or all -> whether everything that was checked is right."""
    state = read_state(ROOT)
    numbers = state["exercises"]
    if number is not None:
        numbers = [number]
    right = True
    for number in numbers:
        exercise = get_exercise(state, number)
        verdict = judging.check(exercise, read_scripts(ROOT))
        show_verdict(number, exercise, verdict)
        if number in state["revealed"]:
            print("  revealed: it counts 0 points")
        state["earned"][str(number)] = verdict.earned
        write_state(ROOT, state)
        right = right and not verdict.messages
    return right


def show_verdict(number: int, exercise, verdict: judging.Verdict) -> None:
    print(f"{number}. {exercise.TITLE}: {verdict.points} of {sum(exercise.PARTS.values())} points")
    shown = set()
    for part, worth in exercise.PARTS.items():
        message = verdict.messages.get(part, "right")
        if message in shown:
            message = "the same"
        elif message != "right":
            shown.add(message)
        indented = make_harmless(message).replace("\n", "\n" + " " * 33)
        print(f"  {part:22} {verdict.earned[part]:2} of {worth:2}  {indented}")
    for note in verdict.notes:
        print(f"  note: {note}")


def make_harmless(text: str) -> str:
    """A student's own prints could steer the terminal."""
    return "".join(sign for sign in text if sign.isprintable() or sign == "\n")


# ------------------------------------------------------------------------------------------------------------
# Help

def hint(number: int) -> None:
    """The next hint, behind those that were asked for before."""
    state = read_state(ROOT)
    exercise = get_exercise(state, number)
    shown = min(state["hints"].get(str(number), 0) + 1, len(exercise.HINTS))
    state["hints"][str(number)] = shown
    write_state(ROOT, state)
    for i, text in enumerate(exercise.HINTS[:shown]):
        print(f"hint {i + 1} of {len(exercise.HINTS)}: {text}")


def reveal(number: int) -> None:
    state = read_state(ROOT)
    exercise = get_exercise(state, number)
    if number not in state["revealed"]:
        answer = input(f"This shows our solution of exercise {number}, which from then on counts 0 points. Type yes: ")
        if answer.strip().lower() != "yes":
            print("nothing was shown")
            return
        state["revealed"].append(number)
        write_state(ROOT, state)
    for target in exercise.TARGETS:
        print(show_source(reference.read_script, target))


def compare(number: int) -> None:
    """UserError unless it was solved, or revealed."""
    state = read_state(ROOT)
    exercise = get_exercise(state, number)
    if number not in state["revealed"] and count_points(state, number) < sum(exercise.PARTS.values()):
        raise UserError(f"exercise {number} is not solved yet, as last checked: python -m data.course check {number}")
    own = read_scripts(ROOT)
    for target in exercise.TARGETS:
        print(f"--- yours\n{show_source(own.get, target)}\n--- ours\n{show_source(reference.read_script, target)}")


def show_source(read, target: str) -> str:
    script, path = sources.split_target(target)
    return sources.get_source(read(script), path)


# ------------------------------------------------------------------------------------------------------------
# Handing in

def pack() -> None:
    """The six scripts and course.json, in one zip."""
    state = read_state(ROOT)
    contents = io.BytesIO()
    with zipfile.ZipFile(contents, "w", zipfile.ZIP_DEFLATED) as archive:
        for script in reference.SCRIPTS:
            archive.write(ROOT / f"{script}.py", f"{script}.py")
        archive.write(ROOT / NAME, NAME)
    student = "".join(sign for sign in state["student"] if sign.isalnum() or sign in " -_").strip()
    path = ROOT / f"{student.replace(' ', '-') or 'course'}.zip"
    atomic_write(path, contents.getvalue())
    points = sum(count_points(state, number) for number in state["exercises"])
    print(f"{path.name}: {len(contents.getvalue()) / 1000:.0f} kB, reference {state['version']}, "
          f"{points} points as last checked")
