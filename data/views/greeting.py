"""The first line of a program, before torch is imported, which takes seconds. Scripts import this first, for that alone.

Only where somebody is looking, and only if the program that runs is one of this project: whoever imports train.py from
elsewhere sees nothing. Ctrl-C while torch is imported is a line as well, as it is later (data/views/program.py).
"""
import os
import pathlib
import sys

HOUSE = pathlib.Path(__file__).resolve().parent.parent.parent


def greet() -> None:
    started = getattr(sys.modules["__main__"], "__file__", None)
    if not started or HOUSE not in pathlib.Path(started).resolve().parents:
        return
    name = os.path.basename(started)
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        print(f"{name}: loading torch, which takes a few seconds", file=sys.stderr, flush=True)

    def show_error(kind, error, trace):
        if issubclass(kind, KeyboardInterrupt):
            print(f"{name}: interrupted", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)
    sys.excepthook = show_error


greet()
