"""The first line of a program, before torch is imported, which takes seconds. Scripts import this first, for that alone.

Only where somebody is looking, and only if the program that runs is one of this project: whoever imports train.py from
elsewhere sees nothing.
"""
import os
import pathlib
import sys

HOUSE = pathlib.Path(__file__).resolve().parent.parent.parent


def greet() -> None:
    started = getattr(sys.modules["__main__"], "__file__", None)
    if not started or HOUSE not in pathlib.Path(started).resolve().parents:
        return
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        print(f"{os.path.basename(started)}: loading torch, which takes a few seconds", file=sys.stderr, flush=True)


greet()
