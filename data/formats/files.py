"""Files: written whole or not at all, read with an error that names them; a lock between processes."""
import contextlib
import errno
import json
import math
import os
import pathlib
import sys
import time

from data import UserError

if os.name == "nt":
    import msvcrt
else:
    import fcntl


@contextlib.contextmanager
def naming(path, verb="read", malformed=(ValueError, RecursionError)):
    """Around what is done with a file: errors of the disk become a UserError that names the file.

        with naming("a.json"):      -> UserError: a.json: cannot be read (No such file or directory)
            open("a.json")

    verb: what it then cannot be (read, written); malformed: errors that mean that its content makes no sense
    (no JSON, no UTF-8, nested without end, what read_file raises).
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = ("the disk is full; free some space, then run the same command again, or --resume the run that it "
                   "has begun")
        else:
            why = f"cannot be {verb} ({error.strerror or error})"
        raise UserError(f"{path}: {why}") from error
    except malformed as error:
        advice = "if it was downloaded or copied: delete it and fetch it again"
        raise UserError(f"{path}: malformed ({error}); {advice}") from error


def atomic_write(path, content):
    """Write `content` (bytes, str or a function that is handed the open file) to `path`: all or nothing.

    Written beside, forced to the disk and renamed, and a rename is one step: whoever is interrupted (Ctrl-C,
    SIGKILL, a full disk) keeps the old file. Makes missing directories. UserError when it cannot be written.
    """
    path = pathlib.Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if isinstance(content, str):
        content = content.encode(errors="replace")
    with naming(path, "written", malformed=()):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)              # there if it was not renamed


@contextlib.contextmanager
def locked(path, taken: str | None = None):
    """Inside, this process alone holds the lock file `path`; the others wait, or get the UserError `taken`.

        with locked(folder / ".lock"):
            ...

    The system keeps the lock and ends it with its process, however that dies; the empty file stays.
    """
    path = pathlib.Path(path)
    with naming(path, "written", malformed=()):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")
    with file:
        told = False
        while not try_lock(file):
            if taken is not None:
                raise UserError(taken)
            if not told:
                print(f"another process is at work here: waiting for {path}", file=sys.stderr)
                told = True
            time.sleep(0.1)
        yield                           # closing the file ends the lock


# The locks that a program holds until it ends.
HELD = contextlib.ExitStack()


def hold_lock(path, taken: str) -> None:
    """As locked, until release_locks is called. UserError `taken` where another process holds it."""
    HELD.enter_context(locked(path, taken))


def release_locks() -> None:
    HELD.close()


def try_lock(file) -> bool:
    """Lock an open file, unless another process has; whether it is ours."""
    try:
        if os.name == "nt":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:                     # a file system without locks: as if we were alone
        pass
    return True


def read_json(path) -> dict:
    """The JSON object in the file `path`, as a dict. UserError when it is missing, malformed or no object."""
    with naming(path):
        return json_object(pathlib.Path(path).read_text(encoding="utf-8"))


def json_object(text, hook=dict, constant=float) -> dict:
    """The JSON object in `text`; ValueError if there is none.

    hook makes a dict of its (key, value) pairs; constant a value of NaN, Infinity and -Infinity, which are no JSON.
    """
    found = json.loads(text, object_pairs_hook=hook, parse_constant=constant)
    if not isinstance(found, dict):
        raise ValueError(f"a JSON {type(found).__name__}, not an object")
    return found


LOGS = ("metrics.jsonl", "episodes.jsonl", "heldout.jsonl")


def forget_after(run: pathlib.Path, step: int, logs: tuple[str, ...] = LOGS) -> None:
    """Drop the lines of a run's logs that were written after the checkpoint of `step`: those steps will run again.

    So does what stands behind the last line end, the half of a line at which a run was stopped.
    """
    for name in logs:
        path = run / name
        if not path.exists():
            continue
        kept = []
        with naming(path, malformed=(ValueError, LookupError, TypeError)):
            for line in path.read_bytes().split(b"\n")[:-1]:        # bytes: sampled text may hold other line ends
                if json.loads(line)["step"] <= step:
                    kept.append(line + b"\n")
        atomic_write(path, b"".join(kept))


def write_json(path, records: list[dict]) -> None:
    """A file of JSON objects, one a line."""
    atomic_write(path, to_lines(records))


def append_json(path, records: list[dict]) -> None:
    """Add JSON objects to a log, one a line: what was reported is on disk before the next step starts."""
    with naming(path, "written", malformed=()):
        with open(path, "a", encoding="utf-8", errors="replace") as file:
            file.write(to_lines(records))


def to_lines(records: list[dict]) -> str:
    lines = []
    for record in records:
        lines.append(json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(lines)


def to_json(value):
    """A value as JSON can hold it: numbers that are not finite, which it has no word for, become null."""
    if isinstance(value, dict):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
