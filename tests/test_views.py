"""data/views: curves of every kind of run, what a terminal shows, a page that hostile text cannot take over."""
import html.parser
import io
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

import eval as evaluation
import rema
import rollout
import train
from data import UserError
from data.views import bars, curves, page, program, statistics, terminal
from data.formats import runs
from data.formats.hub import TINY
from data.formats.tokenizer import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOSTILE = '</pre><script>alert(1)</script><img src=x onerror="alert(1)">&lt;\u202e\x00'


def line(step, **more):
    return dict(step=step, learner=("high", "low")[step % 2], reward_high=0.1 * step, reward_low=0.5,
                entropy=None, length=20.0, **more)


def measured(step):
    return {"step": step, "heldout_greedy": 40.0, "heldout_greedy_se": 2.0, "heldout_t1": 20.0,
            "heldout_t1_se": 2.0}


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the figure that is drawn, caught when it is closed; without the slow layout."""
    found = []
    monkeypatch.setattr(curves.plt.Figure, "tight_layout", lambda figure: None)
    monkeypatch.setattr(curves.plt, "close", lambda figure: found.extend(figure.axes))
    yield found
    monkeypatch.undo()
    curves.plt.close("all")


def test_curves_of_a_plain_run(drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(curves.plt.Figure, "savefig", lambda *args, **how: None)
    curves.draw_curves([measured(0), line(1), line(2), line(3), measured(3)], tmp_path / "curves.png", "tiny")
    assert len(drawn) == 4
    assert [text.get_text() for text in drawn[1].get_legend().get_texts()] == ["high", "low"]
    assert len(drawn[0].patches) == 3 and drawn[2].get_legend() is None    # phases; no entropy known


def test_curves_of_guided_plans_show_the_actions(tmp_path, drawn):
    shares = dict(share_DECOMPOSE=0.75, share_REWRITE=0.25, share_EMPTY=0.0, level_DECOMPOSE=2.0,
                  level_REWRITE=1.5, level_EMPTY=None)
    steps = [line(1, **shares), line(2, **{**shares, "level_REWRITE": None})]
    curves.draw_curves([measured(0), *steps], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    share, level = drawn[4:]
    assert {one.get_label(): list(one.get_ydata()) for one in share.lines} == {
        "DECOMPOSE": [0.75, 0.75], "REWRITE": [0.25, 0.25], "EMPTY": [0.0, 0.0]}
    assert {one.get_label(): list(one.get_xdata()) for one in level.lines} == {
        "DECOMPOSE": [1, 2], "REWRITE": [1]}
    assert share.get_xlabel() == level.get_xlabel() == "step" and drawn[3].get_xlabel() == ""


def test_curves_of_agents_of_any_name(drawn, monkeypatch, tmp_path):
    """Three voices, one after the other or together: each has a line and a colour of its own."""
    monkeypatch.setattr(curves.plt.Figure, "savefig", lambda *args, **how: None)
    names = ("planner", "critic", "low")
    earned = {f"reward_{name}": 0.5 for name in names}
    steps = [dict(step=i + 1, learner=learner, entropy=0.5, length=9.0, **earned)
             for i, learner in enumerate([*names, "+".join(names)])]
    curves.draw_curves([measured(0), *steps], tmp_path / "curves.png")
    colours = {one.get_label(): one.get_color() for one in drawn[1].lines}
    assert list(colours) == list(names) and len(set(colours.values())) == 3
    assert colours["low"] == curves.COLOURS["low"]
    assert [one.get_label() for one in drawn[2].lines] == [*names, "+".join(names)] and len(drawn[0].patches) == 4


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.data = [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.data += data


def episode(plan, said, correct=False, **row):
    turns = [rema.Turn([], [], [], False, "high", plan, (0, 0)), rema.Turn([], [], [], True, "low", said, (0, 0, 0))]
    return rema.Episode({"problem": "1+1", "answer": "2", **row}, (0, 0, 0), turns, correct)


def test_the_page_says_what_was_said_and_whether_it_is_right(tmp_path):
    episodes = [episode("add them", "so \\boxed{2}", True, id="a-1"), episode("", "no idea")]
    page.html_page(episodes, tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    for part in ("<h2>a-1, plan 1, answer 1</h2>", "2 of 2 episodes (all), of 2 in all", '<pre class="high">add them</pre>', '<pre class="low">so \\boxed{2}</pre>',
                 '<b class="right">right</b>: boxed answer <code>2</code>',
                 '<b class="wrong">wrong</b>: boxed answer <code>(none)',
                 "(nothing)", "plan (cut off)", "gold answer <code>2</code>"):
        assert part in text, part


def test_the_page_shows_what_was_chosen(tmp_path):
    episodes = []
    for i in range(3):
        turn = rema.Turn([], [1], [-1.0], True, "solo", "\\boxed{1}", (i, 0))
        episodes.append(rema.Episode({"id": f"p{i}", "problem": "p", "answer": str(i)}, turn.place, [turn]))
    rema.score(episodes, rema.PROCESSES["vrp"])
    for which, shown in (("all", ["p0", "p1", "p2"]), ("right", ["p1"]), ("wrong", ["p0", "p2"])):
        page.html_page(episodes, tmp_path / "x.html", which=which)
        text = (tmp_path / "x.html").read_text()
        assert [name for name in ("p0", "p1", "p2") if f"<h2>{name}, sample 1<" in text] == shown
        assert f"{len(shown)} of {len(shown)} episodes ({which}), of 3 in all" in text


def test_hostile_text_stays_text(tmp_path):
    bad = episode(HOSTILE, f"\\boxed{{{HOSTILE}}}", problem=HOSTILE + "\ud800", answer=HOSTILE, id=HOSTILE)
    page.html_page([bad], tmp_path / "x.html", title=HOSTILE)
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    page.html_page([episode("a", "b")], tmp_path / "y.html", title="")
    found, plain = Tags(text), Tags((tmp_path / "y.html").read_text(encoding="utf-8"))
    assert found.tags == plain.tags and found.attributes == plain.attributes
    assert found.data.count("alert(1)</script>") >= 5


def test_tokens_are_shaded_by_their_log_probs(tmp_path):
    tokenizer = Tokenizer.load(TINY)
    ids = tokenizer.encode("<b>é") + sorted(tokenizer.stop_ids)[:1]
    turn = rema.Turn([], ids, [0.0] + [-9.0] * (len(ids) - 1), True, "solo", "<b>é")
    text = page.shade_tokens(turn, tokenizer)
    found = Tags(text)
    assert found.tags == ["span"] * len(ids) and found.data == "<b>é▪"              # é is two tokens
    assert text.count("0.70)") == len(ids) - 1 and text.count("0.00)") == 1
    half = rema.Turn([], ids[:-2], [-math.inf] * (len(ids) - 2), False, "solo", "")
    assert page.shade_tokens(half, tokenizer).count("\ufffd") == 1
    page.html_page([rema.Episode({"problem": "p", "answer": "1"}, (0, 0), [turn])], tmp_path / "x.html",
                   tokenizer=tokenizer)
    assert pathlib.Path(tmp_path / "x.html").read_text(encoding="utf-8").count("<span") == len(ids)


# ------------------------------------------------------------------------------------------------------------
# What a terminal shows, and the figures behind it

def test_collapse_is_named():
    healthy = dict(accuracy=0.3, entropy=0.5, grad_norm=1.0, truncated=0.0, repeated=0.1, length=20)
    assert terminal.find_warnings(healthy, {}) == []
    for change, word in (({"entropy": 1e-4}, "entropy"), ({"truncated": 0.9}, "cut off"),
                         ({"repeated": 0.9}, "repeat"), ({"length": 1}, "empty"), ({"grad_norm": math.nan}, "finite")):
        assert word in terminal.find_warnings({**healthy, **change}, {})[0]
    assert terminal.find_warnings({**healthy, "entropy": 1e-4, "accuracy": 0.9}, {}) == []     # it is sure, and right
    assert statistics.share_repeated([1, 2, 3, 4] * 10) > 0.8 and statistics.share_repeated(list(range(40))) == 0
    assert statistics.share_repeated([1, 2]) == 0


@pytest.mark.parametrize("accuracy, before, problems", [
    (0.0, {"grad_norm": 1.0}, "easier"), (0.6, {}, "harder"), (1.0, {"grad_norm": None}, "harder"),
    (0.9, {"grad_norm": 1.0}, None), (0.9, {}, None)])
def test_a_step_that_teaches_nothing_says_what_helps(accuracy, before, problems):
    """Now and then all groups of what is nearly learned are dead: two such steps in a row are one too many."""
    dead = dict(accuracy=accuracy, entropy=None, grad_norm=None, truncated=0.0, repeated=0.1, length=20)
    found = terminal.find_warnings(dead, before)
    if problems is None:
        assert found == []
    else:
        assert len(found) == 1 and "--group" in found[0] and "--temperature" in found[0] and problems in found[0]
        assert len(found[0]) <= 100 - len("  warning: ")


def test_the_published_runs_do_not_warn():
    for log in sorted(ROOT.glob("data/results/tiny-*/metrics.jsonl")):
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        for before, line in zip(lines, lines[1:]):
            assert terminal.find_warnings({"repeated": 0.0, **line}, before) == [], log


def make_step():
    """Two plans (2 tokens, one cut off), two answers each (1 token); the low-level agent learns."""
    episodes = []
    for i in range(2):
        plan = rema.Turn([7], [1, 1], [-1.0] * 2, i == 0, "high", "add", (0, i), reward=0.5 * i)
        for j in range(2):
            answer = rema.Turn([8], [2], [-1.0], True, "low", "\\boxed{2}", (0, i, j), reward=float(i * j))
            row = {"id": "q", "problem": "1+1", "answer": "2"}
            episodes.append(rema.Episode(row, answer.place, [plan, answer], correct=i == 0))
    return episodes


def test_the_log_of_a_step_counts_each_turn_once():
    learned = dict(entropy=0.4, kl=0.0, grad_norm=2.0, clip_share=0.1, sampling_logp_difference=1e-6, trained_tokens=8)
    found = statistics.describe_step(make_step(), ["high", "low"], [1], [learned])
    assert found["learner"] == "low" and found["accuracy"] == 0.5 and found["episodes"] == 4
    assert found["reward_high"] == 0.25 and found["reward_low"] == 0.25
    assert found["sampled_tokens"] == 2 * 2 + 4              # a plan is sampled once, however many answers it has
    assert found["length"] == 1 and found["truncated"] == 0                    # of the learner's turns
    assert found["frac_reward_zero_std"] == 0.5              # the answers to the first plan earn the same
    assert found["grad_norm"] == 2.0 and found["trained_tokens"] == 8
    both = statistics.describe_step(make_step(), ["high", "low"], [0, 1], [learned, {**learned, "grad_norm": 4.0}])
    assert both["learner"] == "high+low" and both["grad_norm"] == 3.0 and both["trained_tokens"] == 16
    assert both["length"] == pytest.approx(8 / 6) and both["truncated"] == pytest.approx(1 / 6)
    assert both["frac_reward_zero_std"] == 0.25              # none of the plans', half of the answers'
    nothing = statistics.describe_step(make_step(), ["high", "low"], [1], [])
    assert nothing["grad_norm"] is None and nothing["trained_tokens"] == 0


def test_a_log_line_has_all_fields_also_when_nothing_was_learned():
    learned = dict(entropy=0.4, kl=0.02, grad_norm=2.0, clip_share=0.1, sampling_logp_difference=1e-6, trained_tokens=8)
    for updates, values in (([], ["-", "-", "-", "-", "-"]), ([learned], ["0.40", "2.00", "0.0200", "0.100", "1e-06"])):
        found = statistics.describe_step(make_step(), ["high", "low"], [1], updates)
        line, *warnings = terminal.log_line(3, found, {}).split("\n")
        shown = line.split()
        assert shown == ["step", "3", "low", "+0.25", "+0.25", "0.50", "1", "0.00", "0.50", *values]
        heads = terminal.head_line(found).split()
        assert heads == ["step", "learns", "high", "low", "acc", "len", "cut", "same", "ent", "grad", "kl", "clip", "dlogp"]
        assert "warning: turns are empty" in warnings[-1] and len(warnings) == (1 if updates else 2)
        assert "held-out 40.0 % greedy, 20.0 % at temperature 1" in terminal.log_line(3, {**found, **measured(3)}, {})


def test_a_log_line_never_exceeds_the_terminal():
    found = statistics.describe_step(make_step(), ["high", "low"], [1], [])
    for name in ("planner", "critic", "debater_one", "debater_two"):
        found[f"reward_{name}"] = -0.5
        found["learner"] += f"+{name}"
        head, line = terminal.head_line(found), terminal.log_line(3, found, {}).split("\n")[0]
        assert len(head) == len(line.rstrip()) <= 100 and " several " in line and name in head
    assert max(len(line) for line in terminal.LEGEND.splitlines()) <= 100
    assert all(f"  {head} " in terminal.LEGEND for head, *_ in terminal.COLUMNS)


def test_the_legend_comes_once_and_the_head_where_it_is_needed(capsys):
    terminal.DUE.update(legend=True, head=True)
    found = {**statistics.describe_step(make_step(), ["high", "low"], [1], []), "time_sample": 1.0, "time_train": 1.0}
    for step in range(1, 6):
        terminal.show_step(step, found, {}, make_step(), 2)
    said = capsys.readouterr().err
    assert said.count("watch the reward") == 1 and said.count("step       learns") == 3    # at first, after episodes
    assert said.count("  problem    1+1") == 4


# ------------------------------------------------------------------------------------------------------------
# Signs of life

def make_screen(monkeypatch):
    """A terminal of 100 columns in the place of stderr; bars tick every 20 ms. What is written there is kept."""
    class Screen(io.StringIO):
        def isatty(self):
            return True
    found = Screen()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("PAUSE", "FIRST", "SILENCE"):
        monkeypatch.setattr(bars, name, 0.02)
    return found


def wait_until(found):
    """Until something holds, at most ten seconds."""
    for _ in range(1000):
        if found():
            return True
        time.sleep(0.01)
    return False


def test_a_bar_ticks_while_the_work_says_nothing(monkeypatch):
    screen = make_screen(monkeypatch)
    with bars.open_bar("measuring", 1000) as bar:
        assert wait_until(lambda: screen.getvalue().count("measuring") >= 3)
        bar.update(400)
        assert wait_until(lambda: "400/1000" in screen.getvalue())
    shown = screen.getvalue()
    assert max(len(part) for part in re.split("[\r\n]", shown)) <= 99
    assert shown.rsplit("\r", 1)[1].strip() == ""            # nothing is left there
    with bars.wait_for("loading tiny"):
        assert wait_until(lambda: "loading tiny ... 00:0" in screen.getvalue())


def test_no_bar_where_none_can_be_drawn(monkeypatch):
    """On a dumb terminal, and in a file: plain lines, one after the other."""
    make_screen(monkeypatch)
    for make_dumb in (lambda: monkeypatch.setenv("TERM", "dumb"),
                      lambda: monkeypatch.setattr(sys, "stderr", io.StringIO())):
        make_dumb()
        with bars.open_bar("measuring", 1000) as bar:
            bar.update(400)
            assert wait_until(lambda: "measuring: 400 of 1,000 turns\n" in sys.stderr.getvalue())
        assert list(bars.count_steps(3, 5)) == [4, 5]
        assert not re.search("[\r\x1b]", sys.stderr.getvalue()) and "train" not in sys.stderr.getvalue()


def test_the_bar_of_steps_counts_those_that_are_finished(monkeypatch):
    screen = make_screen(monkeypatch)
    steps = []
    for step in bars.count_steps(2, 4):
        steps.append(step)
        assert wait_until(lambda: f" {step - 1}/4 " in screen.getvalue())
        if step == 4:
            break
    assert steps == [3, 4] and " 4/4 " not in screen.getvalue()


def test_the_first_line_comes_before_torch(tmp_path):
    """In a terminal alone: a program in a pipe says nothing but its errors."""
    pty = pytest.importorskip("pty")
    for name in ("train.py", "eval.py", "rollout.py"):
        first = (ROOT / name).read_text(encoding="utf-8").split('"""\n', 1)[1]
        assert first.startswith("from data.views import greeting ")
    program = ("import runpy, sys, time\nimport torch\n" if False else "")
    script = tmp_path / "mine.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom data.views import greeting\n"
                      f"greeting.HOUSE = greeting.pathlib.Path({str(tmp_path)!r}).resolve()\n"
                      "greeting.greet()\nassert 'torch' not in sys.modules\n")
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, str(script)], stderr=theirs, check=True)
    assert os.read(ours, 1000) == b"mine.py: loading torch, which takes a few seconds\r\n"    # not from elsewhere: once
    done = subprocess.run([sys.executable, str(script)], capture_output=True, check=True)
    assert done.stderr == done.stdout == b""


