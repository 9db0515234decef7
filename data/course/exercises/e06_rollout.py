"""Exercise 6. WRITING.md in the folder above says how such a file is laid out."""
import itertools
from random import Random

from data.course.exercises import Case, Mistake, Wrong, demand

TITLE = "the hierarchical rollout"
MINUTES = 50
TARGETS = ["rollout.rollout"]
PARTS = {"one agent": 2, "plans and answers": 3, "more agents": 2, "shared turns": 1, "work": 1, "draws": 3}

TEXT = """
Everything that is learned comes from here. A problem goes to the planner, which draws several plans; each plan goes
to the solver, together with the problem, and the solver draws several answers to it. From one problem grows a tree,
and an *episode* is a path in it, from the problem to a leaf: a list of turns in speaking order.

Where a turn stands in the tree is its *place*, and the place is what makes comparing fair. The answer at (0, 1, 2) is
the answer number 2 to the plan number 1 to the problem number 0. Leave out the last number, and you have everything
that it answers: (0, 1). Turns with the same beginning answered the same words; they are a group (`Turn.group` in
rema.py does just that), and advantages are computed within it.

By hand: one problem, `samples` [2, 3], that is two plans A, B and three answers to each. There are six episodes:

| episode | its turns | their places |
|---|---|---|
| 1 | A, first answer to A | (0, 0), (0, 0, 0) |
| 2 | A, second answer to A | (0, 0), (0, 0, 1) |
| 3 | A, third answer to A | (0, 0), (0, 0, 2) |
| 4 | B, first answer to B | (0, 1), (0, 1, 0) |
| 5, 6 | B, ... | |

A is one object in three episodes. The planner was asked with one prompt, for two turns; the solver once as well, with
two prompts and for three turns to each. So the code needs no tree: keep the list of unfinished episodes, and let each
agent make it longer. Nothing in it needs to know how many agents there are.

`Episode`, `Turn` and `Role.prompt` are in rema.py, `sample_turns` and `make_generator` just above in rollout.py: use
them. `sample_turns(agent, conversations, n, generators, ...)` takes a list of prompts and returns for each a list of
n turns, in which place is still missing.

What makes it harder than it looks:

- Ask an agent once, with the prompts of all problems. A model is fast when it works on many rows at once.
- Each prompt has its own generator, and the docstring says what it follows from. Then a problem gets the same plans
  whatever else is in the batch, and an experiment can be repeated. If it followed from less, the answers to plan A
  and those to plan B would be drawn with the same random numbers; if from more, such as the problem's position in the
  batch, a problem would get other plans when its neighbours change.
- What a generator follows from are the parts of its key. Hand them to `make_generator` as they are: joined into one
  string without a comma, 1 and 23 would be the same as 12 and 3.
- An agent may say nothing at all. Its turn has a place and is answered like any other.
- Each agent has its temperature: `sample_turns` takes it as `temperature`, beside what `how` holds.
"""

HINTS = [
    "Begin with an episode without turns for each row, whose place is (i,). For each agent: make all prompts and "
    "generators from the episodes that there are, ask, and build the list of the longer episodes, n for each old one.",
    "agent.role.prompt(episode.row, episode.said()) is what an agent is shown; episode.said() is in rema.py. A longer "
    "episode is Episode(episode.row, place, episode.turns + [turn]), where place is episode.place + (j,), and "
    "turn.place is the same.",
    "The generator: make_generator(*key, row['id'], row.get('copy', 0), *episode.place[1:], agent.name). Then groups = "
    "sample_turns(agent, prompts, n, generators, temperature=temperature, **how), and one loop over episodes and "
    "groups together with one over a group's turns inside.",
]


# ------------------------------------------------------------------------------------------------------------
# Inputs. The agents are echoes: they say what they were asked last, then their name and the number of the sample.

def make_cases(random: Random) -> list[Case]:
    solo, high, low = ("solo", "{question}"), ("high", "{question}"), ("low", "{question} by {high}")
    mute = ("mute", "{question}")                    # says nothing the first time, see speak
    critic, last = ("critic", "{low}?"), ("last", "{question}, {critic} of {high}")
    cases = [make_case("one agent", random, [solo], [4], 1), make_case("one agent", random, [solo], [3], 3)]
    cases += [make_case("plans and answers", random, [high, low], [2, 3], 1),
              make_case("plans and answers", random, [high, low], [1, 4], 3),
              make_case("plans and answers", random, [high, low], [4, 1], 2),
              make_case("plans and answers", random, [high, low], [3, 2], 4),
              make_case("plans and answers", random, [mute, ("low", "{question} by {mute}")], [2, 2], 2)]
    cases += [make_case("more agents", random, [high, low, critic], [2, 3, 2], 2),
              make_case("more agents", random, [high, low, critic, last], [2, 1, 3, 2], 2)]
    for part in ("shared turns", "work", "draws"):
        cases += [make_case(part, random, [high, low], [2, 3], 2),
                  make_case(part, random, [high, low, critic], [3, 2, 2], 3)]
    for case in cases[-2:]:
        add_variants(case.given)
    again = "one problem twice more, and once more with another id"
    return cases[:-2] + [case._replace(says=f"{case.says}, {again}") for case in cases[-2:]]


