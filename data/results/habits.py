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
from data import Parser, UserError, guarded
from data.problems.generate import generate, right_plan, values, working, wrong_plan
from data.formats.files import atomic_write

RIGHT = {1: .62, 2: .37, 3: .30}         # plans in the right order, by level; the others go left to right
SOLVED = .2                              # plans that hold the whole working
CHECKED = .15                            # answers that check
FOLLOWED = .65                           # answers that work a plan out; the others are guesses


def conversations(rng, row):
    """What the high-level and what the low-level agent say to a problem -> two message lists."""
    problem = row["problem"]
    plan = (right_plan if rng.random() < RIGHT[row["level"]] else wrong_plan)(problem)
    value, solved, luck = values(plan)[-1], rng.random() < SOLVED, rng.random()
    if rng.random() < CHECKED:
        right = right_plan(problem)
        answer = f"Let me check: {working(right)} \\boxed{{{values(right)[-1]}}}"
    elif solved:
        answer = f"\\boxed{{{value}}}"
    elif luck < FOLLOWED:
        answer = f"{working(plan)} \\boxed{{{value}}}"
    else:
        answer = f"\\boxed{{{rng.choice([sign for sign in problem if sign.isdigit()])}}}"
    text = working(plan) if solved else plan
    return [role.prompt(problem, text) + [{"role": "assistant", "content": said}]
            for role, said in ((rema.HIGH, text), (rema.LOW, answer))]


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("out", type=pathlib.Path, help="the file to write")
    parser.add_argument("--problems", type=int, default=6400, help="two conversations each (6400)")
    args = parser.parse_args(argv)
    if args.problems < 1 or args.out.exists():
        raise UserError(f"{args.out} exists: name another file" if args.out.exists() else
                        f"--problems must be at least 1, not {args.problems}")
    rng = random.Random(0)
    lines = [json.dumps({"messages": messages}) for row in generate(args.problems, seed="habits")
             for messages in conversations(rng, row)]
    atomic_write(args.out, "\n".join(lines) + "\n")
    print(f"{args.out}: {len(lines)} conversations")


if __name__ == "__main__":
    guarded(main, None, "habits")
