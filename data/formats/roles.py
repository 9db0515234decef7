"""Who spoke in a run, and which program made it: what config.json says of it, so that others can go on or ask."""
import argparse
import os
import pathlib
import shlex
import sys

from data import UserError
from data.formats.files import read_json

HOUSE = "rema"              # the module whose roles, rewards and advantages train.py knows


# ------------------------------------------------------------------------------------------------------------
# Roles

def name_function(function) -> str:
    """Its module and its name: "rema.reward_plan", or "mine.reward_short_answer" of the program mine.py itself."""
    module = function.__module__.split(".")[-1]
    if module == "__main__":
        module = pathlib.Path(sys.argv[0]).stem
    name = getattr(function, "__qualname__", type(function).__qualname__)      # a partial has none
    return f"{module}.{name}"


def describe_roles(roles: list) -> list[dict]:
    """Roles as JSON. Of a reward, and of a way to make prompts that is not the house's, the name."""
    described = []
    for role in roles:
        entry = {"name": role.name, "system": role.system, "user": role.user, "examples": list(role.examples),
                 "reward": name_function(role.reward)}
        prompt = name_function(type(role).prompt)
        if not prompt.startswith(f"{HOUSE}."):
            entry["prompt"] = prompt
        described.append(entry)
    return described


def check_roles(roles: list) -> None:
    """UserError: a name that cannot be one, or twice; a prompt that names what its agent is not shown."""
    known = ["question"]
    for role in roles:
        if not role.name.isidentifier() or role.name in (*known, "best"):
            raise UserError(f"a role is named {role.name!r}: take letters, digits and _, each name once, "
                            "but not question or best")
        if "prompt" not in describe_roles([role])[0]:
            check_prompt(role, known)
        known.append(role.name)


def check_prompt(role, known: list[str]) -> None:
    try:
        role.user.format(**dict.fromkeys(known, ""))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        shown = ", ".join(f"{{{name}}}" for name in known)
        raise UserError(f"what {role.name} is shown can't be filled in ({error}): it may name {shown}; other braces "
                        "are written twice") from None


# ------------------------------------------------------------------------------------------------------------
# The program that makes a run

def note_program(args: argparse.Namespace, argv: list[str] | None, roles: list, own: bool, assign_advantages) -> None:
    """Put roles, advantages and the command into the settings of a run.

    own: whether a program has brought the roles. UserError: they can't be trained, a flag would be without effect,
    or the run that goes on was made with others.
    """
    check_roles(roles)
    if own:
        refuse_flags(args)
    described, advantages = describe_roles(roles), name_function(assign_advantages)
    if advantages.startswith(f"{HOUSE}."):
        check_groups(args)
    if args.resume and hasattr(args, "roles"):       # runs of older versions have none
        refuse_other_program(args, described, advantages)
        return
    args.roles, args.own_roles, args.advantages = described, own, advantages
    if not own and not args.resume:
        warn_of_other_prompts(args.model)
    args.command, args.program = find_command(argv, own or not advantages.startswith(f"{HOUSE}."))


def warn_of_other_prompts(model: str) -> None:
    """Say it where a run with roles of its own is trained on with the house's."""
    config = pathlib.Path(model) / "config.json"
    if config.exists() and read_json(config).get("own_roles"):
        print(f"{model} was trained with roles of its own: here its agents get the prompts of --process",
              file=sys.stderr)


def check_groups(args: argparse.Namespace) -> None:
    """UserError: groups of one, which the house's advantages can't compare with anything."""
    if args.advantage != "reinforce++" and min(args.group) < 2:
        raise UserError(f"--group {min(args.group)}: --advantage {args.advantage} compares the samples of a group, "
                        "so take at least 2")


def refuse_flags(args: argparse.Namespace) -> None:
    """UserError: a flag that changes the house's roles, beside roles of a program's own."""
    for flag, asked in (("--process", args.process != "rema"), ("--example", args.example),
                        ("--reward", args.reward != "base")):
        if asked:
            raise UserError(f"{flag} is for the roles of train.py: this program brings its own")
    if args.plan_format == "json" and not args.resume:
        print("--plan-format json: the first agent is held to JSON, but its prompt is this program's own", file=sys.stderr)


def refuse_other_program(args: argparse.Namespace, described: list[dict], advantages: str) -> None:
    """UserError: a run is to go on with other roles, rewards or advantages than it was made with."""
    difference = ""
    if advantages != args.advantages:
        difference = f"advantages by {args.advantages}, here {advantages}"
    for was, now in zip(args.roles, described):
        for name in ("prompt", "system", "user", "examples", "name"):
            if was.get(name) != now.get(name):
                difference = f"another {name} of {was['name']}"
        if was["reward"] != now["reward"]:
            difference = f"{was['name']} rewarded by {was['reward']}"
    if len(args.roles) != len(described):
        difference = f"{len(args.roles)} roles, here {len(described)}"
    if difference:
        raise UserError(f"{args.resume} was made by a program of its own, with {difference}; only that goes on with "
                        f"it: {advise(args)}")


def find_command(argv: list[str] | None, own: bool) -> tuple[str, str | None]:
    """-> the command that was typed, for a shell; the part of it that train.py's flags follow, None if none do.

    argv: what train.main was called with. own: whether train.py by itself can't go on with the run. A program that
    has put train.py's flags together itself may take others besides, or none.
    """
    program, given = list(sys.orig_argv), sys.argv[1:]
    if given:
        program = program[:-len(given)]
    if "TORCHELASTIC_RUN_ID" in os.environ:          # started by torchrun, which was typed
        program = ["torchrun", "--nproc_per_node", os.environ["LOCAL_WORLD_SIZE"], sys.argv[0]]
    command = shlex.join(program + given)
    if argv is None or argv == given:
        return command, shlex.join(program)
    if own:
        return command, None
    return command, "python train.py"


def advise(args: argparse.Namespace) -> str:
    """The command that goes on with a run, for a shell."""
    program = getattr(args, "program", "python train.py")
    flag = f"--resume {shlex.quote(args.out)}"
    if program is None:
        return f"{args.command} {flag} (if this program hands its flags on to train.main)"
    return f"{program} {flag}"
