"""Learning curves of a run. Only this file imports matplotlib."""
import io
import itertools
import logging
import operator
import pathlib

# Said while it is imported: that a home cannot be written, and that fonts are counted.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

import matplotlib  # noqa: E402

from data.formats.files import atomic_write  # noqa: E402
from data.problems.reading import read_jsonl  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import matplotlib.ticker  # noqa: E402

COLOURS = {"high": "#c44e52", "low": "#4c72b0", "solo": "#55a868", "high+low": "#8172b3"}
ACTIONS = {"DECOMPOSE": ("o-", "#222222"), "REWRITE": ("s--", "#d07000"), "EMPTY": ("^:", "#0090a0")}
LABELS = ("held-out accuracy, % (± 1 standard error)", "mean reward in training",
          "entropy of the learner, nats a token", "mean length of the learner's turns, tokens",
          "share of the plans, by action", "mean difficulty level, by action")


def read_metrics(directory: str | pathlib.Path) -> list[dict]:
    """The lines of a run's metrics.jsonl as dictionaries."""
    return read_jsonl(pathlib.Path(directory) / "metrics.jsonl", ("step",))


def draw_run(directory: str | pathlib.Path, args) -> None:
    """curves.png of a run. args: its settings."""
    title = f"{args.model}, {args.process}, seed {args.seed}"
    draw_curves(read_metrics(directory), pathlib.Path(directory) / "curves.png", title)


def draw_curves(lines: list[dict], path: str | pathlib.Path, title: str = "") -> None:
    """Learning curves of one run -> a PNG. lines: the dictionaries of metrics.jsonl.

    Guided plans have a third row: the share of each action, and how difficult the problems are that it was
    used on (the paper's figure 4).
    """
    steps = choose_lines(lines, "learner")
    guided = choose_lines(steps, "share_EMPTY")
    rows = 2
    if guided:
        rows = 3
    figure, grid = plt.subplots(rows, 2, figsize=(11, 1 + 3 * rows), sharex=True)
    axes = list(grid.flat)
    shade_phases(axes, steps)
    draw_accuracy(axes[0], choose_lines(lines, "heldout_greedy"))
    draw_rewards(axes[1], steps)
    draw_learners(axes[2], steps, "entropy")
    draw_learners(axes[3], steps, "length")
    if guided:
        draw_actions(axes[4], steps, "share")
        draw_actions(axes[5], steps, "level")

    for axis, label in zip(axes, LABELS):
        axis.set_ylabel(label)
        if axis.lines:
            axis.legend(loc="best")
    axes[0].set_ylim(0, 100)
    for axis in axes[2:5]:                               # these count from 0
        axis.margins(y=0.15)
        axis.set_ylim(bottom=0)
    for axis in axes[-2:]:
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    figure.suptitle(title + "   (shaded: who learns)")
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    atomic_write(path, picture.getvalue())


# ------------------------------------------------------------------------------------------------------------
# Fields of the lines

def choose_lines(lines: list[dict], field: str) -> list[dict]:
    """The lines in which a field has a value."""
    return [line for line in lines if line.get(field) is not None]


def get_values(lines, field: str) -> list:
    return [line[field] for line in lines]


def choose_colour(name: str) -> str:
    """Who has none yet gets the next one of matplotlib's own."""
    return COLOURS.setdefault(name, f"C{len(COLOURS)}")


# ------------------------------------------------------------------------------------------------------------
# What stands in each panel

def draw_field(axis, lines: list[dict], field: str, style: str, colour: str, label: str):
    """A field against the step, where it has a value."""
    chosen = choose_lines(lines, field)
    if chosen:
        x, y = get_values(chosen, "step"), get_values(chosen, field)
        axis.plot(x, y, style, markersize=4, color=colour, label=label)


def draw_accuracy(axis, measured: list[dict]) -> None:
    look = dict(color="black", capsize=2, markersize=4)
    x = get_values(measured, "step")
    for field, label, style, alpha in (("heldout_greedy", "greedy", "o-", 1),
                                       ("heldout_t1", "temperature 1", "s--", 0.5)):
        y = get_values(measured, field)
        errors = [error or 0 for error in get_values(measured, f"{field}_se")]     # None: of one problem
        axis.errorbar(x, y, errors, fmt=style, label=label, alpha=alpha, **look)


def draw_rewards(axis, steps: list[dict]) -> None:
    for field in steps[0]:
        if field.startswith("reward_"):
            name = field.removeprefix("reward_")
            draw_field(axis, steps, field, "-", choose_colour(name), name)


def draw_learners(axis, steps: list[dict], field: str) -> None:
    """A field of whoever learns, each in a colour."""
    theirs = {}
    for line in steps:
        theirs.setdefault(line["learner"], []).append(line)
    for learner, lines in theirs.items():
        draw_field(axis, lines, field, "o", choose_colour(learner), learner)


def draw_actions(axis, steps: list[dict], name: str) -> None:
    for action, (style, colour) in ACTIONS.items():
        draw_field(axis, steps, f"{name}_{action}", style, colour, action)


def shade_phases(axes: list, steps: list[dict]) -> None:
    """Colour the background by the agent that learns."""
    for learner, phase in itertools.groupby(steps, operator.itemgetter("learner")):
        places = get_values(phase, "step")
        start, end = places[0] - 0.5, places[-1] + 0.5
        for axis in axes:
            axis.axvspan(start, end, alpha=0.12, linewidth=0, color=choose_colour(learner))
