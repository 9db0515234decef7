"""What is not the method: tokenizers, checkpoints, problems, plots; and how a program starts and ends."""
import argparse
import contextlib
import os
import signal
import sys

import torch


class UserError(Exception):
    """A mistake that a user can mend: the message is one line that says what is wrong and what to do.

    The programs print it without a traceback and exit with status 2.
    """


class Parser(argparse.ArgumentParser):
    """Reads a command line; help starts with `description` as it is, a mistake is a UserError."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        raise UserError(f"{message} (--help lists all flags)")


def guarded(program, argv, name):
    """Run a program; a user's mistake is one line on stderr and exit status 2, Ctrl-C one and status 130."""
    torch.set_flush_denormal(True)           # a confident tiny model would run in denormals, 15 times slower
    try:
        program(argv)
        sys.stdout.flush()
    except BrokenPipeError:                  # whoever reads, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:                # where Ctrl-C is not waited for, see interruptible
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def interruptible(tell):
    """-> a list that Ctrl-C makes non-empty, instead of an exception; tell: called with what happens then."""
    pressed = []

    def press(*_):
        pressed.append(True)
        tell("interrupted: this step ends, then the run is saved")
    before = None
    with contextlib.suppress(ValueError):    # not the main thread: then whoever started it deals with Ctrl-C
        before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