def make_case(part: str, random: Random, agents: list, samples: list[int], problems: int) -> Case:
    rows = []
    for number in random.sample(range(1000), problems):
        problem = f"{random.randint(1, 9)}+{random.randint(1, 9)}"
        rows.append({"id": f"sum-{number}", "problem": problem, "answer": "0"})
    temperatures = [random.choice((0.5, 0.7, 1.0)) + position for position in range(len(agents))]
    how = {"max_new_tokens": random.randint(8, 64), "top_p": 0.9, "batch": random.randint(1, 9)}
    given = {"look": part, "agents": agents, "rows": rows, "samples": samples, "temperatures": temperatures,
             "key": [random.randint(1, 9), random.randint(0, 99)], "how": how}
    names = ", ".join(name for name, _ in agents)
    return Case(part, f"{problems} problems, agents {names}, samples {samples}", given)


def add_variants(given: dict) -> None:
    """Other calls, whose draws are compared with those of the first: what changes in the call, by name."""
    first = given["rows"][0]
    given["rows"] += [{**first, "copy": 1}, {**first, "copy": 2}, {**first, "id": "twin"}]
    rows, samples, (seed, step), (name, user) = given["rows"], given["samples"], given["key"], given["agents"][0]
    given["variants"] = {
        "when all is done again": {},
        "when the rows stand in another order": {"rows": rows[::-1]},
        "when there is a plan more": {"samples": [samples[0] + 1, *samples[1:]]},
        "when copy 0 is written down": {"rows": [{"copy": 0, **row} for row in rows]},
        "when the first agent is alone": {"agents": [[name, user]], "samples": samples[:1]},
        "when the first agent is alone and has another name": {"agents": [["nobody", user]], "samples": samples[:1]},
        "at another step": {"key": [seed, step + 1]},
        "with another seed": {"key": [seed + 1, step]}}
    if len(samples) == 2:                            # joined these keys would be the same
        given["key"] = [1, 23]
        given["variants"]["with the key (12, 3) instead of (1, 23)"] = {"key": [12, 3]}
    if len(samples) == 3:                            # once with the usual key
        given["key"] = [0]
        given["variants"]["when the key is left out, which is then (0,)"] = {"key": None}


# ------------------------------------------------------------------------------------------------------------
# Outputs

def run(given: dict):
    if given["look"] == "draws":
        return compare_draws(given)
    calls = []
    episodes = play(given, calls)
    if given["look"] == "shared turns":
        return number_objects(episodes)
    if given["look"] == "work":
        return {"episodes": len(episodes), "calls": calls}
    return [describe_episode(episode) for episode in episodes]


def play(given: dict, calls: list) -> list:
    """Episodes of agents that note how they are asked, as log-probs what each turn was drawn with."""
    import rema
    import rollout

    how = dict(given["how"])
    if given["key"]:
        how["key"] = tuple(given["key"])
    agents = make_echoes(given["agents"], calls)
    temperatures = given["temperatures"][:len(agents)]
    episodes = rollout.rollout(agents, given["rows"], given["samples"], temperatures=temperatures, **how)
    for episode in demand(episodes, list, "the result"):
        demand(episode, rema.Episode, "an element of the result")
        for turn in demand(episode.turns, list, "the turns of an episode"):
            demand(turn, rema.Turn, "an element of the turns of an episode")
    return episodes


