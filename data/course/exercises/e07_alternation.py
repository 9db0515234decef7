"""Exercise 7. WRITING.md in the folder above says how such a file is laid out."""
from random import Random

from data.course.exercises import Case, Mistake

TITLE = "frozen alternation"
MINUTES = 30
TARGETS = ["rema.choose_learners", "rema.choose_samples"]
PARTS = {"two agents take turns": 2, "any number, any first": 2, "all at once": 1,
         "the learner's group": 2, "any number of agents": 2, "sizes and followers": 2}

TEXT = """
Two agents that learn at the same time chase each other: the planner adapts to a solver that has already moved on. In
Algorithm 1 of the paper one learns while the others are frozen, and after some steps another one does. So the world
that a learner faces stands still, except for its own changes.

Who learns also decides who draws how often. A reward says something only by comparison, and what is compared must
answer the same words. While the planner learns, it writes eight plans for a problem, and each plan gets an answer.
While the solver learns, eight plans would be a waste: its answers would follow different plans, and none could be
compared with another. One plan and eight answers to it make a group. Write both choices: `rema.choose_learners` and
`rema.choose_samples`. Neither knows a planner or a solver, only positions in speaking order, so three agents work as
well.

By hand: three agents, `switch_every` 2, `first` 1. The agents at these positions learn at steps 0, 1, 2 ...:

| step | 0 | 1 | 2 | 3 | 4 | 5 | 6 |
|---|---|---|---|---|---|---|---|
| learns | 1 | 1 | 2 | 2 | 0 | 0 | 1 |

At step 0 the agent in the middle learns. With `sizes` [8] and `followers` 2 they draw 1, 8, 2: one plan, eight drafts
for it, two answers to each draft (which are averaged, so that a draft's reward is less a matter of luck). That is 1 +
8 + 16 turns for a problem: each number is per thing that the agent is shown.

What makes it harder than it looks:

- Steps count from 0 here, and `first` may be any position. After the last agent comes position 0.
- A list of positions is returned even where one agent learns.
- With one group size for all, `sizes` has one entry, whoever learns; with several it has one for each agent, and the
  position says which.
- All agents may learn at once. Then all of them draw a group.
- `learning` need not be in order: of [3, 1] the agent at position 1 speaks first.
"""

HINTS = [
    "How many whole phases of switch_every steps have passed at this step? That many times the turn to learn has moved "
    "on by one. For the samples, look at one position after the other: does it learn, does it speak before, or after?",
    "Whole phases are step // switch_every, but 0 can't divide: treat it first. Positions wrap around, for which there "
    "is %. An agent speaks before the learners if its position is below min(learning).",
    "choose_learners: [(first + step // switch_every) % agents]. choose_samples: for each position, if it is in "
    "learning, sizes[0] or, where sizes has more entries, sizes[position]; else 1 below min(learning); else followers.",
]


# ------------------------------------------------------------------------------------------------------------
# Inputs

def make_cases(random: Random) -> list[Case]:
    cases = []
    part = "two agents take turns"
    cases.append(ask_learners(part, range(7), 2, 3, 0))
    cases.append(ask_learners(part, range(40), 2, random.randint(4, 12), 0))
    cases.append(ask_learners(part, range(6), 2, 1, 0))
    part = "any number, any first"
    cases.append(ask_learners(part, range(7), 3, 2, 1))
    cases.append(ask_learners(part, range(8), 2, 2, 1))
    cases.append(ask_learners(part, range(5), 1, 2, 0))
    agents = random.randint(4, 6)
    for first in (0, random.randrange(1, agents), agents - 1):
        steps = sorted(random.sample(range(200), 20))
        cases.append(ask_learners(part, steps, agents, random.randint(2, 7), first))
    part = "all at once"
    for agents in (1, 2, 3, 5):
        cases.append(ask_learners(part, [0, 1, random.randint(2, 99)], agents, 0, agents - 1))

    part = "the learner's group"
    for learner in (0, 1):
        cases.append(ask_samples(part, [learner], 2, [8]))
        cases.append(ask_samples(part, [learner], 2, [random.randint(2, 20)]))
    cases.append(ask_samples(part, [0, 1], 2, [random.randint(2, 20)]))
    part = "any number of agents"
    for agents in (1, 3, 4, 6):
        for learner in range(agents):
            cases.append(ask_samples(part, [learner], agents, [random.randint(3, 9)]))
        cases.append(ask_samples(part, list(range(agents)), agents, [random.randint(3, 9)]))
    part = "sizes and followers"
    cases.append(ask_samples(part, [1], 3, [8], 2))
    for agents in (1, 2, 3, 5):
        sizes = random.sample(range(6, 30), agents)
        for learner in range(agents):
            cases.append(ask_samples(part, [learner], agents, sizes, random.randint(2, 5)))
        cases.append(ask_samples(part, list(range(agents)), agents, sizes, random.randint(2, 5)))
    cases.append(ask_samples(part, [1, 3], 5, random.sample(range(6, 30), 5), 3))
    cases.append(ask_samples(part, [2, 3], 5, [7], 4))
    cases.append(ask_samples(part, [3, 1], 5, random.sample(range(6, 30), 5), 3))
    return cases


