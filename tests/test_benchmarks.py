"""Benchmarks: reading JSON lines, and fetching from a server that speaks every upstream's format."""
import functools
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import pytest

import eval as evaluation
import rema
from data import UserError
from data.formats.hub import NAMES
from data.problems import benchmarks, choosing
from data.problems.benchmarks import BENCHMARKS, boxed, fingerprint, load, published
from data.problems.choosing import load_data, split_data
from data.problems.generate import generate
from data.problems.reading import read_conversations, read_jsonl

shared_rows = functools.cache(load)         # (name, directory): several tests read the same large files
MATHS = [name for name in BENCHMARKS if not name.startswith(("rewardbench", "judgebench"))]


def refused(what, *args):
    with pytest.raises(UserError, match=what) as error:
        load(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------
# Reading

def test_rows_of_ones_own(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('\ufeff{"problem": "1+1\u2028", "answer": 2.0, "mine": [1]}\r\n\n'
                    '{"id": 7, "problem": "p", "answer": "x"}', encoding="utf-8")
    assert load(path) == load(str(path)) == [
        {"id": "mine-1", "problem": "1+1\u2028", "answer": "2", "mine": [1]},
        {"id": "7", "problem": "p", "answer": "x"}]
    path.write_text('{"messages": []}')
    assert read_jsonl(path, required=("messages",)) == [{"messages": [], "id": "mine-1"}]


@pytest.mark.parametrize("number, text", [(27.0, "27"), (-3, "-3"), (0.5, "0.5"), (10 ** 20, "1" + "0" * 20)])
def test_number_as_an_answer(tmp_path, number, text):
    (tmp_path / "x.jsonl").write_text(json.dumps({"problem": "p", "answer": number}))
    assert load(tmp_path / "x.jsonl")[0]["answer"] == text


GOOD = '{"problem": "p", "answer": "a"}\n'
JUDGE = {"question": "q", "response_a": "one", "response_b": "two", "answer": "B"}


@pytest.mark.parametrize("text, what", [
    ("", "empty"), ("\n \n", "empty"),
    (GOOD + "{", "line 2: malformed"),
    (GOOD + "\n\n[1]", "line 4: .*list"),
    (GOOD + "[" * 100_000, "line 2: malformed"),
    (GOOD[:20], "line 1: malformed"),
    (b"\xff" + GOOD.encode(), "line 1: this is not UTF-8"),
    ('{"problem": "p", "answer": ' + "9" * 5000 + "}", "line 1: a number of thousands of digits; put it in quotes"),
    ('"text"', "line 1: a JSON str"),
    (GOOD * 2 + '{"problem": "p"}', "line 3: no 'answer'"),
    ('{"question": "p", "answer": "a"}', "line 1: no 'problem'.*'question'"),
    ('{"problem": "p", "answer": null}', "line 1: 'answer' is None, not text"),
    ('{"problem": "p", "answer": true}', "'answer' is True"),
    ('{"problem": "p", "answer": ["a"]}', "'answer' is"),
    ('{"problem": "p", "answer": " "}', "'answer' is ' '"),
    ('{"problem": 3, "answer": "a"}', "'problem' is 3"),
    (json.dumps({**JUDGE, "answer": "C"}), "line 1: .*'A' or 'B', not 'C'")])
def test_bad_lines(tmp_path, text, what):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert str(path) in refused(what, path)


@pytest.mark.parametrize("messages", [
    None, [], ["hello"], [{"role": "user", "content": "q"}], [{"role": "assistant", "content": "a"}],
    [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
    [{"role": "user", "content": 1}, {"role": "assistant", "content": "a"}],
    [{"role": "user", "content": "q"}, {"role": "robot", "content": "a"}, {"role": "assistant", "content": "b"}],
    [{"role": ["user"], "content": "q"}, {"role": "assistant", "content": "a"}]])
def test_conversations(tmp_path, messages):
    good = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"messages": good}) + "\n")
    assert read_conversations(path) == [good]
    path.write_text(json.dumps({"messages": good}) + "\n" + json.dumps({"messages": messages}))
    with pytest.raises(UserError, match="conversation 2: messages must be a list"):
        read_conversations(path)


