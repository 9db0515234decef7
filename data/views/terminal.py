"""What a run says: a line a step, episodes, warnings, the closing table."""
import math
import os
import pathlib
import re
import textwrap

from data.problems.choosing import drop_copies
from data.problems.reading import read_jsonl
from data.views.bars import WIDTH, Progress, open_bar, say
from data.views.statistics import count_turns, list_rewards, show_error


def make_harmless(text: str) -> str:
    """Control signs, with which a text could steer the terminal, become U+FFFD."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)


def format_number(metrics: dict, name: str, form: str) -> str:
    """- where a line has no such value."""
    if metrics.get(name) is None:
        return "-"
    return format(metrics[name], form)


# What a step's line shows besides rewards: head, field of metrics.jsonl, width, form.
COLUMNS = (("acc", "accuracy", 6, ".2f"), ("len", "length", 5, ".0f"), ("cut", "truncated", 6, ".2f"),
           ("same", "frac_reward_zero_std", 6, ".2f"), ("ent", "entropy", 6, ".2f"), ("grad", "grad_norm", 6, ".2f"),
           ("kl", "kl", 7, ".4f"), ("clip", "clip_share", 6, ".3f"), ("dlogp", "sampling_logp_difference", 6, ".0e"))
LEGEND = """\
a line a step (metrics.jsonl has more): who learns, the mean reward of each agent, and
  acc   share of right answers              len    tokens of a learner's turn    cut  share cut off
  same  share of groups of equal rewards, which teach nothing
  ent   entropy; near 0 nothing is tried    kl     distance from the first weights (with --kl)
  grad  length of the gradient              clip   share of tokens that were clipped
                                            dlogp  what sampler and trainer differ by, in log-probs
watch the reward, not the loss: with one update a batch the loss is near 0 by construction
"""
DUE = {"legend": True, "head": True}         # whether the next line of a step needs them above it


def list_rewards_of(metrics: dict) -> dict[str, float]:
    """{agent: its mean reward in a step}."""
    found = {}
    for name, value in metrics.items():
        if name.startswith("reward_"):
            found[name.removeprefix("reward_")] = value
    return found


def choose_width(name: str) -> int:
    """Of the column of an agent's rewards."""
    return max(7, len(name) + 2)


def choose_columns(metrics: dict) -> list[tuple]:
    """Those of COLUMNS that fit into 100 columns beside the rewards. The others stand in metrics.jsonl."""
    width = len(name_learner(1, metrics))
    for name in list_rewards_of(metrics):
        width += choose_width(name)
    chosen = []
    for column in COLUMNS:
        width += column[2]
        if width <= WIDTH:
            chosen.append(column)
    return chosen


def name_learner(step: int, metrics: dict) -> str:
    """How a step's line begins."""
    learner = metrics["learner"]
    if len(learner) > 8 and "+" in learner:
        learner = "several"
    return f"step {step:4d}  {learner[:8]:8}"


def head_line(metrics: dict) -> str:
    """What stands above the lines of steps."""
    line = "step       learns  "
    for name in list_rewards_of(metrics):
        line += f"{name:>{choose_width(name)}}"
    for head, _, width, _ in choose_columns(metrics):
        line += f"{head:>{width}}"
    return line


def log_line(step: int, metrics: dict, before: dict) -> str:
    """One step's metrics, fields always in the same order, and warnings. before: the metrics of the step before."""
    line = name_learner(step, metrics)
    for name, value in list_rewards_of(metrics).items():
        line += f"{value:>+{choose_width(name)}.2f}"
    for _, field, width, form in choose_columns(metrics):
        line += f"{format_number(metrics, field, form):>{width}}"
    line += held_out_line(metrics)
    for warning in find_warnings(metrics, before):
        line += f"\n  warning: {warning}"
    return line


def held_out_line(metrics: dict) -> str:
    """The held-out accuracy, where a step has measured it."""
    if "heldout_greedy" not in metrics:
        return ""
    greedy, sampled = metrics["heldout_greedy"], metrics["heldout_t1"]
    return f"\n  held-out {greedy:.1f} % greedy, {sampled:.1f} % at temperature 1"


SOLVED = 0.8                # accuracy from which on equal samples are no failure: most problems are solved


