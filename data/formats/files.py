"""Files: written whole or not at all, read with an error that names them."""
import contextlib
import errno
import json
import os
import pathlib

from data import UserError


@contextlib.contextmanager
def naming(path, verb="read", malformed=(ValueError, RecursionError)):
    """Around what is done with a file: errors of the disk become a UserError that names the file.

    verb: what it then cannot be (read, written); malformed: errors that mean that its content makes no sense
    (no JSON, no UTF-8, nested without end, what read_file raises).
    """
    try:
        yield
    except OSError as error:
        why = f"cannot be {verb} ({error.strerror or error})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = "the disk is full; free some space and run the same command again"
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
    with naming(path, "written", malformed=()):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode(errors="replace") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)              # there if it was not renamed


def read_json(path):
    """The JSON object in the file `path`, as a dict. UserError when it is missing, malformed or no object."""
    with naming(path):
        return json_object(pathlib.Path(path).read_text(encoding="utf-8"))


def json_object(text, hook=dict):
    """The JSON object in `text`; ValueError if there is none. hook makes a dict of its (key, value) pairs."""
    found = json.loads(text, object_pairs_hook=hook)
    if not isinstance(found, dict):
        raise ValueError(f"a JSON {type(found).__name__}, not an object")
    return found


def forget_after(path, step):
    """Drop the lines of a log that were written after the checkpoint: those steps will run again."""
    if path.exists():
        lines = path.read_bytes().split(b"\n")[:-1]      # bytes: sampled text may hold other line ends
        atomic_write(path, b"".join(line + b"\n" for line in lines if json.loads(line)["step"] <= step))


def append(path, lines):
    """Add text to a log and close it: what was reported is on disk before the next step starts."""
    with open(path, "a", encoding="utf-8", errors="replace") as file:
        file.write(lines + "\n")
