from torch import Generator

from rema import Episode, Role, Turn


def make_prompt_generator(key: tuple, episode: Episode, name: str) -> Generator:
    """The generator of what an agent is asked now: not by where its row stands."""
    row = episode.row
    return make_generator(key, row["id"], row.get("copy", 0), episode.place[1:], name)


def continue_episode(episode: Episode, turns: list[Turn]) -> list[Episode]:
    """An unfinished episode and the turns that answer it -> an episode for each of them."""
    longer = []
    for j, turn in enumerate(turns):
        turn.place = (*episode.place, j)
        longer.append(Episode(episode.row, turn.place, [*episode.turns, turn]))
    return longer


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
    episodes = [Episode(row, (i,), []) for i, row in enumerate(rows)]
    for agent, n, temperature in zip(agents, samples, temperatures):
        conversations = [agent.role.prompt(episode.row, episode.said()) for episode in episodes]
        generators = [make_prompt_generator(key, episode, agent.name) for episode in episodes]
        groups = sample_turns(agent, conversations, n, generators, temperature=temperature, **how)
        episodes = [longer for episode, turns in zip(episodes, groups) for longer in continue_episode(episode, turns)]
    return episodes
