"""Grades submissions: the same checks as a student's, with other seeds."""
import io
import zipfile
from csv import DictWriter
from pathlib import Path

from data.course import judging, reference
from data.course.terminal import read_scripts, read_state
from data.formats.files import atomic_write


def grade(submissions: list[Path], only: list[int], csv: Path | None, seeds: list[int]) -> None:
    """A line a submission, and a CSV file. only: which exercises; none: those that a copy was made with."""
    exercises = [f"exercise {number}" for number in reference.load_exercises(only)]
    text = io.StringIO()
    table = DictWriter(text, ["submission", "student", "total", "of", "notes", *exercises], restval="")
    table.writeheader()
    for path in submissions:
        try:
            row = grade_submission(path, only, seeds)
        except Exception as error:                   # whatever is the matter with it, the others are graded
            row = {"total": 0, "of": 0, "notes": f"could not be graded: {type(error).__name__}: {error}"}
        row["submission"] = make_plain(path.name)
        table.writerow(row)
        print(f"{row['submission']}: {row['total']} of {row['of']} points. {row['notes']}")
        if csv:                                      # after each: Ctrl-C keeps what is graded
            atomic_write(csv, text.getvalue())


def grade_submission(path: Path, only: list[int], seeds: list[int]) -> dict:
    """Its row: points, and what an instructor should look at. path: a copy, or what `pack` wrote."""
    if not path.is_dir():
        path = zipfile.Path(path)
    state, scripts = read_state(path), read_scripts(path)
    notes = []
    if state["version"] != reference.compute_version():
        notes.append(f"made with another reference, {state['version']!r}")
    row = {"student": make_plain(state["student"]), "total": 0, "of": 0}
    for number, exercise in reference.load_exercises(only or state["exercises"]).items():
        messages = judging.check(exercise, scripts, seeds)
        points = judging.count_points(exercise, messages)
        for part, message in messages.items():
            notes.append(f"{number}, {part}: {message.splitlines()[-1]}")
        if number in state["revealed"]:
            points = 0
            notes.append(f"{number}: revealed")
        elif points and is_ours(exercise, scripts):
            notes.append(f"{number}: word for word the reference")
        row[f"exercise {number}"] = points
        row["total"] += points
        row["of"] += sum(exercise.PARTS.values())
    return {**row, "notes": "; ".join(notes)}


def make_plain(text: str) -> str:
    """Nothing that a table program takes for a formula."""
    if text.startswith(tuple("=+-@")):
        return f"'{text}"
    return text


def is_ours(exercise, scripts: dict[str, str]) -> bool:
    text = "".join(scripts.values()).replace("\r", "")
    return all(reference.read_source(target) in text for target in exercise.TARGETS)