def find_warnings(metrics: dict, before: dict) -> list[str]:
    """What is wrong, by the metrics of a step and of the step before it (empty: nothing)."""
    found = []
    if metrics["grad_norm"] is None:         # all groups were dead; of what is nearly learned that happens now and then
        problems = "easier"
        if metrics["accuracy"] >= 0.5:
            problems = "harder"
        if metrics["accuracy"] < SOLVED or before.get("grad_norm", 0.0) is None:
            found.append(f"nothing was learned; a larger --group, a higher --temperature or {problems} problems help")
    elif metrics["entropy"] < 0.01 and metrics["accuracy"] < SOLVED / 2:
        found.append("entropy is near 0, all samples alike: a higher --temperature or a lower --lr helps")
    if metrics["truncated"] > 0.5:
        found.append("most turns are cut off")
    if metrics["repeated"] > 0.5:
        found.append("turns repeat themselves")
    if metrics["length"] < 2:
        found.append("turns are empty")
    if metrics["grad_norm"] is not None and not math.isfinite(metrics["grad_norm"]):
        found.append("the gradient is not finite: the step was skipped")
    return found


def describe_episode(episode) -> str:
    """An episode for people."""
    row = episode.row
    lines = ["", describe_part("problem", f"{row['problem']}   (answer {row['answer']})")]
    for turn in episode.turns:
        if turn.thought:
            lines.append(describe_part(turn.agent, f"thinks: {turn.thought}"))
        lines.append(describe_part(turn.agent, turn.text.strip() or "(nothing)"))
    rewards = [f"{name} {reward:+.2f}" for name, reward in list_rewards(episode).items()]
    return "\n".join([*lines, f"  rewards    {', '.join(rewards)}", ""])


def describe_part(name: str, text: str) -> str:
    """A name, and behind it a text in lines of at most 100 columns."""
    lines = []
    for line in make_harmless(text).split("\n"):
        lines += textwrap.wrap(line, WIDTH - 13, replace_whitespace=False, drop_whitespace=False) or [""]
    return f"  {name:10} " + ("\n" + " " * 13).join(lines)


def describe_turn(turn, tokenizer, logprobs: str | None = None) -> str:
    """A turn for a terminal. logprobs "number": each under its token; "shade": behind it, the brighter the less likely.

    Where a terminal has no colours (NO_COLOR, TERM=dumb) a shade becomes a number.
    """
    mean = sum(turn.logprobs) / max(1, len(turn.logprobs))
    head = f"--- {turn.agent}: {len(turn.tokens)} tokens"
    if not turn.stopped:
        head += ", cut off"
    head += f", log-prob {mean:.2f} a token\n"
    if logprobs is None:
        if turn.thought:
            head += f"<think>\n{make_harmless(turn.thought)}\n</think>\n"
        return head + (make_harmless(turn.text.strip()) or "(nothing)")
    texts = []
    for token in turn.tokens:
        text = "<end>"
        if tokenizer.token_bytes(token):
            text = make_harmless(tokenizer.decode([token]))
        texts.append(text)
    if logprobs == "number" or not has_colours():
        return head + number_tokens(texts, turn.logprobs)
    for text, logprob in zip(texts, turn.logprobs):
        head += f"\x1b[38;5;255;48;5;{232 + min(12, round(-4 * logprob))}m{text}\x1b[0m"
    return head


def has_colours() -> bool:
    """Whether colours may be shown, see no-color.org. (A pipe may lead to a pager that shows them.)"""
    return os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def number_tokens(texts: list[str], logprobs: list[float]) -> str:
    """Tokens in columns, between | and |, and under each its log-prob. Line ends are shown as \\n.

    >>> print(number_tokens(["a=", "8"], [-0.5, -12.25]))
    |a=   |8     |
     -0.50 -12.25
    """
    lines, upper, lower = [], "|", " "
    for text, logprob in zip(texts, logprobs):
        text = text.replace("\n", "\\n").replace("\t", "\\t")
        number = f"{logprob:.2f}"
        width = max(len(text), len(number))
        if len(upper) + width + 1 > WIDTH:
            lines += [upper, lower.rstrip()]
            upper, lower = "|", " "
        upper += f"{text:{width}}|"
        lower += f"{number:{width}} "
    return "\n".join([*lines, upper, lower.rstrip()])


def show_measuring(agents: list, rows: list[dict], turns: int, step: int) -> Progress:
    """The bar of a held-out evaluation, at temperature 1 and greedy."""
    when = f"after step {step}"
    if step == 0:
        when = "before training"
    total = 2 * len(rows) * count_turns([1] * len(agents), turns)
    return open_bar(f"measuring {len(rows):,} problems {when}", total)


def show_start(metrics: dict, problems: int) -> None:
    """What the agents can do before training; nothing of a run that goes on."""
    DUE["head"] = True
    if metrics["step"] == 0:
        say(f"before training, {problems:,} problems:{held_out_line(metrics)}")


