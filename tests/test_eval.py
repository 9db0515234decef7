"""Evaluation: numbers by hand, the program as a user runs it, and own data with an own reward."""
import json
import math

import pytest

import eval as evaluation
import rema
import rewards
import rollout
import train
from data import benchmarks, UserError


def test_standard_error_by_hand():
    assert evaluation.accuracy([1, 1, 1, 0]) == pytest.approx((75.0, 25.0))        # std .5 / sqrt(4)
    assert evaluation.accuracy([1, 1]) == (100.0, 0.0) and evaluation.accuracy([1]) == (100.0, 0.0)


def fake(row, plan, response, question=0):
    turns = [rema.Turn("high", [1], [2], [0.0], True, plan),
             rema.Turn("low", [1], [2, 3], [0.0] * 2, False, response)]
    return rema.Episode(row, question, 0, 0, turns)


def test_summary_counts_what_it_says():
    row = {"id": "q", "problem": "p", "answer": "12"}
    episodes = [fake(row, "compute 12", "\\boxed{12}", 0), fake(row, "3+4", "\\boxed{7}", 1),
                fake(row, "", "none", 2)]
    rema.score(episodes)
    found = evaluation.summary(episodes)
    assert found["accuracy"][0] == pytest.approx(100 / 3) and found["accuracy among answered"][0] == 50
    assert (found["answered"][0] == pytest.approx(200 / 3) and found["truncated"][0] == 100
            and found["tokens of high"] == 1 and found["tokens of low"] == 2)
    assert found["plans with the gold answer"][0] == pytest.approx(100 / 3)
    episodes[1].turns[1].text = "\\boxed{3+*}"
    assert found["unparsed among answered"] == 0 and evaluation.unparsed(episodes) == 0.5


def test_the_program_writes_every_response(tmp_path, capsys):
    evaluation.main(["--limit", "6", "--max-new-tokens", "32", "--out", str(tmp_path / "a"), "--diagnose"])
    lines = [json.loads(line) for line in (tmp_path / "a" / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and [turn["role"] for turn in lines[0]["turns"]] == ["high", "low"]
    shown = capsys.readouterr().out
    share = 100 * sum(line["correct"] for line in lines) / 6
    assert f"{share:.1f} %" in shown and "swapped" in shown and "emptied" in shown
    with pytest.raises(SystemExit) as stop:
        evaluation.main(["--out", str(tmp_path / "a")])
    assert stop.value.code == 2 and "not empty" in capsys.readouterr().err


def test_own_data_and_own_reward(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text('{"problem": "1+2*3", "answer": "7"}\n'
                                         '{"problem": "(1+2)*3", "answer": 9}\n')
    rows = benchmarks.load_data(str(tmp_path / "mine.jsonl"), "heldout", None)
    assert [row["answer"] for row in rows] == ["7", "9"] and len({row["id"] for row in rows}) == 2
    agents, tokenizer = rollout.load_agents("tiny", rema.roles("vrp"))
    monkeypatch.setattr(rewards, "compute_reward", lambda response, answer: 0.25)
    assert [e.rewards["solo"] for e in evaluation.evaluate(agents, tokenizer, rows, rema.roles("vrp"),
                                                           max_new_tokens=8)] == [0.25, 0.25]


@pytest.mark.parametrize("text, message", [
    ("", "empty"), ('{"problem": "x"}\n', "1"), ('{"problem": "x", "answer": "1"}\n{', "2")])
def test_malformed_data_names_file_and_line(tmp_path, text, message):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(UserError, match="bad.jsonl.*" + message):
        benchmarks.load_data(str(tmp_path / "bad.jsonl"), "heldout", None)


def test_claim_never_takes_what_exists(tmp_path):
    assert [evaluation.claim(tmp_path / "run").name for _ in range(3)] == ["run", "run-2", "run-3"]
    assert (tmp_path / "run-3").is_dir()


def test_a_runs_settings_are_the_defaults(tmp_path, capsys):
    rows = "".join(json.dumps({"problem": f"{a}+2*{a}", "answer": str(3 * a)}) + "\n" for a in range(1, 9))
    (tmp_path / "mine.jsonl").write_text(rows)
    train.main(["--process", "vrp", "--data", str(tmp_path / "mine.jsonl"), "--max-new-tokens", "8",
                "--steps", "1", "--questions", "2", "--answers", "2", "--out", str(tmp_path / "run")])
    evaluation.main(["--model", str(tmp_path / "run"), "--out", str(tmp_path / "eval")])
    lines = [json.loads(line) for line in (tmp_path / "eval" / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == 1 and [turn["role"] for turn in lines[0]["turns"]] == ["solo"]   # held out
    assert max(line["turns"][0]["tokens"] for line in lines) <= 8 and "vrp" in capsys.readouterr().out


def test_a_runs_directory_wants_its_own_process(tmp_path):
    (tmp_path / "solo").mkdir()
    (tmp_path / "solo" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="process"):
        rollout.load_agents(str(tmp_path), rema.roles("rema"))


def test_diagnose_pairs_problems_with_each_others_plans(monkeypatch):
    """A solver that repeats its plan's last number is right with its own plan only."""
    rows = [{"id": str(i), "problem": f"p{i}", "answer": str(i + 10)} for i in range(4)]

    def echo(model, tokenizer, role, prompts, samples, keys, *rest, **named):
        last = [prompt[-1]["content"].split()[-1] for prompt in prompts]
        texts = [str(int(name[1:]) + 10) if role.name == "high" else f"\\boxed{{{name}}}" for name in last]
        return [[rema.Turn(role.name, [1], [2], [0.0], True, text)] for text in texts]
    monkeypatch.setattr(evaluation.rollout, "speak", echo)
    agents = dict.fromkeys(("high", "low"), type("M", (), {"config": type("C", (), {"context": 10 ** 6})}))
    tokenizer = type("T", (), {"chat": staticmethod(lambda messages: [1])})
    found = evaluation.diagnose(agents, tokenizer, rows, rema.roles("rema"), max_new_tokens=4)
    assert found == {"kept": [1] * 4, "swapped": [0] * 4, "emptied": [0] * 4}
    assert math.isclose(evaluation.accuracy(found["kept"])[0], 100)
