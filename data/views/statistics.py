"""Figures about episodes: what a step's log, a held-out evaluation and a table say. Nothing is learned from them.

Episodes and turns are those of rema.py; nothing of it is needed here.
"""
import math
import pathlib

from data import UserError
from data.answers.comparing import unparsed
from data.answers.leaking import leaks
from data.extensions.guide import describe_actions
from data.formats.files import append_json, forget_after
from data.problems.reading import problem_text

VERIFYING = ("let me check", "let's check", "let us check", "check again", "double-check", "double check",
             "verify", "to make sure", "go through it again")


def group_by_question(episodes: list) -> list[list]:
    """The episodes of each row, in order."""
    groups = {}
    for episode in episodes:
        groups.setdefault(episode.place[0], []).append(episode)
    return list(groups.values())


def group_by_problem(episodes: list) -> list[list]:
    """The same, but rows with one text are one problem: copies say nothing new, so no error may count them twice."""
    groups = {}
    for episode in episodes:
        groups.setdefault(problem_text(episode.row), []).append(episode)
    return list(groups.values())


def list_turns(episodes: list) -> list:
    """Every turn once: the answers to a plan share its turn."""
    seen = {}
    for episode in episodes:
        for turn in episode.turns:
            seen[id(turn)] = turn
    return list(seen.values())


def count_tokens(episodes: list) -> int:
    """Tokens that all agents have sampled."""
    return sum(len(turn.tokens) for turn in list_turns(episodes))


def mean(values: list) -> float | None:
    """None of no values."""
    if not values:
        return None
    return sum(values) / len(values)


def compute_mean(values: list[float]) -> tuple[float, float | None]:
    """Mean and its standard error, which less than two values have not: None. The mean of none is 0.

    >>> compute_mean([1, 0, 1, 0])
    (0.5, 0.28867513459481287)
    """
    n = len(values)
    average = sum(values) / max(1, n)
    if n < 2:
        return average, None
    variance = sum((value - average) ** 2 for value in values) / (n - 1)
    return average, math.sqrt(variance / n)


def compute_rate(percents: list[float]) -> tuple[float, float | None]:
    """compute_mean of what is between 0 and 100 for each problem.

    Of 0 or 100 % everywhere the error is not 0, since other problems may turn out otherwise: it is then half the
    width of Wilson's interval for one standard error, 100 / (2 (n + 1)).
    """
    average, error = compute_mean(percents)
    if error == 0 and average in (0, 100):
        error = 100 / (2 * (len(percents) + 1))
    return average, error


def estimate(figure: str, values: list[float]) -> tuple[float, float | None]:
    """What a table shows of a figure of measure_problems: mean and standard error."""
    if figure.startswith("tokens"):
        return compute_mean(values)
    return compute_rate(values)


def show_error(error: float | None) -> str:
    if error is None:
        return "-"
    return f"{error:.1f}"


def is_verifying(text: str) -> bool:
    """Whether an answer checks itself, as the low-level agent does once plans are solutions (appendix E.1)."""
    text = text.lower()
    return any(phrase in text for phrase in VERIFYING)


def is_leaking(episode) -> bool:
    """Whether a plan gives the gold answer away."""
    last = episode.turns[-1].agent
    answer, problem = episode.row["answer"], episode.row["problem"]
    if episode.row.get("judge"):             # whose answer is a letter: "A plan" does not give it away
        answer, problem = f"[{answer}]", ""
    for turn in episode.turns:
        if turn.agent != last and leaks(turn.text, answer, problem):
            return True
    return False


def share_repeated(tokens: list[int]) -> float:
    """Share of tokens in a 4-gram seen before in the same sequence: near 0 in prose, near 1 in a loop."""
    grams = [tuple(tokens[i:i + 4]) for i in range(len(tokens) - 3)]
    if not grams:
        return 0.0
    return 1 - len(set(grams)) / len(grams)


