"""What a run shows: a line a step, a closing table, learning curves. Only this file imports matplotlib."""
import itertools
import json
import math
import pathlib
import re
import sys

import matplotlib
from tqdm import tqdm

from data.problems.benchmarks import read_jsonl

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {"high": "#c44e52", "low": "#4c72b0", "solo": "#55a868", "high+low": "#8172b3"}
ACTIONS = {"DECOMPOSE": ("o-", "#222222"), "REWRITE": ("s--", "#d07000"), "EMPTY": ("^:", "#0090a0")}


def read(directory):
    """The lines of a run's metrics.jsonl as dictionaries."""
    return read_jsonl(pathlib.Path(directory) / "metrics.jsonl", ("step",))


def curves(lines, path, title=""):
    """Learning curves of one run -> a PNG. lines: the dictionaries of metrics.jsonl.

    Guided plans have a third row: the share of each action, and how difficult the problems are that it was
    used on (the paper's figure 4).
    """
    steps = [line for line in lines if "learner" in line]
    measured = [line for line in lines if "heldout_greedy" in line]
    guided = any("share_EMPTY" in line for line in steps)
    figure, grid = plt.subplots(2 + guided, 2, figsize=(11, 7 + 3 * guided), sharex=True)
    accuracy, reward, entropy, length, *more = axes = list(grid.flat)
    shade(axes, steps)

    def draw(axis, name, style, colour, label, learner=None):
        chosen = [line for line in steps if line.get(name) is not None and learner in (None, line["learner"])]
        if chosen:
            axis.plot([line["step"] for line in chosen], [line[name] for line in chosen], style, markersize=4,
                      color=colour, label=label)

    for name, label, style, alpha in (("greedy", "greedy", "o-", 1), ("t1", "temperature 1", "s--", 0.5)):
        accuracy.errorbar([line["step"] for line in measured], [line[f"heldout_{name}"] for line in measured],
                          yerr=[line[f"heldout_{name}_se"] for line in measured], fmt=style, color="black",
                          capsize=2, markersize=4, label=label, alpha=alpha)
    for role in ("high", "low", "solo"):
        draw(reward, f"reward_{role}", "-", COLOURS[role], role)
    for learner in dict.fromkeys(line["learner"] for line in steps):
        draw(entropy, "entropy", "o", COLOURS[learner], learner, learner)
        draw(length, "length", "o", COLOURS[learner], learner, learner)
    for axis, name in zip(more, ("share", "level")):
        for action, (style, colour) in ACTIONS.items():
            draw(axis, f"{name}_{action}", style, colour, action)

    labels = ("held-out accuracy, % (± 1 standard error)", "mean reward in training",
              "entropy of the learner, nats a token", "mean length of the learner's turns, tokens",
              "share of the plans, by action", "mean difficulty level, by action")
    for axis, label in zip(axes, labels):
        axis.set(ylabel=label, xlabel="step" if axis in axes[-2:] else "")
        if axis.lines:
            axis.legend(loc="best")
    accuracy.set_ylim(0, 100)
    for axis in axes[2:5]:                               # these count from 0
        axis.margins(y=0.15)
        axis.set_ylim(bottom=0)
    figure.suptitle(title + "   (shaded: who learns)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def shade(axes, steps):
    """Colour the background by the agent that learns."""
    for learner, phase in itertools.groupby(steps, key=lambda line: line["learner"]):
        places = [line["step"] for line in phase]
        for axis in axes:
            axis.axvspan(places[0] - 0.5, places[-1] + 0.5, alpha=0.12, linewidth=0, color=COLOURS[learner])


def log_line(step, m):
    """One step's metrics for the terminal, fields always in the same order; - where a field has no value."""
    rewards = " ".join(f"{role} {m['reward_' + role]:+.2f}"
                       for role in ("high", "low", "solo") if f"reward_{role}" in m)
    number = lambda name, form: format(m[name], form) if m.get(name) is not None else "-"        # noqa: E731
    return (f"step {step:4d} {m['learner']:8} reward {rewards}  acc {m['accuracy']:.2f}  "
            f"len {m['length']:.0f}  cut {m['truncated']:.2f}  same {number('frac_reward_zero_std', '.2f')}  "
            f"ent {number('entropy', '.2f')}  kl {number('kl', '.4f')}  grad {number('grad_norm', '.2f')}  "
            f"clip {number('clip_share', '.3f')}  dlogp {number('sampling_logp_difference', '.0e')}  "
            f"tok/s {m['sampled_tokens'] / m['time_sample']:.0f} {m['trained_tokens'] / m['time_train']:.0f}"
            + held_out_line(m))


def held_out_line(m):
    """The held-out accuracy for the terminal, where a step has measured it."""
    if "heldout_greedy" not in m:
        return ""
    return f"\n  held-out {m['heldout_greedy']:.1f} % greedy, {m['heldout_t1']:.1f} % at temperature 1"


def gains(lines):
    """Points of held-out accuracy at temperature 1 that came in the phases of each role -> {role: points}."""
    learner = {line["step"]: line["learner"] for line in lines if "learner" in line}
    measured, result = [line for line in lines if "heldout_t1" in line], {}
    for before, after in zip(measured, measured[1:]):
        roles = {learner[step] for step in range(before["step"] + 1, after["step"] + 1)}
        role = roles.pop() if len(roles) == 1 else "several"         # evaluations too rare to tell them apart
        result[role] = result.get(role, 0.0) + after["heldout_t1"] - before["heldout_t1"]
    return result


def spent_tokens(lines):
    """All tokens that the agents of a run sampled in training, the difficulty filter's included."""
    return sum(line.get("sampled_tokens", 0) + line.get("filter_tokens", 0) for line in lines)


def before_and_after(lines):
    """The closing table of a run as text. lines: the dictionaries of metrics.jsonl."""
    measured = [line for line in lines if "heldout_greedy" in line]
    rows = ["                          before          after      gained"]
    for name, label in (("greedy", "greedy"), ("t1", "temperature 1")):
        (was, error), (now, error_now) = ((line[f"heldout_{name}"], line[f"heldout_{name}_se"])
                                          for line in (measured[0], measured[-1]))
        rows.append(f"  {label:16} {was:8.1f} +- {error:3.1f} {now:8.1f} +- {error_now:3.1f} "
                    f"{now - was:+9.1f}")
    rows += [f"  gained in the phases of {role}: {points:+.1f} points (temperature 1)"
             for role, points in gains(lines).items()]
    if "heldout_greedy_leaks" in measured[-1]:
        rows.append(f"  plans with the gold answer: {measured[-1]['heldout_greedy_leaks']:.1f} % (greedy)")
    return "\n".join(rows + [f"  {sum(line.get('episodes', 0) for line in lines):,} episodes, "
                             f"{spent_tokens(lines):,} sampled tokens"])


def repeated_share(tokens):
    """Share of tokens in a 4-gram seen before in the same sequence: near 0 in prose, near 1 in a loop."""
    grams = [tuple(tokens[i:i + 4]) for i in range(len(tokens) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def watch(metrics):
    """Names of a collapse that the metrics show (empty: none)."""
    return [name for name, bad in (
        ("entropy is near zero: every sample is the same",
         metrics["entropy"] is not None and metrics["entropy"] < 0.01),
        ("most turns are cut off", metrics["truncated"] > 0.5),
        ("turns repeat themselves", metrics["repeated"] > 0.5),
        ("turns are empty", metrics["length"] < 2),
        ("the gradient is not finite: the step was skipped",
         not math.isfinite(metrics["grad_norm"] or 0))) if bad]


def episode_text(episode):
    """An episode for people."""
    said = [f"  {turn.role:10} {harmless(turn.text.strip()) or '(nothing)'}" for turn in episode.turns]
    earned = ", ".join(f"{role} {value:+.2f}" for role, value in episode.rewards.items())
    problem, answer = harmless(episode.row["problem"]), harmless(episode.row["answer"])
    return "\n".join(["", f"  problem    {problem}   (answer {answer})", *said, f"  rewards    {earned}", ""])


def turn_text(turn, tokenizer, logprobs=None):
    """A turn for a terminal. logprobs "number": behind each token; "shade": under it, the brighter the less
    likely. Control signs, with which a text could steer the terminal, become U+FFFD.
    """
    def shown(token, logprob):
        text = tokenizer.decode([token]) if tokenizer.token_bytes(token) else "<end>"
        if logprobs == "number":
            return f"{harmless(text)}({logprob:.2f})"
        return f"\x1b[38;5;255;48;5;{232 + min(12, round(-4 * logprob))}m{harmless(text)}\x1b[0m"

    mean = sum(turn.logprobs) / max(1, len(turn.logprobs))
    head = (f"{turn.role}: {len(turn.tokens)} tokens{'' if turn.stopped else ', cut off'}, "
            f"log-prob {mean:.2f} a token")
    return f"--- {head}\n" + ("".join(map(shown, turn.tokens, turn.logprobs)) if logprobs
                              else harmless(turn.text.strip()) or "(nothing)")


def harmless(text):
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)


def say(text):
    """To the terminal, above the progress bar; to stderr when stdout is a file, which gets only results."""
    tqdm.write(text, file=sys.stdout if sys.stdout.isatty() else sys.stderr)
