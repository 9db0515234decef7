"""data/views/plots.py and data/views/page.py: curves of every kind of run, a page that hostile text cannot take over."""
import html.parser
import math
import pathlib

import pytest

import rema
from data.views import page, plots
from data.formats.hub import TINY
from data.formats.tokenizer import Tokenizer

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
    monkeypatch.setattr(plots.plt.Figure, "tight_layout", lambda figure: None)
    monkeypatch.setattr(plots.plt, "close", lambda figure: found.extend(figure.axes))
    yield found
    monkeypatch.undo()
    plots.plt.close("all")


def test_curves_of_a_plain_run(drawn, monkeypatch):
    monkeypatch.setattr(plots.plt.Figure, "savefig", lambda *args, **how: None)
    plots.curves([measured(0), line(1), line(2), line(3), measured(3)], "curves.png", "tiny")
    assert len(drawn) == 4
    assert [text.get_text() for text in drawn[1].get_legend().get_texts()] == ["high", "low"]
    assert len(drawn[0].patches) == 3 and drawn[2].get_legend() is None    # phases; no entropy known


def test_curves_of_guided_plans_show_the_actions(tmp_path, drawn):
    shares = dict(share_DECOMPOSE=0.75, share_REWRITE=0.25, share_EMPTY=0.0, level_DECOMPOSE=2.0,
                  level_REWRITE=1.5, level_EMPTY=None)
    steps = [line(1, **shares), line(2, **{**shares, "level_REWRITE": None})]
    plots.curves([measured(0), *steps], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    share, level = drawn[4:]
    assert {one.get_label(): list(one.get_ydata()) for one in share.lines} == {
        "DECOMPOSE": [0.75, 0.75], "REWRITE": [0.25, 0.25], "EMPTY": [0.0, 0.0]}
    assert {one.get_label(): list(one.get_xdata()) for one in level.lines} == {
        "DECOMPOSE": [1, 2], "REWRITE": [1]}
    assert share.get_xlabel() == level.get_xlabel() == "step" and drawn[3].get_xlabel() == ""


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
    turns = [rema.Turn("high", [], [], [], False, plan), rema.Turn("low", [], [], [], True, said)]
    return rema.Episode({"problem": "1+1", "answer": "2", **row}, 0, 0, 0, turns, correct)


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
    turn = rema.Turn("solo", [], [1], [-1.0], True, "\\boxed{1}")
    episodes = [rema.Episode({"id": f"p{i}", "problem": "p", "answer": str(i)}, i, 0, 0, [turn]) for i in range(3)]
    rema.score(episodes)
    for which, shown in (("all", ["p0", "p1", "p2"]), ("right", ["p1"]), ("wrong", ["p0", "p2"])):
        page.html_page(episodes, tmp_path / "x.html", which=which)
        text = (tmp_path / "x.html").read_text()
        assert [name for name in ("p0", "p1", "p2") if f"<h2>{name}, plan 1, answer 1<" in text] == shown
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
    turn = rema.Turn("solo", [], ids, [0.0] + [-9.0] * (len(ids) - 1), True, "<b>é")
    text = page.shaded(turn, tokenizer)
    found = Tags(text)
    assert found.tags == ["span"] * len(ids) and found.data == "<b>é▪"              # é is two tokens
    assert text.count("0.70)") == len(ids) - 1 and text.count("0.00)") == 1
    half = rema.Turn("solo", [], ids[:-2], [-math.inf] * (len(ids) - 2), False, "")
    assert page.shaded(half, tokenizer).count("\ufffd") == 1
    page.html_page([rema.Episode({"problem": "p", "answer": "1"}, 0, 0, 0, [turn])], tmp_path / "x.html",
                   tokenizer=tokenizer)
    assert pathlib.Path(tmp_path / "x.html").read_text(encoding="utf-8").count("<span") == len(ids)
