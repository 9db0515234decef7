"""course.json, in the root of a student's copy: whose it is, which exercises, which reference, how far it has come."""
import json
from pathlib import Path

from data import UserError
from data.formats.files import atomic_write, read_json

NAME = "course.json"


def read_state(directory: Path) -> dict:
    """UserError where there is no student's copy."""
    path = directory / NAME
    if not path.exists():
        raise UserError(f"{directory} is no student's copy: python -m data.course make DIR makes one")
    return complete(read_json(path))


def complete(state: dict) -> dict:
    """earned: exercise -> part -> points, as last checked; hints: exercise -> how many were shown. Keys are strings."""
    return {"student": "", "exercises": [], "version": "", "earned": {}, "hints": {}, "revealed": [], **state}


def write_state(directory: Path, state: dict) -> None:
    atomic_write(directory / NAME, json.dumps(state, indent=1) + "\n")
