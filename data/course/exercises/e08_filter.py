"""Exercise 8. WRITING.md in the folder above says how such a file is laid out."""
from random import Random

from data.course.exercises import Case, Mistake, Wrong

TITLE = "the difficulty filter"
MINUTES = 25
TARGETS = ["rema.is_worth_learning", "train.choose_tries", "train.choose_pool"]
PARTS = {"too easy, too hard": 2, "on the border": 2, "who tries how": 2, "what is kept": 2,
         "what fills the batch": 2}

TEXT = """
A problem that is always solved, or never, teaches nothing: all rewards of its group are equal, so every advantage is
0, and sampling it was a waste. Appendix D.1 of the paper sorts problems before it trains on them: those are kept that
are sometimes solved, but not nearly always. The agents become better, so what was just right becomes too easy, and
the sorting is done again whenever another agent's turn to learn begins.

How hard a problem is depends on who is asked. So the agent that is about to learn tries it 10 times, by chance as in
training, and its partners stand still: they say once what they find likeliest. If the planner is about to learn, that
makes ten plans and an answer to each; if it is the solver, one plan and ten answers to it. Either way there are 10
tries of a problem, right or wrong.

Three small functions do it, and `train.filter_problems`, which is there, calls them: `rema.is_worth_learning` decides
about a problem, `train.choose_tries` says who draws how often and at what temperature, `train.choose_pool` sorts.

By hand: five problems a, b, c, d, e are solved in 10, 5, 0, 2 and 9 of 10 tries. b and d are kept, since 2 of 10 is
the border and a border belongs to what is kept. If a step takes `questions` = 4 problems, 2 are missing: a and c fill
the batch. With `questions` = 9 there are still only five: a, c, e fill it. With `questions` = 2 nothing does.

What makes it harder than it looks:

- True and False are due, not 1 and 0.
- The functions don't know that there are 10 tries: it is the share that decides.
- Both lists of the pool keep the order in which the problems came, and what fills the batch is the first that was not
  kept, not the nearest to being kept.
- There may be three agents, or one.
- Where more are kept than a step takes there is nothing to fill, and `others[:-2]` is not nothing.
"""

HINTS = [
    "The share is how many were right over how many there were: True counts as 1 in a sum. Write is_worth_learning "
    "first, choose_pool calls it.",
    "choose_tries begins with a list of ones and a list of zeros, and changes one entry of each. choose_pool walks "
    "over rows and outcomes together and puts each row into one of two lists.",
    "How many are missing is questions - len(kept), but never less than 0: others[:max(0, questions - len(kept))].",
]


# ------------------------------------------------------------------------------------------------------------
# Inputs

def make_cases(random: Random) -> list[Case]:
    cases = []
    part = "too easy, too hard"
    for right, tries in ((5, 10), (0, 10), (10, 10), (1, 10), (9, 10), (3, 10), (7, 10), (2, 7), (6, 7)):
        cases.append(ask_worth(part, random, right, tries))
    part = "on the border"
    for right, tries, low, high in ((2, 10, 0.2, 0.8), (8, 10, 0.2, 0.8), (1, 5, 0.2, 0.8), (4, 5, 0.2, 0.8),
                                    (1, 8, 0.125, 0.5), (4, 8, 0.125, 0.5), (0, 8, 0.125, 0.5), (5, 8, 0.125, 0.5),
                                    (0, 4, 0.0, 0.75), (3, 4, 0.75, 1.0), (4, 4, 0.75, 1.0), (2, 4, 0.75, 1.0)):
        cases.append(ask_worth(part, random, right, tries, low, high))
    for agents in (2, 1, 3, random.randint(4, 7)):
        for learner in range(agents):
            says = f"{agents} agents, the one at position {learner} is about to learn"
            cases.append(Case("who tries how", says, {"what": "tries", "agents": agents, "learner": learner}))
    for part, more in (("what is kept", (0, 1)), ("what fills the batch", (2, 0, 3))):
        cases.append(ask_pool(part, random, [10, 5, 0, 3, 9], 2 + more[0]))
        for missing in more:
            rights = [random.choice((0, 1, 3, 4, 5, 6, 7, 9, 10)) for _ in range(20)]
            rights[random.randrange(0, 5)], rights[random.randrange(5, 9)] = 5, 0
            rights[random.randrange(9, 13)], rights[random.randrange(13, 16)] = 10, 1
            kept = len([right for right in rights if 3 <= right <= 7])
            cases.append(ask_pool(part, random, rights, kept + missing))
        cases.append(ask_pool(part, random, [3, 10, 4, 0, 5, 6, 9, 7], 4))       # one more than it takes
        cases.append(ask_pool(part, random, [0, 3, 10], 9))
        cases.append(ask_pool(part, random, [5, 1, 0, 2, 4, 5], 5, tries=5))
        cases.append(ask_pool(part, random, [0, 10, 1], 2))
    cases.append(ask_pool("what is kept", random, [3, 7], 4))
    return cases


def ask_worth(part: str, random: Random, right: int, tries: int, low: float = 0.2, high: float = 0.8) -> Case:
    successes = [True] * right + [False] * (tries - right)
    random.shuffle(successes)
    given = {"what": "worth", "successes": successes}
    says = f"{right} of {tries} tries were right"
    if (low, high) != (0.2, 0.8):                    # which they are where nobody says it
        given["bounds"] = [low, high]
        says += f", low {low}, high {high}"
    return Case(part, says, given)