def make_echoes(voices: list, calls: list) -> list:
    import torch

    import rema
    import rollout

    class Letters:
        stop_ids = ()

        def chat(self, messages):
            return self.encode("\n".join(f"{message['role']}: {message['content']}" for message in messages))

        def encode(self, text):
            return [ord(letter) for letter in text]

        def decode(self, ids):
            return "".join(map(chr, ids))

        def read(self, ids):
            return "", self.decode(ids)              # nothing is only thought

    class Echo(rollout.Agent):
        def generate(self, prompts, samples, *, generator=None, **how):
            calls.append({"agent": self.name, "prompts": len(prompts), "samples": samples, **how})
            if not isinstance(generator, list):
                generator = [generator or torch.Generator().manual_seed(0)] * len(prompts)
            if len(generator) != len(prompts):
                raise Wrong(f"{len(prompts)} prompts came with {len(generator)} generators")
            groups = []
            for prompt, own in zip(prompts, generator):
                numbers = torch.rand(samples, generator=own, dtype=torch.float64).tolist()
                asked = self.tokenizer.decode(prompt).rpartition(": ")[2]
                turns = []
                for j in range(samples):
                    said = self.tokenizer.encode(speak(self.name, asked, j))
                    turns.append(rema.Turn(prompt, said, [-numbers[j]] * len(said), True))
                groups.append(turns)
            return groups

    agents = []
    for name, user in voices:
        role = rema.Role(name, f"You are {name}.", user, rema.reward_answer, ({"role": "user", "content": "Hi!"},))
        agents.append(Echo(role, None, Letters()))
    return agents


def speak(name: str, asked: str, number: int) -> str:
    if name == "mute" and number == 0:
        return ""
    return f"<{asked} {name}{number}>"


def describe_episode(episode) -> dict:
    turns = []
    for turn in episode.turns:
        shown = "".join(map(chr, turn.prompt))
        turns.append({"agent": turn.agent, "shown": shown, "text": turn.text, "place": turn.place, "group": turn.group})
    return {"row": episode.row, "place": episode.place, "turns": turns}


def number_objects(episodes: list) -> list[list[int]]:
    """For each episode the numbers of its turns, where an object has the number at which it was met first."""
    numbers, found = {}, []
    for episode in episodes:
        found.append([numbers.setdefault(id(turn), len(numbers)) for turn in episode.turns])
    return found


def compare_draws(given: dict) -> dict:
    """What the random numbers of turns depend on, counted in turns."""
    base, alone = look_up(given), {}
    for row in given["rows"]:
        alone.update(look_up({**given, "rows": [row]}))
    found = {"turns": len(base), "turns with numbers of their own": len(set(base.values())),
             "turns with numbers of their own when each row is alone": len(set(alone.values())),
             "turns with the same numbers when each row is alone": count_equal(base, alone)}
    for name, changes in given["variants"].items():
        found[f"turns with the same numbers {name}"] = count_equal(base, look_up({**given, **changes}))
    return found


def look_up(given: dict) -> dict:
    """What a turn is about, and where it stands -> the number that it was drawn with."""
    found = {}
    for episode in play(given, []):
        for turn in episode.turns:
            found[(episode.row["id"], episode.row.get("copy", 0), *turn.place[1:])] = turn.logprobs[0]
    return found


def count_equal(some: dict, others: dict) -> int:
    return sum(number == others.get(place) for place, number in some.items())


# ------------------------------------------------------------------------------------------------------------
# What is due: each episode by itself, a path from the problem to a leaf

def expect(given: dict):
    places = []
    for i in range(len(given["rows"])):
        for numbers in itertools.product(*map(range, given["samples"])):
            places.append((i, *numbers))
    if given["look"] == "shared turns":
        return expect_objects(places)
    if given["look"] == "work":
        return {"episodes": len(places), "calls": expect_calls(given)}
    if given["look"] == "draws":
        return expect_draws(given, places)
    return [expect_episode(given, place) for place in places]


def expect_episode(given: dict, place: tuple) -> dict:
    row = given["rows"][place[0]]
    turns, said = [], {}
    for position, (name, user) in enumerate(given["agents"]):
        asked = user.replace("{question}", row["problem"])
        for earlier, text in said.items():
            asked = asked.replace("{" + earlier + "}", text)
        said[name] = speak(name, asked, place[position + 1])
        turns.append({"agent": name, "shown": f"system: You are {name}.\nuser: Hi!\nuser: {asked}", "text": said[name],
                      "place": place[:position + 2], "group": place[:position + 1]})
    return {"row": row, "place": place, "turns": turns}


def expect_objects(places: list[tuple]) -> list[list[int]]:
    beginnings = []
    for place in places:
        for length in range(2, len(place) + 1):
            if place[:length] not in beginnings:
                beginnings.append(place[:length])
    return [[beginnings.index(place[:length]) for length in range(2, len(place) + 1)] for place in places]


