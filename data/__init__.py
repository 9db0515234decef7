"""What is not the method: tokenizers, checkpoints, problems, plots; and how a program starts and ends."""
import contextlib
import signal
import sys

import torch


class UserError(Exception):
    """A mistake that a user can mend: the message is one line that says what is wrong and what to do.

    The programs print it without a traceback and exit with status 2.
    """


def guarded(program, argv, name):
    """Run a program; a user's mistake is one line on stderr and exit status 2, Ctrl-C one and status 130."""
    torch.set_flush_denormal(True)           # a confident tiny model would run in denormals, 15 times slower
    try:
        program(argv)
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
