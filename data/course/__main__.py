"""Exercises on the method of ReMA.

in a student's copy:
    python -m data.course               what there is to do, and how far you are
    python -m data.course check N       points for exercise N, and what is wrong; without N: of all
    python -m data.course hint N        the next of three hints
    python -m data.course compare N     our solution beside yours, once yours is right
    python -m data.course reveal N      our solution; the exercise then counts 0 points
    python -m data.course pack          the file to hand in
for instructors, in the repository:
    python -m data.course make DIR      a student's copy
    python -m data.course grade SUBMISSION... --csv FILE
"""
import argparse
import sys
from pathlib import Path

from data import UserError
from data.course import reference, terminal


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message} (--help says what there is)")


def numbers(text: str) -> list[int]:
    """4,5,6 -> [4, 5, 6]"""
    return [int(number) for number in text.split(",")]


def parse(argv: list[str] | None) -> dict:
    """{"function": what to call, and its arguments}"""
    parser = Parser("python -m data.course", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(function=terminal.show_table)
    commands = parser.add_subparsers()

    def add_command(function) -> argparse.ArgumentParser:
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        return command

    add_command(terminal.check).add_argument("numbers", type=int, nargs="*")
    for function in (terminal.hint, terminal.reveal, terminal.compare):
        add_command(function).add_argument("number", type=int)
    add_command(terminal.pack)
    if not reference.ARCHIVE.exists():               # in the repository
        from data.course import grading, making

        make, grade = add_command(making.make), add_command(grading.grade)
        make.add_argument("directory", type=Path)
        make.add_argument("--student", default="", help="the name in the copy and of its zip file")
        make.add_argument("--update", action="store_true", help="bring a copy up to date; the student's code stays")
        grade.add_argument("submissions", type=Path, nargs="+", metavar="SUBMISSION")
        grade.add_argument("--csv", type=Path, help="a line a submission")
        grade.add_argument("--seeds", type=numbers, default=[11, 12, 13], help="of the numbers (11,12,13)")
        for command in (make, grade):
            command.add_argument("--only", type=numbers, default=[],
                                 help="exercises, such as 4,5,6 (all; of a copy that is there: its own)")
    return vars(parser.parse_args(argv))


def main(argv: list[str] | None = None) -> None:
    """Ends with status 1 where a check found something wrong, and with 2 where it could not do what was asked for."""
    try:
        arguments = parse(argv)
        function = arguments.pop("function")
        sys.exit(function(**arguments) is False)
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        sys.exit(130)
    except (UserError, OSError, SyntaxError) as error:
        print(f"python -m data.course: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
