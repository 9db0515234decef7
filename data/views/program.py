"""How a program starts, errs and ends: one line for a mistake of the user's, exit status 2; Ctrl-C; free names."""
import argparse
import contextlib
import os
import signal
import sys
import traceback

import torch
import torch.distributed as dist

from data import UserError
from data.formats.files import release_locks
from data.formats.roles import advise


UNTYPED = object()


class Parser(argparse.ArgumentParser):
    """Reads a command line; help starts with `description` as it is, a mistake is a UserError."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse_args(self, argv: list[str] | None = None) -> argparse.Namespace:
        """The flags' values, and in `typed` the names of those that were typed, be it with the default's value."""
        args = super().parse_args(argv)
        marked = argparse.Namespace(**dict.fromkeys(vars(args), UNTYPED))
        super().parse_args(argv, marked)                 # a flag that is not there leaves its mark in place
        args.typed = {name for name, value in vars(marked).items() if value is not UNTYPED}
        return args

    def error(self, message):
        raise UserError(f"{message} (--help lists all flags)")


# Extensions: functions that are called when a program ends by a mistake, with (text, exit status, error).
ON_FAILURE = []


def run_program(program, argv: list[str] | None, name: str, **how) -> None:
    """Run a program; a user's mistake is one line on stderr and exit status 2, Ctrl-C one and status 130."""
    torch.set_flush_denormal(True)       # a confident tiny model would run in denormals, 15 times slower
    try:
        program(argv, **how)
        sys.stdout.flush()
    except BrokenPipeError:              # whoever reads, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        for tell in ON_FAILURE:
            tell(f"{name}: nobody reads its output any more", 141, None)
        sys.exit(141)
    except (UserError, OSError) as error:
        fail(f"{name}: {error}", 2, error)
    except torch.cuda.OutOfMemoryError as error:
        fail(f"{name}: the card's memory is full: --fit says what would fit; --batch, --micro-tokens, "
             "--questions and --max-new-tokens take less, --lora 16 much less", 2, error)
    except KeyboardInterrupt:            # where Ctrl-C is not waited for, see interruptible
        fail(f"{name}: interrupted", 130)
    except Exception as error:           # a mistake of ours, or in a user's own function
        if not ON_FAILURE:
            raise
        fail("".join(traceback.format_exception(error)).rstrip(), 1, error)
    finally:
        release_locks()


def fail(text: str, status: int, error: Exception | None = None) -> None:
    """End with a word on stderr."""
    for tell in ON_FAILURE:
        tell(text, status, error)
    print(text, file=sys.stderr)
    sys.exit(status)


PRESSED = []                # a True for each Ctrl-C since a run has begun
SKIPPABLE = []              # not empty: what is being done now may be left undone


@contextlib.contextmanager
def interruptible(tell, args: argparse.Namespace):
    """-> a list that Ctrl-C makes non-empty: the step ends and is saved. A second one leaves at once.

    tell: called with what happens then. args: of the run.
    """
    PRESSED.clear()

    def press(*_):
        PRESSED.append(True)
        if len(PRESSED) > 1:
            raise KeyboardInterrupt
        if SKIPPABLE:
            tell("interrupted: this evaluation is left for later (again: leave at once)")
            raise KeyboardInterrupt
        tell("interrupted: this step ends, then the run is saved (again: leave at once, with what was saved before)")

    before = None
    with contextlib.suppress(ValueError):    # not the main thread: then whoever started it deals with Ctrl-C
        before = signal.signal(signal.SIGINT, press)
    try:
        yield PRESSED
    except KeyboardInterrupt:
        tell(f"left with what was saved before; to go on: {advise(args)}")
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def skippable():
    """Inside, the first Ctrl-C leaves what is being done, and what comes after goes on.

    Not of several processes, which would wait for each other: there it ends first.
    """
    if dist.is_initialized():
        yield
        return
    SKIPPABLE.append(True)
    try:
        yield
    except KeyboardInterrupt:
        if len(PRESSED) != 1:
            raise
    finally:
        SKIPPABLE.clear()


