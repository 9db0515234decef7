"""The reference: its sources, which are files of this repository, or in a student's copy one compressed archive.

The archive only keeps solutions from being read by accident. The reference is public all the same.
"""
import functools
import hashlib
import importlib
import json
import sys
import zlib
from importlib.abc import Loader, MetaPathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / "data/course/reference.bin"
SCRIPTS = ("rema", "rewards", "model", "rollout", "train", "eval")
EXERCISES = "data/course/exercises/"


@functools.cache
def read_texts() -> dict[str, str]:
    """Of the six scripts and all exercises: path from the root -> text."""
    if ARCHIVE.exists():
        return json.loads(zlib.decompress(ARCHIVE.read_bytes()))
    paths = [ROOT / f"{script}.py" for script in SCRIPTS]
    paths += sorted((ROOT / EXERCISES).glob("e[0-9]*.py"))
    texts = {}
    for path in paths:
        texts[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    return texts


def read_script(script: str) -> str:
    return read_texts()[f"{script}.py"]


def pack_texts(texts: dict[str, str]) -> bytes:
    return zlib.compress(json.dumps(texts).encode())


def compute_version(texts: dict[str, str]) -> str:
    """Ten digits that change with any of the sources."""
    digest = hashlib.sha256()
    for path in sorted(texts):
        digest.update(f"{path}\n{texts[path]}\n".encode())
    return digest.hexdigest()[:10]


def load_exercises() -> dict[int, ModuleType]:
    """Number -> module, in order."""
    exercises = {}
    for path in sorted(read_texts()):
        if path.startswith(EXERCISES):
            name = path.removesuffix(".py").replace("/", ".")
            exercises[get_number(name)] = importlib.import_module(name)
    return exercises


def list_targets() -> list[str]:
    """Of all exercises."""
    targets = []
    for exercise in load_exercises().values():
        targets += exercise.TARGETS
    return targets


def get_number(name: str) -> int:
    """Of an exercise, by its module's name: data.course.exercises.e03_advantages is 3."""
    stem = name.split(".")[-1]
    return int(stem.split("_")[0].removeprefix("e"))


# ------------------------------------------------------------------------------------------------------------
# In a copy: modules out of the archive

class ArchiveFinder(MetaPathFinder, Loader):
    """Imports what the archive holds, as if it were a file in its place."""

    def __init__(self, beginning: str, texts: dict[str, str]):
        self.texts = {}
        for path, text in texts.items():
            if path.startswith(beginning):
                self.texts[path] = text

    def find_spec(self, name, path=None, target=None):
        file = name.replace(".", "/") + ".py"
        if file in self.texts:
            return spec_from_loader(name, self, origin=str(ROOT / file))
        return None

    def exec_module(self, module):
        file = module.__name__.replace(".", "/") + ".py"
        module.__file__ = str(ROOT / file)
        code = compile(self.texts[file], f"<reference {file}>", "exec")
        exec(code, vars(module))


def take_scripts_from_archive() -> None:
    """From now on `import rema` means the reference's, not the student's that lies in the copy's root."""
    if ARCHIVE.exists():
        sys.meta_path.insert(0, ArchiveFinder("", read_texts()))


if ARCHIVE.exists():
    sys.meta_path.insert(0, ArchiveFinder(EXERCISES, read_texts()))