def share_dead_groups(turns: list) -> float:
    """Share of the groups whose rewards are all the same. Near 1: nothing can be learned from these samples."""
    found = {}
    for turn in turns:
        found.setdefault(turn.group, set()).add(turn.reward)
    dead = [group for group, different in found.items() if len(different) == 1]
    return len(dead) / max(1, len(found))


def describe_step(episodes: list, names: list[str], learning: list[int], updates: list[dict]) -> dict:
    """A line of metrics.jsonl. names: of the agents; learning: places of those that learn; updates: of train.update."""
    learners = [names[position] for position in learning]
    turns = list_turns(episodes)
    theirs = [turn for turn in turns if turn.agent in learners] or turns
    answers = [episode.answer for episode in episodes]
    metrics = {"learner": "+".join(learners), "accuracy": mean([episode.correct for episode in episodes])}
    for position, name in enumerate(names):
        metrics[f"reward_{name}"] = mean([episode.spoken_by(position).reward for episode in episodes])
    metrics["length"] = mean([len(turn.tokens) for turn in theirs])
    metrics["truncated"] = mean([not turn.stopped for turn in theirs])
    metrics["repeated"] = mean([share_repeated(turn.tokens) for turn in theirs])
    metrics["unparsed"] = mean([unparsed(answer) for answer in answers if answer is not None]) or 0.0
    metrics["episodes"] = len(episodes)
    metrics["sampled_tokens"] = count_tokens(episodes)
    metrics.update(describe_actions(episodes))
    dead = []
    for position in learning:
        dead.append(share_dead_groups([episode.spoken_by(position) for episode in episodes]))
    metrics["frac_reward_zero_std"] = mean(dead)
    for name in ("entropy", "kl", "grad_norm", "clip_share", "sampling_logp_difference"):
        metrics[name] = mean([update[name] for update in updates])       # of several learners the mean
    metrics["trained_tokens"] = sum(update["trained_tokens"] for update in updates)
    return metrics


def count_failures(before: int, norm: float | None) -> int:
    """Gradients in a row that were not finite, with that of a step, by its norm: None if there was none."""
    if norm is None:
        return before
    if math.isfinite(norm):
        return 0
    return before + 1


def percent(values: list) -> float:
    """Of shares, or of True and False."""
    return 100 * sum(values) / len(values)


def measure_problems(groups: list[list]) -> dict[str, list[float]]:
    """What a table shows of the episodes of each problem: {figure: a value for each problem}.

    In percent, but "tokens of ..." in tokens. Several samples of a problem count as one, by their mean.
    """
    figures = {"accuracy": [], "answered": [], "accuracy among answered": [], "unparsed among answered": [],
               "too long for the context": [], "truncated": [], "answers with a verifying phrase": []}
    for group in groups:
        answered = [episode for episode in group if episode.answer is not None]
        figures["accuracy"].append(percent([episode.correct for episode in group]))
        figures["answered"].append(100 * len(answered) / len(group))
        if answered:
            figures["accuracy among answered"].append(percent([episode.correct for episode in answered]))
            figures["unparsed among answered"].append(percent([unparsed(episode.answer) for episode in answered]))
        figures["too long for the context"].append(percent([not episode.turns[0].tokens for episode in group]))
        cut = [any(not turn.stopped for turn in episode.turns) for episode in group]
        figures["truncated"].append(percent(cut))
        figures["answers with a verifying phrase"].append(percent([is_verifying(e.response) for e in group]))
        if len(group[0].turns) > 1:
            leaking = percent([is_leaking(episode) for episode in group])
            figures.setdefault("plans with the gold answer", []).append(leaking)
        for name, tokens in count_agents_tokens(group).items():
            figures.setdefault(f"tokens of {name}", []).append(tokens)
    for part, chosen in split_groups(groups).items():
        figures[f"accuracy, {part}"] = []
        for group in chosen:
            figures[f"accuracy, {part}"].append(percent([episode.correct for episode in group]))
    return figures


def count_agents_tokens(group: list) -> dict[str, float]:
    """{agent: tokens that it has sampled for a problem, a mean over its samples}."""
    found = {}
    for episode in group:
        for turn in episode.turns:
            found[turn.agent] = found.get(turn.agent, 0) + len(turn.tokens) / len(group)
    return found


