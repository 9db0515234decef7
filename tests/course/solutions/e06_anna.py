import rema
from rema import Episode, Role, Turn


def rollout(agents: list[Agent], rows: list[dict], samples: list[int], *, temperatures: list[float],
            key: tuple = (0,), **how) -> list[Episode]:
    """Let the agents speak one after the other about each row's problem.

    question -> plans -> answers to each plan: agent i draws samples[i] turns, at temperatures[i], for each thing that
    it is shown, which is what its role's prompt makes of the row and of what was said before. It is asked once, by
    sample_turns, with the prompts of all rows and all that was said about them.
    There is an episode for each turn of the last agent, in the order of rows, then of places. Turn number j (from 0)
    about rows[i] has the place (i, j); what answers it has (i, j, 0), (i, j, 1) ... An episode's place is that of its
    last turn. Episodes that begin with the same turn hold the same object.
    rows: dicts with problem, answer, id and, where a problem stands there twice, copy (else 0). key: (seed, step ...).
    Each prompt has a generator of its own (make_generator), which follows from key, the row's id and copy, which
    samples were drawn before (the place without its first number) and the agent's name: not from the place in rows.
    how: what generate takes besides (max_new_tokens, top_p, batch, bar).
    """
    episodes = []                        # none is finished before the last agent has spoken
    for i, row in enumerate(rows):
        episodes.append(Episode(row, (i,), []))
    for agent, n, temperature in zip(agents, samples, temperatures):
        conversations, generators = [], []
        for episode in episodes:
            row = episode.row
            conversations.append(agent.role.prompt(row, episode.said()))
            drawn_before = episode.place[1:]
            generators.append(make_generator(*key, row["id"], row.get("copy", 0), *drawn_before, agent.name))
        groups = sample_turns(agent, conversations, n, generators, temperature=temperature, **how)
        longer = []
        for episode, turns in zip(episodes, groups):
            for j, turn in enumerate(turns):
                turn.place = (*episode.place, j)
                longer.append(Episode(episode.row, turn.place, [*episode.turns, turn]))
        episodes = longer
    return episodes