# ------------------------------------------------------------------------------------------------------------
# What flags mean

def pick_device(name: str | None) -> str:
    """The device that was asked for, or the best there is. UserError if this machine has no such device.

    Of torchrun's processes each takes its own card first of all: whoever asks "cuda" a question before has a context on
    the first one, which costs each of them half a gigabyte there.
    """
    if name is None:
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
    try:
        if torch.device(name).type == "cuda" and "LOCAL_RANK" in os.environ:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.zeros(1, device=name).tolist()             # "meta" makes tensors, but without numbers
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name}: this machine has none (--device cpu always works)") from None
    return name


def pick_dtype(device: str) -> torch.dtype:
    """What to compute in: bfloat16 on a card that has it in hardware (a T4 has not), float32 elsewhere."""
    if torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


MOST_THREADS = 256          # that a machine with fewer processors starts all the same, such as for a run of a larger one


def pick_threads(asked: int | None, model: str) -> int:
    """Threads of the CPU, which are set as well.

    Products of the tiny model are too small for two: the second thread mostly waits for the first, and beside
    another busy process both wait for each other, up to ten times as long.
    """
    if asked is None:
        asked = torch.get_num_threads()
        if model == "tiny":
            asked = 1
    if asked > max(MOST_THREADS, os.cpu_count() or 1):
        raise UserError(f"--threads {asked}: this machine has {os.cpu_count()} processors")
    torch.set_num_threads(asked)
    return asked


def add_machine_flags(parser: Parser) -> None:
    flag = parser.add_argument_group("machine").add_argument
    flag("--seed", type=int, default=0, help="of all draws (0)")
    flag("--device", help="cpu, cuda or mps (cuda where there is one)")
    flag("--dtype", choices=("float32", "bfloat16"), help="for compute (float32; bfloat16 on cards that have it)")
    flag("--threads", type=count, help="of the CPU (1 for tiny: a second one mostly waits; else all)")


def pick_machine(args: argparse.Namespace, model: str) -> None:
    """Fill in --device, --threads and --dtype."""
    args.device = pick_device(args.device)
    args.threads = pick_threads(args.threads, model)
    if args.dtype is None:
        args.dtype = str(pick_dtype(args.device)).removeprefix("torch.")


def check_agents(args: argparse.Namespace, agents: list) -> None:
    """Fill in who learns first: who speaks first. UserError: nobody has that name; a number of groups that fits none."""
    names = [agent.name for agent in agents]
    if args.first is None or len(names) == 1 and "first" not in args.typed:    # a preset's, for two agents
        args.first = names[0]
    if args.first not in names:
        raise UserError(f"--first {args.first}: the agents are {', '.join(names)}")
    if len(args.group) not in (1, len(names)):
        raise UserError(f"--group takes one number, or one for each of the {len(names)} agents, not {len(args.group)}")


def refuse_without_effect(args: argparse.Namespace, flags: list[str], why: str) -> None:
    """UserError: one of these settings was typed, and beside the others it has no effect."""
    for name in flags:
        if name in args.typed:
            raise UserError(f"--{name.replace('_', '-')} has no effect: {why}")


def read_number(text: str, kind: type, least: float) -> float:
    """What a flag says. An error of argparse: the number is too small, or none of this kind."""
    try:
        number = kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"must be {wanted}, not {text!r}") from None
    if not least <= number <= 1e12:      # nan is neither
        raise argparse.ArgumentTypeError(f"must be at least {least:g} and finite, not {text}")
    return number


def count(text: str) -> int:
    """A whole number from 1 on."""
    return read_number(text, int, 1)


def count_or_none(text: str) -> int:
    """A whole number from 0 on."""
    return read_number(text, int, 0)


def amount(text: str) -> float:
    """A number from 0 on."""
    return read_number(text, float, 0)


def rate(text: str) -> float:
    """A number above 0."""
    return read_number(text, float, 1e-12)


def share(text: str) -> float:
    """A number above 0, at most 1."""
    number = rate(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"must be at most 1, not {text}")
    return number
