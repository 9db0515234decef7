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
from data.course.terminal import read_scripts
from data.formats.files import atomic_write

LARGEST = 2_000_000         # bytes of a file in a submission


def grade(submissions: list[Path], numbers: list[int], seeds: list[int], out: Path | None) -> None:
    """A line a submission, and a CSV file. numbers: which exercises; none: those that a copy was made with."""
    rows = []
    for path in submissions:
        row = grade_submission(path, numbers, seeds)
        rows.append(row)
        print(f"{row['submission']}: {row['total']} of {row['of']} points. {row['notes']}")
    if out is None:
        return
    columns = ["submission", "student", "total", "of"]
    for row in rows:
        columns += [name for name in row if name not in columns and name != "notes"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns + ["notes"], restval="")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(out, text.getvalue())


def grade_submission(path: Path, numbers: list[int], seeds: list[int]) -> dict:
    """Its row: points by exercise, and what an instructor should look at."""
    scripts, state = read_submission(path)
    notes = []
    if state["version"] != making.get_version():
        notes.append(f"made with another reference ({state['version'] or 'none is named'})")
    row = {"submission": path.name, "student": make_plain(str(state["student"])), "total": 0, "of": 0}
    numbers = numbers or state["exercises"] or list(reference.load_exercises())
    for number, exercise in making.choose(numbers).items():
        verdict = judging.check(exercise, scripts, seeds)
        points = verdict.points
        for part, message in verdict.messages.items():
            notes.append(f"{number} {part}: {message.splitlines()[-1]}")
        if number in state["revealed"]:
            points = 0
            notes.append(f"{number}: revealed")
        elif is_ours(exercise, scripts):
            notes.append(f"{number}: word for word the reference")
        row[f"exercise {number}"] = points
        row["total"] += points
        row["of"] += sum(exercise.PARTS.values())
        notes += [f"{number}: {note}" for note in verdict.notes]
    row["notes"] = make_plain("; ".join(notes))
    return row


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
        scripts, state = read_scripts(path), {}
        if (path / NAME).exists():
            state = parse_state((path / NAME).read_bytes())
    elif zipfile.is_zipfile(path):
        scripts, state = read_zip(path)
    else:
        raise UserError(f"{path} is no directory and no zip file")
    return scripts, state


def read_zip(path: Path) -> tuple[dict[str, str], dict]:
    """By the files' names: some programs pack a folder around them. Nothing is unpacked."""
    scripts, state = {}, {}
    with zipfile.ZipFile(path) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename.count("/")):
            name = Path(entry.filename).name
            script = name.removesuffix(".py")
            if entry.file_size > LARGEST:
                continue
            if name == NAME and not state:
                state = parse_state(archive.read(entry))
            elif script in reference.SCRIPTS and name.endswith(".py") and script not in scripts:
                scripts[script] = archive.read(entry).decode(errors="replace")
    return scripts, complete(state)


def parse_state(content: bytes) -> dict:
    """What can be used of it: a student may have broken it."""
    try:
        state = json.loads(content)
    except ValueError:
        return complete({})
    kept = {}
    for name, value in complete({}).items():
        if isinstance(state, dict) and type(state.get(name)) is type(value):
            kept[name] = state[name]
    return complete(kept)