def test_what_is_trained_on_is_not_evaluated_on(tmp_path, monkeypatch):
    rows, held = split_data("words", None, 30, None)
    assert (len(rows), len(held)) == (2000, 30)
    assert not {row["problem"] for row in rows} & {row["problem"] for row in held}
    assert rows[:40] == load_data("words", "train", 40) and held == load_data("words", "heldout", 30)

    mine, other = str(tmp_path / "mine.jsonl"), str(tmp_path / "other.jsonl")
    lines = [json.dumps({"problem": f"p{n}", "answer": "a"}) + "\n" for n in range(45)]
    (tmp_path / "mine.jsonl").write_text("".join(lines))
    (tmp_path / "other.jsonl").write_text("".join(lines[:7]))
    rows, held = split_data(mine, None, None, None)              # a tenth is held out, the same each time
    assert (len(rows), len(held)) == (41, 4) and held == split_data(mine, None, 4, None)[1]
    assert sorted(row["id"] for row in rows + held) == sorted(row["id"] for row in load(mine))
    assert len(split_data(mine, None, 2, None)[1]) == 2 and len(split_data(mine, None, 2, None)[0]) == 41
    rows, held = split_data(mine, other, 5, None)                # what is held out is not trained on
    assert (rows, held) == (load(mine)[5:], load(other)[:5])
    (tmp_path / "other.jsonl").write_text(json.dumps(JUDGE))
    with pytest.raises(UserError, match="all be judge tasks, or none"):
        split_data(mine, other, None, None)
    monkeypatch.setattr(choosing, "generate", generate)          # not conftest's, which keeps what was drawn
    monkeypatch.setattr("data.problems.generate.draw_story", lambda rng, level: ("3+4*(2+5)", 31))
    with pytest.raises(UserError, match="--data words: generate: there are no 2 different held-out problems"):
        load_data("words", "heldout", 2)


def write_problems(path, problems):
    path.write_text("".join(json.dumps({"problem": problem, "answer": "a"}) + "\n" for problem in problems))
    return str(path)


def texts(rows):
    return {" ".join(row["problem"].split()) for row in rows}


