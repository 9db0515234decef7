"""report.html: what a run was, how it went, and how its answers changed, as one page that needs nothing else.

It is made of what lies in the directory of the run: metrics.jsonl, heldout.jsonl, curves.png. As in page.py all that
models and data sets have said is escaped, and the page may neither run nor load anything.
"""
import base64
import pathlib

from data.formats.files import atomic_write
from data.problems.reading import read_jsonl
from data.views import curves
from data.views.page import HEAD, LABELS, escape
from data.views.statistics import show_error
from data.views.terminal import compute_gains, count_spent_tokens, make_harmless, name_process

# What the settings of a run are when no flag says otherwise: filled in by train.py.
USUAL = {}
OF_THE_MACHINE = ("out", "resume", "device", "dtype", "threads")     # settings that differ from machine to machine
NOT_SHOWN = ("roles", "command", "program", "rows_digest", "typed")     # for programs, in config.json but for typed

STYLE = """<style>
body { max-width: 76em } table { border-collapse: collapse; margin: 0.5em 0 1em } img { max-width: 100% }
td, th { text-align: left; vertical-align: top; padding: 0.2em 0.8em 0.2em 0; border-bottom: 1px solid #ddd }
.said { width: 100%; table-layout: fixed } .said pre { margin: 0.2em 0; max-height: 20em; overflow: auto }
.said pre.high, .said pre.low { margin: 0.2em 0 } .number { text-align: right } .same { color: #767676 }
.step { width: 5em } .verdict { width: 11em }
@media print { .said pre { max-height: none } h2 { break-after: avoid } tr { break-inside: avoid } }
</style>
"""


def leave_report(args) -> None:
    """curves.png and report.html of a run. args: its settings."""
    curves.draw_run(args.out, args)
    write_report(args)


def write_report(args, diagnosis: str = "") -> None:
    """report.html of a run. diagnosis: what is known of the worth of plans, as text."""
    directory = pathlib.Path(args.out)
    lines = curves.read_metrics(directory)
    title = f"{args.model}, {name_process(args)}, seed {args.seed}"
    parts = [HEAD.format(title=escape(title)), STYLE, write_summary(args, lines), write_table(lines)]
    if diagnosis:
        parts.append(f"<p>Does the plan matter? The same problems under other plans:</p>\n<pre>{escape(diagnosis)}</pre>\n")
    parts += [write_curves(directory), write_answers(directory), write_settings(args)]
    page = "".join(parts) + "</html>\n"
    atomic_write(directory / "report.html", page.encode("utf-8", "replace"))


def write_summary(args, lines: list[dict]) -> str:
    """What was trained on what, and how far it has come."""
    steps = lines[-1]["step"]
    done = f"{steps} steps"
    if steps < args.steps:
        done = f"<b>interrupted after {steps} of {args.steps} steps</b>"
    episodes = sum(line.get("episodes", 0) for line in lines)
    command = ""
    if getattr(args, "command", None):
        command = f"<pre>{escape(args.command)}</pre>\n"
    return (f"<p>Reinforcement learning on problems of {escape(args.data)}: {done}, {episodes:,} episodes, "
            f"{count_spent_tokens(lines):,} sampled tokens.</p>\n{command}")


def write_table(lines: list[dict]) -> str:
    """Held-out accuracy before and after, and in whose phases it came."""
    measured = [line for line in lines if "heldout_greedy" in line]
    if not measured:
        return "<p>It was not measured.</p>\n"
    first, last = measured[0], measured[-1]
    parts = ["<h2>What it learned</h2>\n<p>Right answers to held-out problems, percent, with standard errors.</p>\n"
             f"<table><tr><th></th><th>before</th><th>after step {last['step']}</th><th>gained</th></tr>\n"]
    for name, label in (("heldout_greedy", "greedy, as it will be used"), ("heldout_t1", "at temperature 1, as RL samples")):
        cells = [label]
        for line in (first, last):
            cells.append(f"{line[name]:.1f} ± {show_error(line[name + '_se'])}")
        cells.append(f"{last[name] - first[name]:+.1f}")
        parts.append(write_row(cells))
    parts.append("</table>\n<ul>\n")
    for name, points in compute_gains(lines).items():
        parts.append(f"<li>gained in the phases of {escape(name)}: {points:+.1f} points (temperature 1)</li>\n")
    if "heldout_greedy_leaks" in last:
        parts.append(f"<li>plans that give the answer away: {last['heldout_greedy_leaks']:.1f} % (greedy)</li>\n")
    return "".join(parts) + "</ul>\n"


