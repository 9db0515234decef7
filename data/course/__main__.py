"""Exercises on the method of ReMA.

in a student's copy:
    python -m data.course               what there is to do, and how far you are
    python -m data.course check 4       points for exercise 4, and what is wrong; without a number: all of them
    python -m data.course hint 4        the next of three hints
    python -m data.course compare 4     our solution under yours, once yours is right
    python -m data.course reveal 4      our solution; the exercise then counts 0 points
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


def read_numbers(text: str) -> list[int]:
    """4,5,6 -> [4, 5, 6]"""
    return [int(number) for number in text.split(",")]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("python -m data.course", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    for name in ("check", "hint", "reveal", "compare"):
        command = commands.add_parser(name)
        number = {}
        if name == "check":
            number["nargs"] = "?"
        command.add_argument("number", type=int, **number)
    commands.add_parser("pack")
    command = commands.add_parser("make")
    command.add_argument("directory", type=Path)
    command.add_argument("--student", default="", help="the name in the copy and of its zip file")
    command.add_argument("--only", type=read_numbers, default=[], help="exercises, such as 4,5,6 (all)")
    command.add_argument("--update", action="store_true", help="bring a copy up to date; the student's code stays")
    command = commands.add_parser("grade")
    command.add_argument("submissions", type=Path, nargs="+", metavar="SUBMISSION")
    command.add_argument("--only", type=read_numbers, default=[], help="exercises (those the copy was made with)")
    command.add_argument("--csv", type=Path, help="a line a submission")
    command.add_argument("--seeds", type=read_numbers, default=[11, 12, 13], help="of the numbers (11,12,13)")
    return parser.parse_args(argv)


def program(argv: list[str] | None) -> int:
    args = parse(argv)
    if args.command in ("make", "grade"):
        return instruct(args)
    if args.command is None:
        terminal.show_table()
    elif args.command == "check":
        if not terminal.check(args.number):
            return 1
    elif args.command == "hint":
        terminal.hint(args.number)
    elif args.command == "reveal":
        terminal.reveal(args.number)
    elif args.command == "compare":
        terminal.compare(args.number)
    elif args.command == "pack":
        terminal.pack()
    return 0


def instruct(args: argparse.Namespace) -> int:
    if reference.ARCHIVE.exists():
        raise UserError(f"{args.command} is for instructors, in the repository of the reference")
    from data.course import grading, making

    if args.command == "grade":
        grading.grade(args.submissions, args.only, args.seeds, args.csv)
    elif args.update:
        for message in making.update(args.directory):
            print(message)
        print(f"{args.directory}: up to date with reference {making.get_version()}")
    else:
        making.make(args.directory, args.student, args.only or list(reference.load_exercises()))
        print(f"{args.directory}: made from reference {making.get_version()}; its README.md is the handout")
    return 0


def main(argv: list[str] | None = None) -> None:
    try:
        status = program(argv)
    except (UserError, OSError) as error:
        print(f"python -m data.course: {error}", file=sys.stderr)
        status = 2
    except (KeyboardInterrupt, EOFError):
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