def test_gains_are_those_of_the_phases_between_two_measurements():
    learners = ["high", "high", "low", "low", "high", "low"]
    lines = [dict(step=0, heldout_t1=10.0)]
    for step, learner in enumerate(learners, 1):
        lines.append(dict(step=step, learner=learner))
    for step, value in ((2, 15.0), (4, 12.0), (6, 20.0)):
        lines[step]["heldout_t1"] = value
    assert terminal.compute_gains(lines) == {"high": 5.0, "low": -3.0, "several": 8.0}


def test_a_terminal_is_not_steered_by_what_is_said():
    bad = "\x1b[2Ja\tb\nc\r\x9b\ud800é"
    assert terminal.make_harmless(bad) == "\ufffd[2Ja\tb\nc\ufffd\ufffd\ufffdé"
    episode_text = terminal.describe_episode(episode(bad, bad, problem=bad, answer=bad))
    assert not re.search("[\x1b\r\x9b\ud800]", episode_text) and "rewards    high +0.00, low +0.00" in episode_text


def test_long_texts_are_wrapped(capsys):
    text = terminal.describe_episode(episode("first " * 60, "x" * 250 + "\n\nso 5", problem="1+1"))
    lines = text.splitlines()
    assert max(len(line) for line in lines) == 100 and "             so 5" in lines
    assert "".join(line[13:] for line in lines if "x" in line) == "x" * 250


