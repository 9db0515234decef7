"""report.html of a run: what it says, for any number of agents and for conversations; hostile text; the logs behind it."""
import base64
import html.parser
import json
import re
from types import SimpleNamespace

import pytest

import rema
import train
from data.formats.files import write_json
from data.views import report, statistics

HOSTILE = '</pre></td></table><script>alert(1)</script><img src=x onerror="alert(1)">\u202e\x00\ud800'
PICTURE = b"\x89PNG a picture"


@pytest.fixture(autouse=True)
def nothing_is_usual(monkeypatch):
    """Until a run says what is: others have been there before."""
    monkeypatch.setattr(report, "USUAL", {})


class Page(html.parser.HTMLParser):
    """Tags must close as they open; text is kept, and for each table the texts of its cells."""
    EMPTY = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.data, self.tables = [], [], [], "", []
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.data += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


def make_run(directory, names=("high", "low"), conversation=False, text="add them", steps=20, **settings):
    """A directory of a run that was measured twice, before and after step 10; with two of five problems."""
    lines = [{"step": 0, "heldout_greedy": 40.0, "heldout_greedy_se": 1.0, "heldout_t1": 20.0, "heldout_t1_se": None}]
    for step in range(1, 11):
        lines.append({"step": step, "learner": names[0], "episodes": 2, "sampled_tokens": 200})
    lines[-1].update(lines[0], step=10, heldout_greedy=55.5, heldout_t1=35.5)
    write_json(directory / "metrics.jsonl", lines)
    for step in (0, 10):
        episodes = []
        for i in range(2):
            turns = []
            for number in range(1 + conversation):
                for name in names:
                    said = f"{text} {number}" if name == names[0] else f"so {step + number}"
                    turns.append(rema.Turn([], [1], [0.0], not conversation, name, said))
            row = {"id": f"p{i}-{text[:2]}", "problem": f"{i}+1 {text}", "answer": f"{i}{text}"}
            episodes.append(rema.Episode(row, (i, 0), turns, correct=step == 10 and i == 0))
        statistics.log_held_out(directory, step, episodes)
    (directory / "curves.png").write_bytes(PICTURE)
    settings = dict(model="tiny", process="rema", seed=0, data="arithmetic", out=str(directory), lr=3e-4, group=[8],
                    steps=steps, command="python train.py --seed '1 2'", own_roles=False, roles=["<b>"]) | settings
    return SimpleNamespace(**settings)


def read_page(directory, args, **how):
    report.write_report(args, **how)
    return (directory / "report.html").read_text(encoding="utf-8")


def test_the_report_says_what_was_learned_and_how_answers_changed(tmp_path):
    text = read_page(tmp_path, make_run(tmp_path), diagnosis="swapped costs < 3")
    page = Page(text)
    learned, first, second = page.tables[:3]
    assert learned[1] == ["greedy, as it will be used", "40.0 ± 1.0", "55.5 ± 1.0", "+15.5"]
    assert learned[2][1:3] == ["20.0 ± -", "35.5 ± -"]
    assert first[0] == ["step", "high-level agent: plan", "low-level agent: answer", "verdict"]
    assert first[1] == ["0", "add them 0", "so 0", "wrong (no box)"]
    assert first[2] == ["10", "add them 0", "so 10", "right (no box)"] and second[2][3].startswith("wrong")
    assert text.count('<pre class="high same">') == 2 and '<pre class="low same">' not in text
    for part in ("interrupted after 10 of 20 steps", "20 episodes, 2,000 sampled tokens", "swapped costs < 3",
                 "python train.py --seed '1 2'", "gold answer 0add them", "gained in the phases of high: +15.5 points"):
        assert part in page.data, part
    [source] = page.sources
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PICTURE
    assert "default-src 'none'" in text and "http" not in text.replace("http-equiv", "")