def show_step(step: int, metrics: dict, before: dict, episodes: list, show_every: int) -> None:
    """A line for the step; now and then its first and its last episode. before: the metrics of the step before."""
    if DUE["legend"]:
        say(LEGEND)
    if DUE["head"]:
        say(head_line(metrics))
    DUE.update(legend=False, head=False)
    say(log_line(step, metrics, before))
    if step % show_every == 0:
        say(describe_episode(episodes[0]) + describe_episode(episodes[-1]))
        DUE["head"] = True


# ------------------------------------------------------------------------------------------------------------
# The closing table. lines: the dictionaries of metrics.jsonl

def compute_gains(lines: list[dict]) -> dict[str, float]:
    """Points of held-out accuracy at temperature 1 that came in the phases of each agent -> {agent: points}."""
    learner = {}
    for line in lines:
        if "learner" in line:
            learner[line["step"]] = line["learner"]
    measured = [line for line in lines if "heldout_t1" in line]
    gains = {}
    for before, after in zip(measured, measured[1:]):
        names = {learner[step] for step in range(before["step"] + 1, after["step"] + 1)}
        name = "several"                 # evaluations too rare to tell them apart
        if len(names) == 1:
            name = names.pop()
        gains[name] = gains.get(name, 0.0) + after["heldout_t1"] - before["heldout_t1"]
    return gains


def count_spent_tokens(lines: list[dict]) -> int:
    """All tokens that the agents of a run sampled in training, the difficulty filter's included."""
    return sum(line.get("sampled_tokens", 0) + line.get("filter_tokens", 0) for line in lines)


def before_and_after(lines: list[dict]) -> str:
    """What a run has changed."""
    measured = [line for line in lines if "heldout_greedy" in line]
    first, last = measured[0], measured[-1]
    rows = ["                          before          after      gained"]
    for name, label in (("heldout_greedy", "greedy"), ("heldout_t1", "temperature 1")):
        was, now = first[name], last[name]
        rows.append(f"  {label:16} {was:8.1f} +- {show_error(first[name + '_se']):3} {now:8.1f} +- "
                    f"{show_error(last[name + '_se']):3} {now - was:+9.1f}")
    for name, points in compute_gains(lines).items():
        rows.append(f"  gained in the phases of {name}: {points:+.1f} points (temperature 1)")
    if "heldout_greedy_leaks" in last:
        rows.append(f"  plans with the gold answer: {last['heldout_greedy_leaks']:.1f} % (greedy)")
    episodes = sum(line.get("episodes", 0) for line in lines)
    rows.append(f"  {episodes:,} episodes, {count_spent_tokens(lines):,} sampled tokens")
    return "\n".join(rows)


def name_process(args) -> str:
    """Who speaks: rema, vrp, mrp, or roles that a program has brought."""
    if not args.own_roles:
        return args.process
    return ", ".join(role["name"] for role in args.roles)


def print_table(args, rows: list[dict], table: dict[str, tuple[float, float | None]]) -> None:
    """What eval.py has measured: figures with their standard errors, in percent, lengths in tokens."""
    problems = len(drop_copies(rows))
    copies = ""
    if problems < len(rows):
        copies = f" in {len(rows)} rows (copies count as samples)"
    samples = "1 sample each"
    if args.plans * args.answers > 1:
        samples = f"{args.plans * args.answers} samples each"
    print(f"{args.model}, {name_process(args)}, {args.data}, {problems:,} problems{copies}, "
          f"temperature {args.temperature:g}, {samples}")
    for figure, (mean, error) in table.items():
        unit = "%"
        if figure.startswith("tokens"):
            unit = " "
        print(f"  {make_harmless(figure):44} {mean:6.1f} {unit} +- {show_error(error)}")
    if args.temperature == 0 and (copies or args.plans * args.answers > 1):
        print("  At temperature 0 all samples of a problem are the same: they say no more than one does "
              "(--temperature 1 draws different ones).")


def print_closing(args, held_rows: list[dict]) -> None:
    """What a run has changed, for stdout."""
    lines = read_jsonl(pathlib.Path(args.out) / "metrics.jsonl", ("step",))
    print(f"\n{args.model}, {name_process(args)}, {len(held_rows)} held-out problems of {args.eval_data or args.data}, "
          f"percent\n{before_and_after(lines)}")


def print_files(out: str, agents: list) -> None:
    """What a run leaves."""
    names = ", ".join(agent.name for agent in agents)
    print(f"to read, in a browser: {out}/report.html\n"
          f"beside it: curves.png, metrics.jsonl, episodes.jsonl, heldout.jsonl, best, {names}")