def ask_pool(part: str, random: Random, rights: list[int], questions: int, tries: int = 10) -> Case:
    """Rows whose ids say nothing about their order."""
    names = random.sample("abcdefghijklmnopqrstuvwxyz", len(rights))
    rows, outcomes = [], []
    for name, right in zip(names, rights):
        rows.append({"id": name, "problem": f"problem {name}", "answer": str(right)})
        successes = [True] * right + [False] * (tries - right)
        random.shuffle(successes)
        outcomes.append(successes)
    said = ", ".join(f"{name} {right}" for name, right in zip(names, rights))
    says = f"solved in {tries} tries: {said}; questions {questions}"
    return Case(part, says, {"what": "pool", "rows": rows, "outcomes": outcomes, "questions": questions})


# ------------------------------------------------------------------------------------------------------------
# Outputs

def run(given: dict) -> dict:
    import rema
    import train

    if given["what"] == "worth":
        return {"worth it": rema.is_worth_learning(given["successes"], *given.get("bounds", []))}
    if given["what"] == "tries":
        samples, temperatures = take_two(train.choose_tries(given["agents"], given["learner"]), "choose_tries")
        return {"samples": samples, "temperatures": temperatures}
    kept, refill = take_two(train.choose_pool(given["rows"], given["outcomes"], given["questions"]), "choose_pool")
    return {"kept": read_names(kept, "kept"), "fill the batch": read_names(refill, "what fills the batch")}


def take_two(value, name: str):
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise Wrong(f"{name} returned {value!r:.100}, two lists are due")
    return value


def read_names(rows, name: str) -> str:
    """Of the rows in a list; whole rows have to be in it."""
    names = []
    if not isinstance(rows, list):
        raise Wrong(f"{name} is a {type(rows).__name__}, a list is due")
    for row in rows:
        if not isinstance(row, dict) or sorted(row) != ["answer", "id", "problem"]:
            raise Wrong(f"{name} holds {row!r:.100}, rows are due")
        names.append(row["id"])
    return ", ".join(names)


def expect(given: dict) -> dict:
    """With whole numbers, without a division; the pool place by place."""
    if given["what"] == "worth":
        low, high = given.get("bounds", [0.2, 0.8])
        right, tries = given["successes"].count(True), len(given["successes"])
        return {"worth it": round(1000 * low) * tries <= 1000 * right <= round(1000 * high) * tries}
    if given["what"] == "tries":
        before, after = given["learner"], given["agents"] - given["learner"] - 1
        return {"samples": [1] * before + [10] + [1] * after, "temperatures": [0.0] * before + [1.0] + [0.0] * after}
    kept = []
    for row, tries in zip(given["rows"], given["outcomes"]):
        if 2 * len(tries) <= 10 * tries.count(True) <= 8 * len(tries):
            kept.append(row["id"])
    missing, filling = given["questions"] - len(kept), []
    for row in given["rows"]:
        if row["id"] not in kept and missing > 0:
            filling.append(row["id"])
            missing -= 1
    return {"kept": ", ".join(kept), "fill the batch": ", ".join(filling)}


MISTAKES = [
    Mistake("here both borders are left out, but they belong to what is kept",
            "low <= rate <= high", "low < rate < high"),
    Mistake("here the upper border is left out, but both belong to what is kept",
            "low <= rate <= high", "low <= rate < high"),
    Mistake("here only what is too hard is left out: what is nearly always solved teaches nothing, either",
            "low <= rate <= high", "low <= rate"),
    Mistake("here only what is too easy is left out: what is never solved teaches nothing, either",
            "low <= rate <= high", "rate <= high"),
    Mistake("here the share is always one of 10 tries, but there may be another number of them",
            "sum(successes) / len(successes)", "sum(successes) / 10"),
    Mistake("here what is kept is what has to be left out",
            "return low <= rate <= high", "return not low <= rate <= high"),
    Mistake("here low and high are always 0.2 and 0.8, but these are only what they are if nobody says it",
            "return low <= rate <= high", "return 0.2 <= rate <= 0.8"),
    Mistake("here everybody tries 10 times, but only who is about to learn does",
            "[1] * agents", "[10] * agents"),
    Mistake("here nobody is greedy, but only who is about to learn draws by chance",
            "[0.0] * agents", "[1.0] * agents"),
    Mistake("here it is always the first agent that tries 10 times",
            "samples[learner], temperatures[learner]", "samples[0], temperatures[0]"),
    Mistake("here who is about to learn is greedy, too: 10 times the same",
            "temperatures[learner] = 10, 1.0", "temperatures[learner] = 10, 0.0"),
    Mistake("here all that were not kept fill the batch, however many it needs",
            "others[:max(0, questions - len(kept))]", "others"),
    Mistake("here nothing fills the batch",
            "others[:max(0, questions - len(kept))]", "[]"),
    Mistake("here the batch is filled though enough were kept: a negative end counts from the back of a list",
            "max(0, questions - len(kept))", "questions - len(kept)"),
    Mistake("here the last of those that were not kept fill the batch, not the first ones",
            "others[:max(0, questions - len(kept))]", "others[len(others) - max(0, questions - len(kept)):]"),
    Mistake("here as many fill the batch as a whole batch has: those that were kept count as well",
            "max(0, questions - len(kept))", "questions"),
    Mistake("here what is kept is cut to one batch, but the pool may be larger than that",
            "return kept, refill", "return kept[:questions], refill"),
]
