"""Figures. matplotlib is imported here and nowhere else, without a display."""
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {"high": "#c44e52", "low": "#4c72b0", "solo": "#55a868", "high+low": "#8172b3"}


def curves(lines, path, title=""):
    """Learning curves of one run -> a PNG. lines: the dictionaries of metrics.jsonl."""
    steps = [line for line in lines if "learner" in line]
    measured = [line for line in lines if "heldout_greedy" in line]
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True)
    shade(list(axes.flat), steps)

    axis = axes[0, 0]
    for name, label, style in (("greedy", "greedy", "o-"), ("t1", "temperature 1", "s--")):
        axis.errorbar([line["step"] for line in measured], [line[f"heldout_{name}"] for line in measured],
                      yerr=[line[f"heldout_{name}_se"] for line in measured], fmt=style, color="black", capsize=2,
                      markersize=4, label=label, alpha=1 if name == "greedy" else 0.5)
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