def write_row(cells: list) -> str:
    """Cells are text, not HTML."""
    inner = "".join([f"<td>{escape(cell)}</td>" for cell in cells])
    return f"<tr>{inner}</tr>\n"


def write_curves(directory: pathlib.Path) -> str:
    """The picture, within the page."""
    path = directory / "curves.png"
    if not path.exists():
        return ""
    code = base64.b64encode(path.read_bytes()).decode()
    return ("<h2>Curves</h2>\n<p>The shade says whose turn it is to learn.</p>\n"
            f'<img alt="learning curves" src="data:image/png;base64,{code}">\n')


# ------------------------------------------------------------------------------------------------------------
# How the answers changed

def write_answers(directory: pathlib.Path) -> str:
    """A table for each of the held-out problems that were followed: what was said at each evaluation."""
    path = directory / "heldout.jsonl"
    if not path.exists() or not path.read_bytes().strip():
        return ""
    problems = {}
    for said in read_jsonl(path, required=("step", "turns")):
        problems.setdefault(said["id"], []).append(said)
    parts = [f"<h2>How the answers to {len(problems)} held-out problems changed</h2>\n"
             "<p>The likeliest words at each evaluation (greedy). Grey: the same as the time before.</p>\n"]
    for number, moments in enumerate(problems.values(), 1):
        parts.append(f"<h3>Problem {number}, <code>{escape(moments[0]['id'])}</code></h3>\n")
        parts.append(write_problem(moments))
    return "".join(parts)


def write_problem(moments: list[dict]) -> str:
    """moments: records of heldout.jsonl about one problem, in the order of steps."""
    first = moments[0]
    names = []
    for moment in moments:
        for turn in moment["turns"]:
            names.append(turn["role"])
    names = list(dict.fromkeys(names))
    heads = "".join([f"<th>{escape(LABELS.get(name, name))}</th>" for name in names])
    parts = [f"<pre>{escape(make_harmless(first['problem']))}</pre>\n"
             f"<p>gold answer <code>{escape(first['answer'])}</code></p>\n"
             f'<table class="said"><tr><th class="step">step</th>{heads}<th class="verdict">verdict</th></tr>\n']
    before = None
    for moment in moments:
        parts.append(write_moment(moment, before, names))
        before = moment
    return "".join(parts) + "</table>\n"


def write_moment(moment: dict, before: dict | None, names: list[str]) -> str:
    """A row: what each agent said at one evaluation, and the verdict."""
    cells = [f"<td>{moment['step']}</td>"]
    for name in names:
        texts = list_texts(moment, name)
        look = ""
        if before is not None and texts == list_texts(before, name):
            look = " same"
        boxes = []
        for text in texts:
            boxes.append(f'<pre class="{escape(name)}{look}">{escape(text)}</pre>')
        cells.append(f"<td>{''.join(boxes)}</td>")
    verdict = "wrong"
    if moment["correct"]:
        verdict = "right"
    given = moment["extracted"] or "(no box)"
    cells.append(f'<td><b class="{verdict}">{verdict}</b> <code>{escape(make_harmless(given))}</code></td>')
    return f"<tr>{''.join(cells)}</tr>\n"


def list_texts(moment: dict, name: str) -> list[str]:
    """What an agent said, turn by turn; in a conversation there are several, numbered."""
    texts = []
    own = [turn for turn in moment["turns"] if turn["role"] == name]
    for number, turn in enumerate(own, 1):
        text = make_harmless(turn["text"].strip()) or "(nothing)"
        if not turn["stopped"]:
            text += " (cut off)"
        if len(own) > 1:
            text = f"{number}: {text}"
        texts.append(text)
    return texts


# ------------------------------------------------------------------------------------------------------------
# Settings

def write_settings(args) -> str:
    """Those that differ from what they are without a flag first, then all others, folded."""
    changed, others = [], []
    for name, value in vars(args).items():
        if name in NOT_SHOWN:
            continue
        row = write_row([f"--{name.replace('_', '-')}", show_value(value)])
        if name in USUAL and name not in OF_THE_MACHINE and value != USUAL[name]:
            changed.append(row)
        else:
            others.append(row)
    parts = ["<h2>Settings</h2>\n"]
    if changed:
        parts += ["<p>Other than usual:</p>\n<table>", *changed, "</table>\n"]
    else:
        parts.append("<p>All as usual.</p>\n")
    parts += ["<details><summary>All others</summary>\n<table>", *others, "</table></details>\n"]
    return "".join(parts)


def show_value(value) -> str:
    """As it is typed."""
    if isinstance(value, list):
        return " ".join([str(part) for part in value])
    if value is None:
        return "(none)"
    return str(value)