# ------------------------------------------------------------------------------------------------------------
# How a program errs

def test_numbers_of_flags_are_held_to_their_least():
    assert program.count("3") == 3 and program.count_or_none("0") == 0 and program.amount("0") == 0.0
    assert program.rate("1e-6") == 1e-6
    for read, texts in ((program.count, ("0", "-1", "1.5", "nan", "x")), (program.count_or_none, ("-1", "0.5")),
                        (program.amount, ("-0.1", "nan", "inf")), (program.rate, ("0", "-1", "nan", "inf"))):
        for text in texts:
            with pytest.raises((ValueError, program.argparse.ArgumentTypeError)):
                read(text)


def test_a_free_directory_is_claimed_and_a_used_one_refused(tmp_path):
    taken = [runs.claim_directory(str(tmp_path / "out" / "run")) for _ in range(3)]
    assert [os.path.basename(path) for path in taken] == ["run", "run-2", "run-3"]
    runs.refuse_used(None, "is used")
    runs.refuse_used(str(tmp_path / "new"), "is used")
    runs.refuse_used(taken[0], "is used")                 # empty
    (tmp_path / "out" / "run" / "file").write_text("precious")
    for path in (taken[0], str(tmp_path / "out" / "run" / "file")):
        with pytest.raises(UserError, match="is used|is a file"):
            runs.refuse_used(path, "is used")


@pytest.mark.parametrize("script", [train, evaluation, rollout])
def test_help_fits_a_terminal_of_a_hundred_columns(script, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        script.main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100
