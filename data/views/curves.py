"""Learning curves of a run. Only this file imports matplotlib."""
import itertools
import pathlib

import matplotlib

from data.problems.reading import read_jsonl

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {"high": "#c44e52", "low": "#4c72b0", "solo": "#55a868", "high+low": "#8172b3"}
ACTIONS = {"DECOMPOSE": ("o-", "#222222"), "REWRITE": ("s--", "#d07000"), "EMPTY": ("^:", "#0090a0")}


def read_metrics(directory: str | pathlib.Path) -> list[dict]:
    """The lines of a run's metrics.jsonl as dictionaries."""
    return read_jsonl(pathlib.Path(directory) / "metrics.jsonl", ("step",))


def draw_curves(lines, path, title=""):
    """Learning curves of one run -> a PNG. lines: the dictionaries of metrics.jsonl.

    Guided plans have a third row: the share of each action, and how difficult the problems are that it was
    used on (the paper's figure 4).
    """
    steps = [line for line in lines if "learner" in line]
    measured = [line for line in lines if "heldout_greedy" in line]
    guided = any("share_EMPTY" in line for line in steps)
    figure, grid = plt.subplots(2 + guided, 2, figsize=(11, 7 + 3 * guided), sharex=True)
    accuracy, reward, entropy, length, *more = axes = list(grid.flat)
    colours = choose_colours(steps)
    shade(axes, steps, colours)

    def draw(axis, name, style, colour, label, learner=None):
        chosen = [line for line in steps if line.get(name) is not None and learner in (None, line["learner"])]
        if chosen:
            axis.plot([line["step"] for line in chosen], [line[name] for line in chosen], style, markersize=4,
                      color=colour, label=label)

    for name, label, style, alpha in (("greedy", "greedy", "o-", 1), ("t1", "temperature 1", "s--", 0.5)):
        accuracy.errorbar([line["step"] for line in measured], [line[f"heldout_{name}"] for line in measured],
                          yerr=[line[f"heldout_{name}_se"] for line in measured], fmt=style, color="black",
                          capsize=2, markersize=4, label=label, alpha=alpha)
    for name in list_agents(steps):
        draw(reward, f"reward_{name}", "-", colours[name], name)
    for learner in dict.fromkeys(line["learner"] for line in steps):
        draw(entropy, "entropy", "o", colours[learner], learner, learner)
        draw(length, "length", "o", colours[learner], learner, learner)
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


def list_agents(steps: list[dict]) -> list[str]:
    """Names of the agents of a run, in speaking order."""
    names = {}
    for line in steps:
        for key in line:
            if key.startswith("reward_"):
                names[key.removeprefix("reward_")] = True
    return list(names)


def choose_colours(steps: list[dict]) -> dict[str, str]:
    """A colour for every agent and every learner: the usual ones, and for other names matplotlib's."""
    colours = dict(COLOURS)
    for name in [*list_agents(steps), *[line["learner"] for line in steps]]:
        if name not in colours:
            colours[name] = f"C{len(colours)}"
    return colours


def shade(axes, steps, colours):
    """Colour the background by the agent that learns."""
    for learner, phase in itertools.groupby(steps, key=lambda line: line["learner"]):
        places = [line["step"] for line in phase]
        for axis in axes:
            axis.axvspan(places[0] - 0.5, places[-1] + 0.5, alpha=0.12, linewidth=0, color=colours[learner])


def draw_run(directory: str | pathlib.Path, args) -> None:
    """curves.png of a run. args: its settings."""
    title = f"{args.model}, {args.process}, seed {args.seed}"
    draw_curves(read_metrics(directory), pathlib.Path(directory) / "curves.png", title)
