"""Grades submissions: the same checks as a student's, with other seeds."""
import ast
import csv
import io
import json
import zipfile
from pathlib import Path

from data import UserError
from data.course import judging, making, reference, sources
from data.course.state import NAME, complete
from data.formats.files import atomic_write

FILES = (NAME, *[f"{script}.py" for script in reference.SCRIPTS])
LARGEST = 2_000_000         # bytes of a file in a submission


def grade(submissions: list[Path], numbers: list[int], seeds: list[int], out: Path | None) -> None:
    """A line a submission, and a CSV file. numbers: which exercises; none: those that a copy was made with."""
    columns = ["submission", "student", "total", "of", "notes"]
    columns += [f"exercise {number}" for number in reference.load_exercises()]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="")
    table.writeheader()
    for path in submissions:
        try:
            row = grade_submission(path, numbers, seeds)
        except (UserError, OSError, RuntimeError, zipfile.BadZipFile) as error:      # RuntimeError: one with a password
            row = {"submission": make_plain(path.name), "total": 0, "of": 0, "notes": f"could not be graded: {error}"}
        table.writerow(row)
        print(f"{row['submission']}: {row['total']} of {row['of']} points. {row['notes']}")
    if out is not None:
        atomic_write(out, text.getvalue())


def grade_submission(path: Path, numbers: list[int], seeds: list[int]) -> dict:
    """Its row: points by exercise, and what an instructor should look at."""
    scripts, state = read_submission(path)
    notes = []
    if state["version"] != making.get_version():
        notes.append(f"made with another reference ({state['version'] or 'none is named'})")
    row = {"submission": make_plain(path.name), "student": make_plain(state["student"]), "total": 0, "of": 0}
    numbers = numbers or state["exercises"] or list(reference.load_exercises())
    for number, exercise in making.choose(numbers).items():
        verdict = judging.check(exercise, scripts, seeds)
        points = verdict.points
        said = [f"{part}: {message.splitlines()[-1]}" for part, message in verdict.messages.items()] + verdict.notes
        if number in state["revealed"]:
            points = 0
            said.append("revealed")
        elif is_ours(exercise, scripts):
            said.append("word for word the reference")
        notes += [f"{number}: {note}" for note in said]
        row[f"exercise {number}"] = points
        row["total"] += points
        row["of"] += sum(exercise.PARTS.values())
    return {**row, "notes": make_plain("; ".join(notes))}


def make_plain(text: str) -> str:
    """Text that neither steers a terminal nor is a formula to a table program."""
    text = "".join(sign for sign in text if sign.isprintable())
    if text[:1] in ("=", "+", "-", "@"):
        return f"'{text}"
    return text


def is_ours(exercise, scripts: dict[str, str]) -> bool:
    """But for comments and layout."""
    for target in exercise.TARGETS:
        script, path = sources.split_target(target)
        tree, _ = sources.parse(scripts.get(script, ""))
        theirs, ours = sources.find(tree, path), sources.find(ast.parse(reference.read_script(script)), path)
        if theirs is None or ast.dump(theirs) != ast.dump(ours):
            return False
    return True


# ------------------------------------------------------------------------------------------------------------
# A submission: a copy's directory, or what `pack` wrote

def read_submission(path: Path) -> tuple[dict[str, str], dict]:
    """Its scripts and its state. UserError if there is nothing of the kind."""
    if path.is_dir():
        files = {file.name: file.read_bytes() for file in path.iterdir() if file.name in FILES}
    elif zipfile.is_zipfile(path):
        files = read_zip(path)
    else:
        raise UserError(f"{path} is no directory and no zip file")
    scripts = {}
    for script in reference.SCRIPTS:
        scripts[script] = files.get(f"{script}.py", b"").decode(errors="replace")
    return scripts, parse_state(files.get(NAME, b""))


def read_zip(path: Path) -> dict[str, bytes]:
    """By the files' names: some programs pack a folder around them. Nothing is unpacked."""
    files = {}
    with zipfile.ZipFile(path) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename.count("/")):
            name = Path(entry.filename).name
            if name in FILES and name not in files and entry.file_size <= LARGEST:
                files[name] = archive.read(entry)
    return files


def parse_state(content: bytes) -> dict:
    """What can be used of it: a student may have broken it."""
    state = complete({})
    try:
        found = json.loads(content)
    except ValueError:
        return state
    for name, value in state.items():
        if type(found) is dict and type(found.get(name)) is type(value):
            state[name] = found[name]
    return state