def ask_learners(part: str, steps, agents: int, switch_every: int, first: int) -> Case:
    says = f"steps {describe(list(steps))}, {agents} agents, switch_every {switch_every}, first {first}"
    return Case(part, says, {"steps": list(steps), "agents": agents, "switch_every": switch_every, "first": first})


def describe(steps: list[int]) -> str:
    if steps == list(range(len(steps))):
        return f"0 to {steps[-1]}"
    return ", ".join(map(str, steps))


def ask_samples(part: str, learning: list[int], agents: int, sizes: list[int], followers: int | None = None) -> Case:
    says = f"{learning} of {agents} agents learn, sizes {sizes}"
    given = {"learning": learning, "agents": agents, "sizes": sizes}
    if followers is not None:
        says += f", followers {followers}"
        given["followers"] = followers
    return Case(part, says, given)


# ------------------------------------------------------------------------------------------------------------
# Outputs

def run(given: dict) -> dict:
    import rema

    if "learning" in given:
        return {"samples": rema.choose_samples(**given)}
    learners = {}
    for step in given["steps"]:
        if given["first"] == 0:                      # which it is where nobody says it
            learning = rema.choose_learners(step, given["agents"], switch_every=given["switch_every"])
        else:
            learning = rema.choose_learners(step, given["agents"], given["switch_every"], first=given["first"])
        learners[f"learners at step {step}"] = learning
    return learners


def expect(given: dict) -> dict:
    if "learning" in given:
        return {"samples": expect_samples(**given)}
    expected = {}
    learner, left = given["first"], given["switch_every"]
    for step in range(max(given["steps"]) + 1):      # one step after the other, as if everybody waited
        if given["switch_every"] > 0 and left == 0:
            learner, left = learner + 1, given["switch_every"]
            if learner == given["agents"]:
                learner = 0
        left -= 1
        if step in given["steps"]:
            expected[f"learners at step {step}"] = [learner]
            if given["switch_every"] == 0:
                expected[f"learners at step {step}"] = [*range(given["agents"])]
    return expected


def expect_samples(learning: list[int], agents: int, sizes: list[int], followers: int = 1) -> list[int]:
    """First everybody as if they spoke before, then from the first learner on as if they spoke after, then learners."""
    if len(sizes) < agents:
        sizes = sizes * agents
    samples = [1] * min(learning) + [followers] * (agents - min(learning))
    for position in learning:
        samples[position] = sizes[position]
    return samples


MISTAKES = [
    Mistake("here the turn to learn moves on at every step, not after switch_every of them",
            "phase = step // switch_every", "phase = step"),
    Mistake("here the first phase is a step too short: steps count from 0",
            "step // switch_every", "(step + 1) // switch_every"),
    Mistake("here the first phase is a step too long: steps count from 0",
            "step // switch_every", "max(0, step - 1) // switch_every"),
    Mistake("here steps count from 1, but they count from 0",
            "step // switch_every", "(step - 1) // switch_every"),
    Mistake("here `first` follows on the last agent, but position 0 does",
            "(first + phase) % agents", "first + phase % (agents - first)"),
    Mistake("here the agent at position 0 always begins, whatever `first` is",
            "(first + phase)", "phase"),
    Mistake("here there are never more or less than two agents",
            "(first + phase) % agents", "(first + phase) % 2"),
    Mistake("here the last agent goes on learning, but after it comes position 0",
            "(first + phase) % agents", "min(first + phase, agents - 1)"),
    Mistake("here the agents learn in the order opposite to that in which they speak",
            "(first + phase)", "(first - phase)"),
    Mistake("switch_every 0 means that all agents learn, not only the first one",
            "return list(range(agents))", "return [first]"),
    Mistake("here who speaks before the learner draws a group, too: then the learner's turns answer different words",
            "samples.append(1)", "samples.append(sizes[position % len(sizes)])"),
    Mistake("here those who speak before the learner draw `followers`, but followers speak after it",
            "samples.append(1)", "samples.append(followers)"),
    Mistake("here those who speak after the learner draw one turn, whatever `followers` is",
            "samples.append(followers)", "samples.append(1)"),
    Mistake("here sizes[0] is everybody's, but where each agent has its own the position says which",
            "sizes[position % len(sizes)]", "sizes[0]"),
    Mistake("here the sizes go to the learners in order, but sizes[i] is that of the agent at position i",
            "sizes[position % len(sizes)]", "sizes[learning.index(position) % len(sizes)]"),
    Mistake("here everybody but the last learner counts as speaking before it; the first one decides",
            "position < min(learning)", "position < max(learning)"),
    Mistake("here learning[0] is taken for who speaks first, but learning need not be in order",
            "position < min(learning)", "position < learning[0]"),
    Mistake("here everybody draws a group, but only who learns is compared",
            "if position in learning:", "if True:"),
]
