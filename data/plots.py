"""What a run shows: a line a step, a closing table, learning curves. Only this file imports matplotlib."""
import json
import math
import pathlib
import sys

import matplotlib
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {"high": "#c44e52", "low": "#4c72b0", "solo": "#55a868", "high+low": "#8172b3"}


def read(directory):
    """The lines of a run's metrics.jsonl as dictionaries."""
    return [json.loads(line) for line in (pathlib.Path(directory) / "metrics.jsonl").read_text().splitlines()]


def curves(lines, path, title=""):
    """Learning curves of one run -> a PNG. lines: the dictionaries of metrics.jsonl."""
    steps = [line for line in lines if "learner" in line]
    measured = [line for line in lines if "heldout_greedy" in line]
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True)
    shade(list(axes.flat), steps)

    axis = axes[0, 0]
    for name, label, style in (("greedy", "greedy", "o-"), ("t1", "temperature 1", "s--")):
        axis.errorbar([line["step"] for line in measured], [line[f"heldout_{name}"] for line in measured],
                      yerr=[line[f"heldout_{name}_se"] for line in measured], fmt=style, color="black",
                      capsize=2, markersize=4, label=label, alpha=1 if name == "greedy" else 0.5)
    axis.set(ylabel="held-out accuracy, % (± 1 standard error)", ylim=(0, 100))
    axis.legend(loc="best")

    axis = axes[0, 1]
    for role in ("high", "low", "solo"):
        if steps and f"reward_{role}" in steps[0]:
            axis.plot([line["step"] for line in steps], [line[f"reward_{role}"] for line in steps],
                      color=COLOURS[role], label=role)
    axis.set(ylabel="mean reward in training")
    axis.legend(loc="best")

    for axis, name, label in ((axes[1, 0], "entropy", "entropy of the learner, nats a token"),
                              (axes[1, 1], "length", "mean length of the learner's turns, tokens")):
        for learner in dict.fromkeys(line["learner"] for line in steps):
            chosen = [line for line in steps if line["learner"] == learner and line.get(name) is not None]
            axis.plot([line["step"] for line in chosen], [line[name] for line in chosen], "o", markersize=4,
                      color=COLOURS[learner], label=learner)
        axis.set(xlabel="step", ylabel=label)
        axis.set_ylim(0, 1.15 * max([line[name] for line in steps if line.get(name) is not None], default=1))
        axis.legend(loc="best")
    figure.suptitle(title + "   (shaded: who learns)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def shade(axes, steps):
    """Colour the background by the agent that learns."""
    start = 0
    for i, line in enumerate(steps):
        if i + 1 == len(steps) or steps[i + 1]["learner"] != line["learner"]:
            for axis in axes:
                axis.axvspan(steps[start]["step"] - 0.5, line["step"] + 0.5, alpha=0.12, linewidth=0,
                             color=COLOURS[line["learner"]])
            start = i + 1


def log_line(step, m):
    """One step's metrics for the terminal, fields always in the same order; - where a field has no value."""
    rewards = " ".join(f"{role} {m['reward_' + role]:+.2f}"
                       for role in ("high", "low", "solo") if f"reward_{role}" in m)
    number = lambda name, form: format(m[name], form) if m.get(name) is not None else "-"        # noqa: E731
    return (f"step {step:4d} {m['learner']:8} reward {rewards}  acc {m['accuracy']:.2f}  "
            f"len {m['length']:.0f}  cut {m['truncated']:.2f}  same {number('frac_reward_zero_std', '.2f')}  "
            f"ent {number('entropy', '.2f')}  kl {number('kl', '.4f')}  grad {number('grad_norm', '.2f')}  "
            f"clip {number('clip_share', '.3f')}  dlogp {number('sampling_logp_difference', '.0e')}  "
            f"tok/s {m['sample_tokens_per_s']:.0f} {m['train_tokens_per_s']:.0f}")


def gains(lines):
    """Points of held-out accuracy at temperature 1 that came in the phases of each role -> {role: points}."""
    learner = {line["step"]: line["learner"] for line in lines if "learner" in line}
    measured, result = [line for line in lines if "heldout_t1" in line], {}
    for before, after in zip(measured, measured[1:]):
        roles = {learner[step] for step in range(before["step"] + 1, after["step"] + 1)}
        role = roles.pop() if len(roles) == 1 else "several"         # evaluations too rare to tell them apart
        result[role] = result.get(role, 0.0) + after["heldout_t1"] - before["heldout_t1"]
    return result


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
                             f"{sum(line.get('sampled_tokens', 0) for line in lines):,} sampled tokens"])


def repeated_share(tokens):
    """Share of tokens in a 4-gram seen before in the same sequence: near 0 in prose, near 1 in a loop."""
    grams = [tuple(tokens[i:i + 4]) for i in range(len(tokens) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def watch(metrics):
    """Names of a collapse that the metrics show (empty: none)."""
    return [name for name, bad in (
        ("entropy is near zero: every sample is the same", (metrics["entropy"] or 1) < 0.01),
        ("most turns are cut off", metrics["truncated"] > 0.5),
        ("turns repeat themselves", metrics["repeated"] > 0.5),
        ("turns are empty", metrics["length"] < 2),
        ("the gradient is not finite: the step was skipped",
         not math.isfinite(metrics["grad_norm"] or 0))) if bad]


def episode_text(episode):
    """An episode for people."""
    said = [f"  {turn.role:10} {turn.text.strip() or '(nothing)'}" for turn in episode.turns]
    earned = ", ".join(f"{role} {value:+.2f}" for role, value in episode.rewards.items())
    return "\n".join(["", f"  problem    {episode.row['problem']}   (answer {episode.row['answer']})", *said,
                      f"  rewards    {earned}", ""])


def say(text):
    """To the terminal, above the progress bar; to stderr when stdout is a file, which gets only results."""
    tqdm.write(text, file=sys.stdout if sys.stdout.isatty() else sys.stderr)
