"""Three voices: a planner, a critic who reads the plan, and a solver who reads both. Trained in turn.

    python -m data.examples.critic                  planner, critic, solver
    python -m data.examples.critic --arm unheard    the same, but the solver does not see what the critic said
    python -m data.examples.critic --arm two        planner and solver alone

Other flags go to train.py. All arms begin with the same weights, see shared.py; what came of them stands in
README.md. The critic lets a plan pass, or writes another one. It earns what a planner earns: how often that ends right.
"""
from dataclasses import replace

from data.examples import shared
from data.examples.shared import choose, converse, deafen, write_answer, write_plan
from data.problems.arithmetic import right_plan, wrong_plan
from data.views.program import run_program
from rema import HIGH, LOW, Role, reward_plan

PASSED = "Right."

CRITIC = Role("critic", "Write a short plan: the steps in the right order, if the plan is not right.",
              "Problem:\n{question}\n\nPlan:\n{high}", reward_plan)
SOLVER = replace(LOW, user="Problem:\n{question}\n\nPlan:\n{high}\n\nPlan:\n{critic}")

# name -> who speaks, in order, and how long: all arms sample about as many tokens
ARMS = {"critic": ([HIGH, CRITIC, SOLVER], "--steps 45"),
        "unheard": ([HIGH, CRITIC, deafen(SOLVER, "critic")], "--steps 45"),
        "two": ([HIGH, LOW], "--steps 50")}

# Habits of the critic: it judges, lets everything pass, or plans from left to right itself
CRITICS = {1: {"judge": .4, "pass": .4, "wrong": .2},
           2: {"judge": .3, "pass": .4, "wrong": .3},
           3: {"judge": .2, "pass": .4, "wrong": .4}}


def write_critique(rng, row: dict, plan: str) -> str:
    habit = choose(rng, CRITICS[row["level"]])
    right = right_plan(row["problem"])
    if habit == "wrong":
        return wrong_plan(row["problem"])
    if habit == "pass" or plan == right:
        return PASSED
    return right


def write_lessons(rng, row: dict) -> list[list[dict]]:
    """What planner, critic and solver say to a problem, the solver also without a critic or without hearing it."""
    plan = write_plan(rng, row)
    said = {"high": plan, "critic": write_critique(rng, row, plan)}
    followed = said["critic"]
    if followed == PASSED or rng.random() < .2:      # it may hold to the planner all the same
        followed = plan
    heard = write_answer(rng, row, followed)
    alone = write_answer(rng, row, plan)
    return [converse(HIGH, row, said, plan), converse(CRITIC, row, said, said["critic"]),
            converse(SOLVER, row, said, heard), converse(deafen(SOLVER, "critic"), row, said, alone),
            converse(LOW, row, said, alone)]


def program(argv: list[str] | None) -> None:
    shared.run("critic", __doc__, ARMS, write_lessons, argv)


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "critic")


if __name__ == "__main__":
    main()
