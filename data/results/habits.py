"""Conversations with two habits that the embedded model does not have, for train.py --sft.

    python -m data.results.habits FILE.jsonl

Plans that solve the problem, right or wrong, and so give the answer away; answers that check by solving the
problem anew. The paper reports that rewarding agreement breeds both (appendix E.1). RL can only amplify what
is sometimes sampled, so that the ablation `reversal` puts them in first, in the shares below.
"""
import json
import pathlib
import random

import rema
from data import UserError
from data.formats.files import atomic_write
from data.problems.arithmetic import right_plan, values, working, wrong_plan
from data.problems.generate import generate
from data.views.program import Parser, run_program

RIGHT = {1: .62, 2: .37, 3: .30}         # plans in the right order, by level; the others go left to right
SOLVED = .2                              # plans that hold the whole working
CHECKED = .15                            # answers that check
FOLLOWED = .65                           # answers that work a plan out; the others are guesses


def write_conversations(rng, row):
    """What the high-level and what the low-level agent say to a problem -> two message lists."""
    problem = row["problem"]
    write = wrong_plan
    if rng.random() < RIGHT[row["level"]]:
        write = right_plan
    steps = write(problem)
    value = values(steps)[-1]
    plan = steps
    solved = rng.random() < SOLVED
    if solved:
        plan = working(steps)
    luck = rng.random()
    if rng.random() < CHECKED:
        right = right_plan(problem)
        answer = f"Let me check: {working(right)} \\boxed{{{values(right)[-1]}}}"
    elif solved:
        answer = f"\\boxed{{{value}}}"
    elif luck < FOLLOWED:
        answer = f"{working(steps)} \\boxed{{{value}}}"
    else:
        digits = [sign for sign in problem if sign.isdigit()]
        answer = f"\\boxed{{{rng.choice(digits)}}}"
    said = {"high": plan}
    return [[*rema.HIGH.prompt(row, {}), {"role": "assistant", "content": plan}],
            [*rema.LOW.prompt(row, said), {"role": "assistant", "content": answer}]]


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("out", type=pathlib.Path, help="the file to write")
    parser.add_argument("--problems", type=int, default=6400, help="two conversations each (6400)")
    args = parser.parse_args(argv)
    if args.problems < 1:
        raise UserError(f"--problems must be at least 1, not {args.problems}")
    if args.out.exists():
        raise UserError(f"{args.out} exists: name another file")
    rng = random.Random(0)
    lines = []
    for row in generate(args.problems, seed="habits"):
        for messages in write_conversations(rng, row):
            lines.append(json.dumps({"messages": messages}))
    atomic_write(args.out, "\n".join(lines) + "\n")
    print(f"{args.out}: {len(lines)} conversations")


if __name__ == "__main__":
    run_program(main, None, "habits")