def split_groups(groups: list[list]) -> dict[str, list[list]]:
    """The problems of each level, subject and category, where the data has several: {"level 1": groups ...}."""
    parts = {}
    for key in ("level", "subject", "category"):
        found = {}
        for group in groups:
            if key in group[0].row:
                found.setdefault(str(group[0].row[key]), []).append(group)
        if len(found) > 1:
            for value in sorted(found):
                parts[f"{key} {value}"] = found[value]
    return parts


def count_turns(samples: list[int], turns: int) -> int:
    """What the bar of an evaluation counts to for each problem: turns of all agents, or conversations."""
    if turns > 1:
        return samples[-1]
    total, drawn = 0, 1
    for n in samples:
        drawn = drawn * n
        total += drawn
    return total


def refuse_if_nothing_fits(episodes: list, context: int) -> None:
    """UserError if no agent could say anything."""
    first = [episode.turns[0] for episode in episodes]
    if not any(turn.tokens for turn in first):
        shortest = min(len(turn.prompt) for turn in first)
        raise UserError(f"no problem fits the model's context of {context} tokens: the shortest prompt has {shortest}")


def describe_held_out(name: str, episodes: list) -> dict[str, float]:
    """What a held-out evaluation, "greedy" or "t1", logs: {"heldout_NAME": accuracy, "heldout_NAME_se": its error ...}.

    In percent (shares of actions: as they are).
    """
    figures = measure_problems(group_by_problem(episodes))
    accuracy, error = estimate("accuracy", figures["accuracy"])
    found = {"": accuracy, "_se": error}
    named = {"_boxed": "answered", "_among_boxed": "accuracy among answered",
             "_verifying": "answers with a verifying phrase", "_leaks": "plans with the gold answer"}
    for short, figure in named.items():
        if figure in figures:
            found[short] = mean(figures[figure]) or 0.0
    for action, value in describe_actions(episodes).items():
        found[f"_{action}"] = value
    return {f"heldout_{name}{short}": value for short, value in found.items()}


def list_rewards(episode) -> dict[str, float]:
    """{agent: what it has earned}, of those who spoke. In a conversation all turns of an agent earn as one."""
    rewards = {}
    names = dict.fromkeys(turn.agent for turn in episode.turns)
    for position, name in enumerate(names):
        rewards[name] = episode.spoken_by(position).reward
    return rewards


def record(episode) -> dict:
    """An episode as a dictionary for JSON."""
    turns = []
    for turn in episode.turns:
        entry = {"role": turn.agent, "text": turn.text, "tokens": len(turn.tokens), "stopped": turn.stopped}
        if turn.thought:
            entry["thought"] = turn.thought
        turns.append(entry)
    row = episode.row
    return {"id": row["id"], "problem": row["problem"], "answer": row["answer"], "place": episode.place,
            "turns": turns, "extracted": episode.answer, "correct": episode.correct, "rewards": list_rewards(episode)}


# ------------------------------------------------------------------------------------------------------------
# What a run writes down while it goes on

FOLLOWED = 5            # held-out problems whose answers are kept at every evaluation


def log_step(run: pathlib.Path, step: int, metrics: dict, episodes: list) -> None:
    """A line of metrics.jsonl, and one of episodes.jsonl for each episode."""
    append_json(run / "metrics.jsonl", [{"step": step, **metrics}])
    append_json(run / "episodes.jsonl", [{"step": step, **record(episode)} for episode in episodes])


def log_held_out(run: pathlib.Path, step: int, episodes: list) -> None:
    """Lines of heldout.jsonl: what was said about the first five held-out problems, which are always the same.

    They take the place of those that a measurement has left that did not come to its end.
    """
    forget_after(run, step - 1, ("heldout.jsonl",))
    followed = [group[0] for group in group_by_problem(episodes)[:FOLLOWED]]
    append_json(run / "heldout.jsonl", [{"step": step, **record(episode)} for episode in followed])
