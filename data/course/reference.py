"""The reference: its sources, which are files of this repository, or in a student's copy one compressed archive.

The archive only keeps solutions from being read by accident. The reference is public all the same.
"""
import hashlib
import importlib
import sys
import zipfile
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


def list_files() -> list[str]:
    """What an archive holds: the six scripts and the exercises."""
    files = [f"{script}.py" for script in SCRIPTS]
    for path in (BASE / EXERCISES).iterdir():
        if path.name.startswith("e"):
            files.append(f"{EXERCISES}/{path.name}")
    return sorted(files)


def load_exercises(numbers: list[int] = ()) -> dict[int, ModuleType]:
    """Number -> module, in order, of all exercises or of these. UserError for a number that none has."""
    found = {}
    for file in list_files():
        if file.startswith(EXERCISES):
            name = file.removesuffix(".py").replace("/", ".")
            found[get_number(file)] = importlib.import_module(name)
    for number in numbers:
        if number not in found:
            raise UserError(f"there is no exercise {number}: there are {list(found)}")
    return {number: found[number] for number in sorted(numbers or found)}


def get_number(file: str) -> int:
    """Of an exercise: e03_advantages.py is 3."""
    return int(Path(file).name[1:3])


def compute_version() -> str:
    """Ten digits that change with any of the sources."""
    texts = [read_text(file) for file in list_files()]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:10]
