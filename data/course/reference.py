"""The reference: its sources, which are files of this repository, or in a student's copy one compressed archive.

The archive only keeps solutions from being read by accident. The reference is public all the same.
"""
import hashlib
import importlib
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from data import UserError
from data.course import exercises, sources

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / "data/course/reference.bin"         # a zip file, from which Python imports as from a directory
SCRIPTS = ("rema", "rewards", "model", "rollout", "train", "eval")
EXERCISES = "data/course/exercises"

BASE = ROOT                 # where the reference's files lie
if ARCHIVE.exists():
    BASE = zipfile.Path(ARCHIVE)
    exercises.__path__.append(str(ARCHIVE / EXERCISES))


def read_text(file: str) -> str:
    return (BASE / file).read_text(encoding="utf-8")


def read_source(target: str) -> str:
    script, name = target.split(".")
    return sources.get_source(read_text(f"{script}.py"), name)


def take_scripts_from_archive() -> None:
    """From now on `import rema` means the reference's, not the student's that lies in the copy's root.

    In the repository there is no archive, and Python passes over what is not there.
    """
    sys.path.insert(0, str(ARCHIVE))


def list_exercises() -> dict[int, str]:
    """Number -> name of its file without .py: 3 -> "e03_advantages"."""
    names = {}
    for path in (BASE / EXERCISES).iterdir():
        if path.name.startswith("e"):
            names[int(path.name[1:3])] = path.name.removesuffix(".py")
    return names


def list_files(numbers: Iterable[int]) -> list[str]:
    """What an archive holds: the six scripts and these exercises."""
    names = list_exercises()
    return [f"{script}.py" for script in SCRIPTS] + [f"{EXERCISES}/{names[number]}.py" for number in sorted(numbers)]


def load_exercises(numbers: list[int] = ()) -> dict[int, ModuleType]:
    """Number -> module, in order, of all exercises or of these. UserError for a number that none has."""
    names, found = list_exercises(), {}
    for number in sorted(numbers or names):
        if number not in names:
            raise UserError(f"there is no exercise {number}: there are {sorted(names)}")
        found[number] = importlib.import_module(f"data.course.exercises.{names[number]}")
    return found


def compute_version() -> str:
    """Ten digits that change with any of the sources."""
    texts = [read_text(file) for file in list_files(list_exercises())]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:10]