def test_a_problem_is_trained_on_or_held_out_whatever_its_row(tmp_path, capsys):
    """50 problems four times over; spacing makes no other problem; and what is said about it."""
    mine = write_problems(tmp_path / "mine.jsonl", [f"p {n % 50}" + " " * (n // 50) for n in range(200)])
    rows, held = split_data(mine, None, None, None)
    assert len(held) == 5 and len(rows) == 180 and not texts(rows) & texts(held) and len(texts(held)) == 5
    assert "150 of 200 problems are copies" in capsys.readouterr().err
    assert split_data(mine, None, 3, None)[1] == held[:3]

    other = write_problems(tmp_path / "other.jsonl", ["p  3", "p 7\n", "p 100", "p 7"])
    capsys.readouterr()
    rows, held = split_data(mine, other, None, None)
    assert len(held) == 4 and len(rows) == 192 and not texts(rows) & texts(held)
    assert "8 of 200 training problems are held out, too" in capsys.readouterr().err
    rows, held = split_data(other, write_problems(tmp_path / "new.jsonl", ["q"]), None, None)
    assert len(rows) == 4 and len(held) == 1 and capsys.readouterr().err == ""

    rows, held = split_data(other, other, None, None)            # asked for: a program that learns by heart
    assert len(rows) == len(held) == 4 and "nothing about new problems" in capsys.readouterr().err


def test_generated_problems_are_apart_by_text():
    for kind in ("arithmetic", "words"):
        rows, held = split_data(kind, None, 1000, None)
        assert len(rows) == 2000 and not texts(rows) & texts(held)


def test_the_papers_figures():
    figures = benchmarks.paper_figures("llama-8b", "math500")
    assert figures == benchmarks.paper_figures(NAMES["llama-8b"], "math500") and figures["ReMA"] == 53.2
    assert benchmarks.paper_figures("tiny", "math500") == benchmarks.paper_figures("llama-8b", "words") == {}


def test_unknown_names(tmp_path):
    assert "'math500'" in refused("nearest", "maths500")
    assert "'arithmetic'" in refused("nearest", "aritmetic")
    assert "absent.jsonl" in refused("cannot be read", str(tmp_path / "absent.jsonl"))
    assert "gsm8k.jsonl" in refused("cannot be read", "gsm8k", tmp_path)


def test_judge_rows_look_like_all_others(tmp_path):
    (tmp_path / "j.jsonl").write_text(json.dumps(JUDGE))
    row = load(tmp_path / "j.jsonl")[0]
    assert row["judge"] is True and row["answer"] == "B" and row["id"] == "j-1"
    assert re.search("q.*Response A.*one.*Response B.*two.*\\[A\\] or \\[B\\]", row["problem"], re.DOTALL)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_shared_files_serve_as_they_are(shared_data, name, capsys):
    rows = shared_rows(name, shared_data)
    assert published(name, rows) and len({row["id"] for row in rows}) == len(rows)
    assert all(isinstance(row[key], str) and row[key] for row in rows for key in ("id", "problem", "answer"))
    assert capsys.readouterr().err == ""


def test_another_file_in_data_dir_is_used_and_said(tmp_path, capsys):
    (tmp_path / "aime24.jsonl").write_text(GOOD)
    assert len(load("aime24", tmp_path)) == 1
    assert "not the published aime24 (30 rows)" in capsys.readouterr().err


@pytest.mark.parametrize("solution, answer", [
    (r"so \boxed{1} or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"), (r"$\boxed 2$.", "2"), (r"\boxed{}", "")])
def test_boxed(solution, answer):
    assert boxed(solution) == answer


# ------------------------------------------------------------------------------------------------------------
# Fetching: {path: bytes or function of the query}

class Upstream(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.pages, self.requests = {}, []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def lines(self, path, rows):
        self.pages[path] = "".join(json.dumps(row) + "\n" for row in rows).encode()

    def service(self, rows, truncated=()):
        """The hub's rows service, GET /rows?dataset=...&config=...&split=...&offset=...&length=..."""
        def page(query):
            assert query["dataset"] == "allenai/reward-bench"
            assert (query["config"], query["split"]) == ("default", "filtered")
            start, length = int(query["offset"]), int(query["length"])
            assert length <= 100
            entries = [{"row_idx": place, "row": row, "truncated_cells": list(truncated)}
                       for place, row in enumerate(rows)][start:start + length]
            return json.dumps({"features": [], "rows": entries, "num_rows_total": len(rows),
                               "num_rows_per_page": 100, "partial": False}).encode()
        self.pages["/rows"] = page


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append(self.path)
        url = urllib.parse.urlsplit(self.path)
        page = self.server.pages.get(urllib.parse.unquote(url.path))
        body = page(dict(urllib.parse.parse_qsl(url.query))) if callable(page) else page or b""
        self.send_response(404 if page is None else 200)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = Upstream()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(benchmarks, "HOSTS", {"github": url, "hub": f"{url}/datasets", "rows": url})
    monkeypatch.setenv("REMA_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


QWEN = "/QwenLM/Qwen2.5-Math/main/evaluation/data"
SIMPLERL = "/hkust-nlp/simpleRL-reason/v0/train/data"
JUDGEBENCH = "/ScalerLab/JudgeBench/main/data/dataset=judgebench,response_model="
AOPS = "https://artofproblemsolving.com/wiki/index.php"
EASY = {  # name: path, upstream's rows as they are written there, what they become
    "math500": ("/datasets/HuggingFaceH4/MATH-500/resolve/main/test.jsonl", [
        {"problem": "p", "solution": r"\boxed{1}", "answer": "1", "subject": "Algebra", "level": 2,
         "unique_id": "test/algebra/3.json"}],
        [{"id": "test/algebra/3.json", "problem": "p", "answer": "1", "level": 2, "subject": "Algebra"}]),
    "gsm8k": ("/openai/grade-school-math/master/grade_school_math/data/test.jsonl", [
        {"question": "p", "answer": "a <<1+1=2>>2\n#### 2,125"}, {"question": "q", "answer": "b\n#### -3"}],
        [{"id": "gsm8k-test-0", "problem": "p", "answer": "2125"}, {"id": "gsm8k-test-1", "answer": "-3"}]),
    "gsm8k-train": ("/openai/grade-school-math/master/grade_school_math/data/train.jsonl", [
        {"question": "p", "answer": "a\n#### 72"}],
        [{"id": "gsm8k-train-0", "problem": "p", "answer": "72"}]),
    "aime24": (QWEN + "/aime24/test.jsonl", [
        {"id": 60, "problem": "p", "solution": "s", "answer": "033", "year": "2024",
         "url": AOPS + "/2024_AIME_I_Problems/Problem_10"}],
        [{"id": "2024_AIME_I_P10", "problem": "p", "answer": "33"}]),
    "amc23": (QWEN + "/amc23/test.jsonl", [
        {"id": 0, "problem": "p", "answer": 27.0, "url": AOPS + "/2023_AMC_12A_Problems/Problem_1"}],
        [{"id": "2023_AMC_12A_P1", "problem": "p", "answer": "27"}]),
    "gaokao2023en": (QWEN + "/gaokao2023en/test.jsonl", [
        {"source": "s", "question": "p", "answer": "$5$ or $9$"},
        {"question": "p", "answer": "$145$solution:"},
        {"question": "p?(A) 1answers: $\\frac{3}{10}$", "answer": ""},
        {"question": "p?Answer: A", "answer": ""}],
        [{"answer": "5 or 9"}, {"answer": "145"}, {"problem": "p?(A) 1", "answer": "\\frac{3}{10}"},
         {"id": "gaokao2023en-3", "problem": "p?", "answer": "A"}]),
    "minerva": (QWEN + "/minerva_math/test.jsonl", [
        {"problem": "p", "solution": r"so $\boxed{x+$ $y}$", "type": "Astronomy", "idx": 0}],
        [{"id": "minerva-0", "problem": "p", "answer": "x+ y", "subject": "Astronomy"}]),
    "olympiadbench": (QWEN + "/olympiadbench/test.jsonl", [
        {"id": 1606, "question": "p", "solution": ["s", "t"], "final_answer": ["$69$,$84$."], "context": None,
         "image_1": None, "is_multiple_answer": True, "unit": None, "answer_type": "Numerical", "error": None,
         "subfield": "Combinatorics", "subject": "Math", "language": "English"}],
        [{"id": "olympiadbench-1606", "problem": "p", "answer": "69,84", "subject": "Combinatorics",
          "solution": "s\nt"}]),
    "math-train": (QWEN + "/math/train.jsonl", [
        {"unique_id": "b", "problem": "q\n", "level": "Level ?", "solution": r"\$ \boxed{\$ 5}."},
        {"unique_id": "a", "problem": "p", "level": "Level 5", "type": "Algebra", "solution": r"\boxed{}"}],
        [{"id": "a", "problem": "p", "answer": "0", "level": 5, "subject": "Algebra"},
         {"id": "b", "problem": "q", "answer": "\\$ 5"}]),
    "math-lv35": (SIMPLERL + "/math_level3to5_data_processed_with_qwen_prompt.json", [
        {"input": "<|im_start|>", "question": "p", "answer": "1", "gt_answer": "43_5.", "target": "1",
         "ground_truth_answer": "1", "subject": "Algebra", "level": 5}],
        [{"id": "lv35-0", "problem": "p", "answer": "43_5", "level": 5, "subject": "Algebra"}])}


def publish(monkeypatch, name, rows):
    """What the project commits for `name`, for these rows."""
    found = {"rows": len(rows), "sha256": fingerprint(name, rows)}
    monkeypatch.setitem(BENCHMARKS, name, BENCHMARKS[name] | found)


@pytest.mark.parametrize("name", EASY)
def test_formats(server, monkeypatch, tmp_path, name):
    path, upstream, wanted = EASY[name]
    server.lines(path, upstream)
    if path.endswith(".json"):
        server.pages[path] = json.dumps(upstream, indent=4).encode()
    publish(monkeypatch, name, benchmarks.fetch(name))
    rows = load(name)
    assert len(rows) == len(wanted)
    for row, parts in zip(rows, wanted):
        assert {key: row[key] for key in parts} == parts
    server.pages.clear()                                        # from now on from the cache
    assert load(name) == rows
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [f"{name}.jsonl"]


def test_judgebench(server, monkeypatch):
    pair = {"pair_id": "e302", "original_id": 1420, "source": "livebench-math", "question": "q",
            "response_model": "m", "response_A": "one", "response_B": "two", "label": "B>A"}
    server.lines(JUDGEBENCH + "gpt-4o-2024-05-13.jsonl", [pair])
    server.lines(JUDGEBENCH + "claude-3-5-sonnet-20240620.jsonl", [pair | {"pair_id": "f", "label": "A>B"}])
    publish(monkeypatch, "judgebench", benchmarks.fetch("judgebench"))
    first, second = load("judgebench")
    assert (first["id"], first["answer"], second["id"], second["answer"]) == ("e302", "B", "f", "A")
    assert first["judge"] and "one" in first["problem"] and first["category"] == "math"


def test_rewardbench(server, monkeypatch):
    pairs = benchmarks.SPLITS["rewardbench970"]
    held_out = next(pair for pair in pairs if pair.startswith("alpacaeval-easy/"))
    rows = [{"prompt": f"q{number}", "chosen": "good", "chosen_model": "m", "rejected": "bad",
             "rejected_model": "n", "subset": "alpacaeval-easy", "id": number}
            for number in (int(held_out.split("/")[1]), *range(9000, 9150))]
    server.service(rows)
    for name, pairs in (("rewardbench970", 1), ("rewardbench5k", 150)):
        publish(monkeypatch, name, benchmarks.fetch(name))
        found = load(name)
        assert [row["id"] for row in found] != sorted(row["id"] for row in found) or pairs == 1     # mixed
        assert len(found) == 2 * pairs and len({row["id"] for row in found}) == 2 * pairs
        for row in found:
            assert (row["response_a"] == "good") == (row["answer"] == "A")
            assert row["id"].startswith(held_out + "/") == (name == "rewardbench970")
            assert row["category"] == "Chat"
    assert [urllib.parse.parse_qs(path)["offset"] for path in server.requests[:2]] == [["0"], ["100"]]
    server.service(rows, truncated=["chosen"])
    with pytest.raises(UserError, match="rows are missing or cut"):
        benchmarks.fetch("rewardbench970")


def test_tiny133_with_and_without_ids(server, monkeypatch, tmp_path):
    rows = [{"problem": f"p{number}\n", "level": "Level 1", "type": "Algebra", "solution": r"\boxed{1}",
             "unique_id": f"train/{number}"} for number in range(5)]
    tiny = {f"train/{n}": hashlib.sha256(f"p{n}".encode()).hexdigest()[:8] for n in (3, 1)}
    monkeypatch.setitem(benchmarks.SPLITS, "math-tiny133", tiny)
    for named in (True, False):
        server.lines(QWEN + "/math/train.jsonl", rows if named else [
            {key: value for key, value in row.items() if key != "unique_id"} for row in reversed(rows)])
        found = benchmarks.fetch("math-train")
        publish(monkeypatch, "math-train", found)
        publish(monkeypatch, "math-tiny133", [{"problem": f"p{n}", "answer": "1"} for n in (1, 3)])
        tiny_rows = [(row["id"], row["problem"]) for row in load("math-tiny133")]
        assert tiny_rows == [("train/3", "p3"), ("train/1", "p1")]
        for file in (tmp_path / "cache").iterdir():
            file.unlink()


def test_what_is_not_the_published_is_refused(server, monkeypatch, tmp_path):
    path, upstream, _ = EASY["gsm8k"]
    server.lines(path, upstream)
    publish(monkeypatch, "gsm8k", benchmarks.fetch("gsm8k"))
    for change in (upstream[:1], upstream[::-1], [upstream[0], {**upstream[1], "question": "another"}],
                   [upstream[0], {**upstream[1], "answer": "#### 7"}]):
        server.lines(path, change)
        refused("not the 2 published ones", "gsm8k")
    assert not (tmp_path / "cache").exists()
    server.lines(path, upstream)
    assert len(load("gsm8k")) == 2
    (tmp_path / "cache/gsm8k.jsonl").write_text(GOOD)           # a damaged cache is fetched again
    assert len(load("gsm8k")) == 2


@pytest.mark.parametrize("body", [
    b"", b"<html>", b'{"question": "q"', b'{"question": "q"}', b'{"answer": "#### 1"}', b"[]", b"\xff",
    b'{"question": "q", "answer": "no mark"}', b"[" * 100_000])
def test_damaged_upstream(server, body):
    server.pages[EASY["gsm8k"][0]] = body
    assert "--data-dir" in refused("damaged or in a new format", "gsm8k")


def test_offline(server, monkeypatch):
    monkeypatch.setattr(benchmarks, "HOSTS", dict.fromkeys(benchmarks.HOSTS, "http://127.0.0.1:1"))
    for name in ("math500", "rewardbench970", "math-tiny133"):
        refused("cannot be reached", name)


def upstream_of(name, row):
    """A row of ../shared/data as its upstream would write it, as far as is known."""
    problem, answer = row.get("problem_raw", row["problem"]), row.get("answer_raw", row["answer"])
    if name.startswith("gsm8k"):
        return {"question": problem, "answer": row["solution"]}
    if name == "math-train":
        return {"problem": problem + "\n", "level": f"Level {row.get('level', '?')}",
                "solution": row["solution"]}
    if name == "math-lv35":
        return {"question": problem, "gt_answer": answer}
    if name == "minerva":
        return {"problem": problem, "solution": row["solution"], "type": row["subject"]}
    if name == "olympiadbench":
        return {"id": int(row["id"].split("-")[1]), "question": problem, "final_answer": [answer],
                "solution": []}
    return {"question": problem, "answer": answer, "url": row.get("url"),
            "unique_id": row["id"] if name == "math500" else None}


@pytest.mark.parametrize("name", [name for name in MATHS if name != "math-tiny133"])
def test_committed_hashes_can_be_reached(server, shared_data, name):
    """Every row of ../shared/data, turned back into its upstream's format and fetched, comes to the hash."""
    rows = shared_rows(name, shared_data)
    upstream = [upstream_of(name, row) for row in rows]
    path = EASY[name][0]
    server.lines(path, upstream[::-1] if name == "math-train" else upstream)
    if path.endswith(".json"):
        server.pages[path] = json.dumps(upstream).encode()
    fetched = load(name)
    if name != "math-train":
        assert [row["id"] for row in fetched] == [row["id"] for row in rows]
    else:
        assert [row["problem"] for row in load("math-tiny133")] == [
            row["problem"].strip() for row in shared_rows("math-tiny133", shared_data)]


@pytest.mark.parametrize("name", ["rewardbench970", "rewardbench5k"])
def test_rewardbench_is_rebuilt(server, shared_data, name):
    pairs = {}
    for split in ("rewardbench970", "rewardbench5k"):
        for row in shared_rows(split, shared_data):
            good, bad = (row["response_a"], row["response_b"])[::1 if row["answer"] == "A" else -1]
            subset, number = row["pair_id"].split("/")
            pairs[row["pair_id"]] = {"prompt": row["question"], "chosen": good, "rejected": bad,
                                     "subset": subset, "id": int(number)}
            assert row["category"] == benchmarks.judge_row("", "", "", "", "", subset)["category"]
    server.service(list(pairs.values()))
    assert len(pairs) == 2985 and len(load(name)) == BENCHMARKS[name]["rows"]


def test_judgebench_is_rebuilt(server, shared_data):
    rows = shared_rows("judgebench", shared_data)
    for model in ("gpt-4o-2024-05-13", "claude-3-5-sonnet-20240620"):
        server.lines(f"{JUDGEBENCH}{model}.jsonl", [
            {"pair_id": row["id"], "source": row["subset"], "question": row["question"],
             "response_A": row["response_a"], "response_B": row["response_b"],
             "label": "A>B" if row["answer"] == "A" else "B>A"}
            for row in rows if row["response_model"] == model])
    for ours, theirs in zip(load("judgebench"), rows):
        assert (ours["id"], ours["category"]) == (theirs["id"], theirs["category"])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_stub_with_the_gold_answer_is_always_right_and_one_with_another_answer_never(name, shared_data):
    """Through the whole way of eval.py from an episode to its table, on every row."""
    rows = shared_rows(name, shared_data)
    for right in (True, False):
        episodes = []
        for i, row in enumerate(rows):
            gold = row["answer"]
            if row.get("judge"):
                text = f"[{gold if right else 'BA'['AB'.index(gold)]}]"
            else:
                text = f"\\boxed{{{gold if right else '7' + gold}}}"
            episodes.append(rema.Episode(row, (i, 0), [rema.Turn([1], [2], [0.0], True, "solo", text)]))
        rema.score(episodes, rema.PROCESSES["vrp"])
        wrong = [e.row["id"] for e in episodes if e.correct != right]
        assert not wrong, wrong[:5]
        assert evaluation.summarise(episodes)["accuracy"] == pytest.approx((100 * right, 50 / (len(texts(rows)) + 1)))