def test_the_report_knows_any_number_of_agents(tmp_path):
    for i, names in enumerate((("solo",), ("planner", "critic", "solver"))):
        (tmp_path / str(i)).mkdir()
        page = Page(read_page(tmp_path / str(i), make_run(tmp_path / str(i), names)))
        assert [len(row) for row in page.tables[1]] == [2 + len(names)] * 3
    assert page.tables[1][0] == ["step", *names, "verdict"]


def test_the_report_of_a_conversation_numbers_its_turns(tmp_path):
    page = Page(read_page(tmp_path, make_run(tmp_path, conversation=True, steps=10)))
    assert page.tables[1][1][1:3] == ["1: add them 0 (cut off)2: add them 1 (cut off)", "1: so 0 (cut off)2: so 1 (cut off)"]
    assert "interrupted" not in page.data and "10 steps, 20 episodes" in page.data


def test_hostile_text_stays_text(tmp_path):
    (tmp_path / "plain").mkdir()
    plain = Page(read_page(tmp_path / "plain", make_run(tmp_path / "plain")))
    found = Page(read_page(tmp_path, make_run(tmp_path, text=HOSTILE, model=HOSTILE, data=HOSTILE, command=HOSTILE)))
    assert found.tags == plain.tags and len(found.sources) == 1
    assert found.data.count("<script>alert(1)</script>") >= 10


def test_settings_other_than_usual_come_first(tmp_path, monkeypatch):
    args = make_run(tmp_path, steps=10)
    usual = {**vars(args), "lr": 1e-6, "out": "elsewhere"}
    monkeypatch.setattr(report, "USUAL", usual)
    page = Page(read_page(tmp_path, args))
    changed, others = page.tables[-2:]
    assert changed == [["--lr", "0.0003"]]
    assert ["--group", "8"] in others and ["--out", str(tmp_path)] in others and "<b>" not in page.data
    monkeypatch.setattr(report, "USUAL", {**usual, "lr": 3e-4})
    assert "All as usual." in read_page(tmp_path, args)


def test_usual_settings_are_those_of_model_and_process():
    args = train.parse(["--process", "vrp", "--model", "tiny", "--lr", "1", "--steps", "3"])
    assert report.USUAL["lr"] == 3e-4 and report.USUAL["steps"] == 60 and report.USUAL["first"] == "solo"
    different = [name for name, value in vars(args).items()
                 if report.USUAL[name] != value and name not in (*report.OF_THE_MACHINE, *report.NOT_SHOWN)]
    assert different == ["steps", "first", "lr"] or different == ["steps", "lr", "first"], different


def read_followed(directory):
    return [json.loads(line) for line in (directory / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.closing
def test_a_run_leaves_its_report(tmp_path):
    """Five problems, always the same; a run that goes on drops what it will say again."""
    short = ["--questions", "2", "--group", "2", "--switch-every", "1", "--eval-questions", "6", "--max-new-tokens", "32"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main([*short, "--steps", "2", "--out", str(whole)])
    found = read_followed(whole)
    assert [line["step"] for line in found] == [0] * 5 + [1] * 5 + [2] * 5
    assert [line["id"] for line in found[:5]] == [line["id"] for line in found[10:]]
    assert [turn["role"] for turn in found[0]["turns"]] == ["high", "low"] and found[0]["correct"] in (True, False)
    page = Page((whole / "report.html").read_text(encoding="utf-8"))
    assert len([table for table in page.tables if table[0][-1:] == ["verdict"]]) == 5 and len(page.sources) == 1
    assert re.search(r"What it learned.*Curves.*How the answers to 5 held-out.*Settings", page.data, re.DOTALL)
    train.main([*short, "--steps", "1", "--out", str(parts)])
    with open(parts / "heldout.jsonl", "a") as log:
        log.write('{"step": 2, "id": "said before it was killed"}\n{"step": 2, "i')
    statistics.log_held_out(parts, 3, [])
    assert read_followed(parts)[-1]["id"] == "said before it was killed"       # half a line is no line
    train.main(["--resume", str(parts), "--steps", "2"])
    assert read_followed(parts) == found
    assert "Does the plan matter?" in (parts / "report.html").read_text(encoding="utf-8")