def expect_calls(given: dict) -> list[dict]:
    calls, prompts = [], len(given["rows"])
    for (name, _), samples, temperature in zip(given["agents"], given["samples"], given["temperatures"]):
        how = {"samples": samples, "temperature": temperature, **given["how"]}
        calls.append({"agent": name, "prompts": prompts, **how})
        prompts = prompts * samples
    return calls


def expect_draws(given: dict, places: list[tuple]) -> dict:
    turns = max(map(max, expect_objects(places))) + 1
    expected = {"turns": turns, "turns with numbers of their own": turns,
                "turns with numbers of their own when each row is alone": turns,
                "turns with the same numbers when each row is alone": turns}
    for name in given["variants"]:
        stay = turns
        if name.startswith("when the first agent is alone"):
            stay = len(given["rows"]) * given["samples"][0]
        if "another name" in name or "instead of" in name or name in ("at another step", "with another seed"):
            stay = 0
        expected[f"turns with the same numbers {name}"] = stay
    return expected


MISTAKES = [
    Mistake("here draws depend on the problem's place among the rows: it should be left out of the key",
            "*episode.place[1:]", "*episode.place"),
    Mistake("here the place among the rows stands for the problem's id, so other neighbours mean other draws",
            'episode.row["id"]', "episode.place[0]"),
    Mistake("here the problem's text stands for its id, but two rows may ask the same",
            'episode.row["id"]', 'episode.row["problem"]'),
    Mistake("here all problems are drawn with the same numbers: the row's id is missing in the key",
            'episode.row["id"], episode', "episode"),
    Mistake("here a turn without tokens is left out, but it is a turn",
            "            for j, turn in enumerate(turns):\n",
            "            for j, turn in enumerate(turns):\n                if not turn.tokens:\n"
            "                    continue\n"),
    Mistake("here the answers to different plans are drawn with the same numbers: the key lacks the plan's place",
            ", *episode.place[1:]", ""),
    Mistake("here a problem that stands there twice gets the same draws twice: `copy` is missing in the key",
            ', episode.row.get("copy", 0)', ""),
    Mistake("here the parts of a key are joined: hand them to make_generator as they are",
            "make_generator(*key, *row_key, agent.name)",
            'make_generator("".join(map(str, (*key, *row_key, agent.name))))'),
    Mistake("here every step draws the same: `key` is missing",
            "make_generator(*key, *row_key", "make_generator(*row_key"),
    Mistake("here the agent's name is missing in the key of its draws",
            "*row_key, agent.name", "*row_key"),
    Mistake("here one generator goes through all prompts, so draws depend on what came before",
            "generators.append(make_generator(*key, *row_key, agent.name))",
            "generators.append(generators[0] if generators else make_generator(*key, agent.name))"),
    Mistake("here each episode has a copy of the turns before the last: they should share the object",
            "episode.turns + [turn]", "[type(one)(**vars(one)) for one in episode.turns] + [turn]"),
    Mistake("here an agent is asked once for each prompt: it should be asked once, with all prompts",
            "groups = sample_turns(agent, conversations, n, generators, temperature=temperature, **how)",
            "groups = [sample_turns(agent, [one], n, [own], temperature=temperature, **how)[0] "
            "for one, own in zip(conversations, generators)]"),
    Mistake("here the episodes stand in the order of their samples: all problems' first ones, then all second ones ...",
            "episodes = longer", "episodes = sorted(longer, key=lambda episode: episode.place[:0:-1])"),
    Mistake("here a place has only the turn's own number behind the problem's: which plan it answers is lost",
            "episode.place + (j,)", "episode.place[:1] + (j,)"),
    Mistake("here samples are numbered through a whole agent, but they count from 0 for each thing that it is shown",
            "episode.place + (j,)", "episode.place + (len(longer),)"),
    Mistake("here samples count from 1, but they count from 0",
            "episode.place + (j,)", "episode.place + (j + 1,)"),
    Mistake("here an episode's place is that of the turn before its last one",
            "Episode(episode.row, turn.place, ", "Episode(episode.row, turn.place[:len(episode.turns) + 1], "),
    Mistake("here an episode holds only what was said last, but it holds all turns",
            "episode.turns + [turn]", "[*episode.turns[:len(agents) - 2], turn]"),
    Mistake("here everybody draws at the first agent's temperature",
            "temperature=temperature", "temperature=temperatures[0]"),
    Mistake("here everybody draws as many turns as the first agent",
            "conversations, n, generators", "conversations, samples[0], generators"),
    Mistake("here generate is not told what is in `how`, such as max_new_tokens",
            "temperature=temperature, **how", "temperature=temperature"),
]
