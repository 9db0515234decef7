"""What the examples share: habits to learn from, a start that has heard their prompts, and how a program runs.

The embedded model knows the prompts that it was warm-started with and no other. So each example writes conversations
in the prompts of ALL its arms, and the model hears them once (train.py --sft) before any arm begins: all arms begin
with the same weights. As in data/tiny/make_tiny.py good and bad habits stand side by side, and which of them pay is
left to reinforcement learning.
"""
import contextlib
import json
import os
import pathlib
import random
import shutil
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace

import train
from data import UserError
from data.formats.files import atomic_write, read_json
from data.problems.arithmetic import EMPTY, right_plan, values, working, wrong_plan
from data.problems.choosing import split_data
from data.problems.generate import generate
from data.views.program import Parser
from data.views.statistics import show_error
from eval import evaluate, summarise
from rema import Role
from rollout import load_agents

ROOT = pathlib.Path("out/examples")
LESSONS = 7000                           # conversations that a start has heard
# As train.py for the tiny model, but for where it begins, how much is measured, and how often they change places
FLAGS = ("--data arithmetic --lr 3e-4 --max-new-tokens 64 --questions 32 --eval-questions 400 --switch-every 5 "
         "--threads 1")


# ------------------------------------------------------------------------------------------------------------
# A role that does not hear everything: the control of a conversation

NOTHING = "-"                            # what stands in a prompt for words that are not shown


def deafen(role: Role, *unheard: str) -> Role:
    """The same role, but it is not shown what the agents of these names said, who speak all the same."""
    user = role.user
    for name in unheard:
        user = user.replace(f"{{{name}}}", NOTHING)
    return replace(role, user=user)


# ------------------------------------------------------------------------------------------------------------
# Habits, by the level of the problem. Greedy decoding takes the most frequent one.

PLANS = {1: {"right": .6, "wrong": .3, "empty": .1},
         2: {"right": .4, "wrong": .5, "empty": .1},
         3: {"right": .3, "wrong": .6, "empty": .1}}
FOLLOWED = .65                           # of answers: they work a plan out, the others are guesses


def choose(rng: random.Random, shares: dict[str, float]) -> str:
    """A key of {key: share}."""
    return rng.choices(list(shares), shares.values())[0]


def write_plan(rng: random.Random, row: dict) -> str:
    """A plan in the right order, from left to right, or one that leaves everything open."""
    habit = choose(rng, PLANS[row["level"]])
    if habit == "right":
        return right_plan(row["problem"])
    if habit == "wrong":
        return wrong_plan(row["problem"])
    return EMPTY


def write_answer(rng: random.Random, row: dict, plan: str) -> str:
    """The working of a plan, or a guess: always without one."""
    if plan == EMPTY or rng.random() >= FOLLOWED:
        digits = [sign for sign in row["problem"] if sign.isdigit()]
        return f"\\boxed{{{rng.choice(digits)}}}"
    return f"{working(plan)} \\boxed{{{values(plan)[-1]}}}"


def converse(role: Role, row: dict, said: dict[str, str], text: str) -> list[dict]:
    """A conversation for --sft: what a role is shown and what it says."""
    return [*role.prompt(row, said), {"role": "assistant", "content": text}]


# ------------------------------------------------------------------------------------------------------------
# Running

def make_start(name: str, write_lessons: Callable, most: int = LESSONS) -> str:
    """The directory of the embedded model after one pass over an example's conversations, made once.

    write_lessons(rng, row) -> the conversations about a problem. `most` of them, or a few more, teach a single agent,
    from which all agents of all arms then begin. Where they are not those of last time, the start is made anew.
    """
    rng = random.Random(0)
    lines = []
    for row in generate(most, seed=name):
        for messages in write_lessons(rng, row):
            lines.append(json.dumps({"messages": messages}) + "\n")
        if len(lines) >= most:
            break
    text = "".join(lines)
    place, lessons = ROOT / f"{name}-start", ROOT / f"{name}.jsonl"
    made = (place / "solo" / "model.safetensors").exists()
    if made and lessons.exists() and lessons.read_text(encoding="utf-8") == text:
        return str(place / "solo")
    print(f"{place}: the embedded model hears {len(lines)} conversations, once for all arms", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    atomic_write(lessons, text)
    # The warm start is a run of its own. Its only step is too short to say or to learn anything.
    flags = ["--sft", str(lessons), "--sft-lr", "5e-4", "--lr", "1e-12", "--process", "vrp", "--steps", "1"]
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        train.main([*flags, "--max-new-tokens", "1", "--eval-questions", "1", "--out", str(place)])
    return str(place / "solo")


def run(name: str, description: str, arms: dict[str, tuple[list[Role], str]], write_lessons: Callable,
        argv: list[str] | None) -> None:
    """One arm of an example. arms: {its name: (roles, flags of train.py)}, the example itself first."""
    parser = Parser(description)
    flag = parser.add_argument
    flag("--arm", choices=arms, default=list(arms)[0], help=f"who speaks ({list(arms)[0]}); other flags go to train.py")
    flag("--resume", metavar="RUN", help="go on with a run and its arm")
    flag("--measure", metavar="RUN", help="only measure a run of this example, as eval.py does")
    args, typed = parser.parse_known_args(argv)
    if args.measure:
        return measure(args.measure, arms[find_arm(args.measure, arms)][0])
    if args.resume:
        typed += ["--resume", args.resume]
        args.arm = find_arm(args.resume, arms)
    else:
        typed = [*FLAGS.split(), *arms[args.arm][1].split(), *typed]
        train.parse(typed)                           # says what is wrong with a flag before the start is made
        typed = ["--model", make_start(name, write_lessons), *typed]

    def note_arm(parser: Parser) -> None:            # in config.json, from which --resume reads it
        parser.set_defaults(arm=args.arm)

    train.FLAGS.append(note_arm)
    try:
        train.main(typed, roles=arms[args.arm][0])
    finally:
        train.FLAGS.remove(note_arm)


def find_arm(run: str, arms: dict) -> str:
    """The arm of a run that is to go on. UserError: it is none of this example's."""
    arm = read_json(pathlib.Path(run) / "config.json").get("arm")
    if arm not in arms:
        raise UserError(f"{run} is no run of this example")
    return arm


def measure(run: str, roles: list[Role]) -> None:
    """Print the table of a run on its held-out problems, greedy and at temperature 1.

    eval.py does it for roles whose prompts are texts with names to fill in. This does it for all.
    """
    settings = Namespace(**read_json(pathlib.Path(run) / "config.json"))
    _, rows = split_data(settings.data, settings.eval_data, settings.eval_questions, settings.data_dir)
    agents = load_agents(run, roles, settings)
    for temperature in (0.0, 1.0):
        episodes = evaluate(agents, rows, temperature=temperature, max_new_tokens=settings.max_new_tokens)
        print(f"{run}, {len(rows)} problems, temperature {temperature:g}")
        for figure, (mean, error) in summarise(episodes).items():
            print(f"  {figure:44} {mean:6.1f} +- {show_error(error)}")
