"""Without sample_turns: tables from a place to what was said there; the episodes are put together in the end."""
from itertools import product


def rollout(agents, rows, samples, *, temperatures, key=(0,), **how):
    said = {(i,): [] for i in range(len(rows))}              # place -> the turns up to it
    for position, agent in enumerate(agents):
        open_places = sorted(place for place in said if len(place) == position + 1)
        prompts, generators = [], []
        for place in open_places:
            row = rows[place[0]]
            texts = {turn.agent: turn.text for turn in said[place]}
            prompts.append(agent.tokenizer.chat(agent.role.prompt(row, texts)))
            origin = (agent.name, place[1:], row["id"], row.get("copy", 0))
            generators.append(make_generator(origin, tuple(key)))
        answers = agent.generate(prompts, samples[position], generator=generators,
                                 temperature=temperatures[position], **how)
        for place, group in zip(open_places, answers):
            for number, turn in enumerate(group):
                turn.agent, turn.text = agent.name, agent.tokenizer.decode(turn.tokens)
                turn.place = (*place, number)
                said[turn.place] = [*said[place], turn]
    places = product(range(len(rows)), *(range(n) for n in samples))
    return [Episode(rows[place[0]], place, said[place]) for place in places]
