"""Evaluation: numbers by hand, the program as a user runs it, and own data with an own reward."""
import itertools
import json
import math
import os
import re
import sys
from argparse import Namespace
from dataclasses import replace
from types import SimpleNamespace

import pytest

import eval as evaluation
import rema
import rewards
import rollout
import train
from data import UserError
from data.answers.leaking import leaks
from data.formats.runs import claim_directory
from data.problems import benchmarks
from data.problems.arithmetic import right_plan, values
from data.problems.choosing import load_data
from data.results import benchmarks as every_benchmark
from data.results import budget, compare
from data.views.statistics import is_verifying, record
from rema import HIGH, LOW, Episode, Turn


def test_standard_error_by_hand():
    assert evaluation.compute_percent([1, 1, 1, 0]) == pytest.approx((75.0, 25.0))        # std .5 / sqrt(4)
    assert evaluation.compute_percent([1]) == (100.0, None) and evaluation.compute_percent([0.5]) == (50.0, None)
    assert evaluation.compute_percent([0.5, 0.5]) == (50.0, 0.0) and evaluation.compute_mean([3]) == (3, None)
    assert evaluation.compute_mean([30, 10, 10, 10]) == pytest.approx((15.0, 5.0))         # std 10 / sqrt(4)
    assert evaluation.compute_mean([]) == (0.0, None) and evaluation.compute_mean([0, 0]) == (0.0, 0.0)


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_of_none_and_of_all_the_error_is_half_the_width_of_wilsons_interval(n):
    """Which for a share p and z standard errors is (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    for share in (0, 1):
        half = math.sqrt(share * (1 - share) / n + 1 / (4 * n * n)) / (1 + 1 / n)
        assert evaluation.compute_percent([share] * n) == pytest.approx((100 * share, 100 * half))


def fake(row, plan, response, place):
    """An episode, scored: place is (question, plan, answer)."""
    turns = [Turn([1], [2], [0.0], True, "high", plan, place[:-1]),
             Turn([1], [2, 3], [0.0] * 2, False, "low", response, place)]
    episode = Episode(row, place, turns)
    rema.score([episode], [HIGH, LOW])
    return episode


def sampled(gold, plans, question=0, **more):
    """Scored episodes of one problem: plans is a list of lists of boxed answers (None: no box)."""
    row = {"id": str(question), "problem": f"p{question}", "answer": gold, **more}
    episodes = []
    for i, answers in enumerate(plans):
        for j, answer in enumerate(answers):
            response = "none" if answer is None else f"\\boxed{{{answer}}}"
            episodes.append(fake(row, "", response, (question, i, j)))
    return episodes


def test_summary_counts_what_it_says():
    rows = [{"id": "q", "problem": f"p{i}", "answer": "12"} for i in range(3)]
    episodes = [fake(rows[0], "compute 12", "\\boxed{12}", (0, 0, 0)), fake(rows[1], "3+4", "\\boxed{7}", (1, 0, 0)),
                fake(rows[2], "", "none", (2, 0, 0))]
    found = evaluation.summarise(episodes)
    assert found["accuracy"][0] == pytest.approx(100 / 3) and found["accuracy among answered"][0] == 50
    assert (found["answered"][0] == pytest.approx(200 / 3) and found["truncated"][0] == 100
            and found["tokens of high"] == (1, 0) and found["tokens of low"] == (2, 0))
    assert found["plans with the gold answer"][0] == pytest.approx(100 / 3)
    assert found["unparsed among answered"] == pytest.approx((0, 100 / 6))         # of two problems
    assert found["too long for the context"] == pytest.approx((0, 100 / 8))        # of three
    episodes[1].turns[1].text = "\\boxed{3+*}"
    assert evaluation.summarise(episodes)["unparsed among answered"][0] == 50
    for line, episode in zip(map(record, episodes), episodes):
        assert json.loads(json.dumps(line))["place"] == list(episode.place)
        assert [turn["role"] for turn in line["turns"]] == ["high", "low"] and line["extracted"] == episode.answer


def test_copies_of_a_problem_are_one_problem():
    """Two problems in five rows, by text: accuracy .5 and 1, so 75 +- 25, and not over five rows."""
    copies = [sampled("7", [[answer]], i, problem=text) for i, (text, answer) in
              enumerate([("p q", 7), ("r", 7), (" p  q", 1), ("p q\n", 7), ("p q", 2)])]
    episodes = sum(copies, [])
    found = evaluation.summarise(episodes)
    assert found["accuracy"] == pytest.approx((75, 25)) and found["tokens of low"][0] == 2
    found = evaluation.summarise(copies[1] + copies[0] + copies[2] + sampled("7", [[7]], 9))
    assert not any(name.startswith("pass") for name in found)              # a problem that stands there twice
    found = evaluation.summarise(episodes + sampled("7", [[1]], 5, problem="r"))
    assert found["accuracy"] == pytest.approx((50, 0)) and found["pass@2"][0] == pytest.approx(100 * (5 / 6 + 1) / 2)
    again = sampled("7", [[7, 1]], 0, problem="p") + sampled("7", [[1, 1]], 1, problem="p")
    assert evaluation.summarise(again)["pass@4"][0] == 100                 # samples of copies are samples


@pytest.mark.parametrize("turns", [1, 2])
def test_rows_with_equal_ids_draw_samples_of_their_own(turns):
    """Copies of a problem, and other problems that somebody gave the same id."""
    args = Namespace(device="cpu", dtype="float32", plan_format="text", graphs=False)
    agents = rollout.load_agents("tiny", [HIGH, LOW], args)
    rows = [{"id": "same", "problem": problem, "answer": "3"} for problem in ("1+2*4", "1+2*4", "9-2", "1+2*4")]
    episodes = evaluation.evaluate(agents, rows, max_new_tokens=24, temperature=3.0, turns=turns)
    drawn = [tuple(episode.turns[0].tokens) for episode in episodes]
    assert len(set(drawn[:2] + drawn[3:])) == 3
    alone = evaluation.evaluate(agents, rows[:1], max_new_tokens=24, temperature=3.0, turns=turns)
    assert tuple(alone[0].turns[0].tokens) == drawn[0]                     # the first is drawn as ever
    assert [episode.row["id"] for episode in episodes] == ["same"] * 4


def test_plans_are_swapped_between_different_problems():
    args = Namespace(device="cpu", dtype="float32", plan_format="text", graphs=False)
    agents = rollout.load_agents("tiny", [HIGH, LOW], args)
    rows = [{"id": str(i), "problem": problem, "answer": "3"} for i, problem in enumerate(("1+2", "1+2", "5-2"))]
    assert {len(outcomes) for outcomes in evaluation.diagnose(agents, rows, max_new_tokens=8).values()} == {2}


@pytest.mark.parametrize("flags, errors, same", [
    (["--limit", "1"], True, False), (["--limit", "2"], False, False), (["--limit", "2", "--answers", "2"], False, False),
    (["--limit", "1", "--plans", "2", "--temperature", "0"], True, True), (["--data", "COPIES"], True, True)])
def test_the_table_says_what_its_errors_are_worth(flags, errors, same, tmp_path, capsys):
    """"-" for one problem; and that samples at temperature 0, or copies, are all the same."""
    (tmp_path / "copies.jsonl").write_text('{"problem": "1+2*3", "answer": "7"}\n' * 3)
    flags = [flag.replace("COPIES", str(tmp_path / "copies.jsonl")) for flag in flags]
    evaluation.main([*flags, "--max-new-tokens", "16", "--out", str(tmp_path / "out")])
    table = capsys.readouterr().out
    assert ("all samples of a problem are the same" in table) == same
    shown = [line.split("+-")[1].strip() for line in table.splitlines() if line.startswith("  accuracy  ")]
    assert len(shown) == 1 and (shown[0] == "-") == errors
    assert ("1 problems in 3 rows" in table) == (str(tmp_path / "copies.jsonl") in flags)


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_sample():
    for n, c in ((1, 0), (1, 1), (4, 0), (4, 1), (6, 2), (7, 3), (5, 5)):
        outcomes = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(outcomes, k))
            assert evaluation.compute_pass_at(k, outcomes) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_several_samples_by_hand():
    """Two problems, four samples each: 2 of 4 right and 0 of 4."""
    found = evaluation.summarise(sampled("7", [[7, 7], [1, 2]], 0) + sampled("7", [[1, 2], [3, None]], 1))
    assert found["accuracy"] == pytest.approx((25, 25))            # avg@4 .5 and 0: std .3536 / sqrt(2)
    assert found["pass@2"] == pytest.approx((100 * 5 / 12, 100 * 5 / 12))       # 1 - C(2, 2) / C(4, 2), and 0
    assert found["pass@4"] == pytest.approx((50, 50)) and "pass@8" not in found
    assert found["answered"] == pytest.approx((87.5, 12.5))
    assert found["majority vote, flat"] == found["majority vote, hierarchical"] == pytest.approx((50, 50))


@pytest.mark.parametrize("n, ks", [(1, []), (2, [2]), (3, [2, 3]), (4, [2, 4]), (5, [2, 4, 5]), (8, [2, 4, 8])])
def test_pass_is_shown_for_powers_of_two_and_for_all_samples(n, ks):
    found = evaluation.summarise(sampled("7", [[7] * n]))
    assert [name for name in found if name.startswith("pass@")] == [f"pass@{k}" for k in ks]


@pytest.mark.parametrize("samples", [1, 4])
def test_a_problem_too_long_for_the_context_counts_as_wrong_in_every_rate(samples):
    lost = sampled("7", [[None] * samples], 1)
    for episode in lost:
        for turn in episode.turns:
            turn.tokens, turn.logprobs = [], []
    found = evaluation.summarise(sampled("7", [[7, 7], [7, 7]], 0) + lost)
    assert {found[name][0] for name in ("accuracy", "pass@2", "pass@4", "majority vote, flat",
                                        "too long for the context")} == {50}


def test_a_prompt_longer_than_the_context_is_wrong_and_the_others_are_answered():
    args = Namespace(device="cpu", dtype="float32", plan_format="text", graphs=False)
    agents = rollout.load_agents("tiny", [HIGH, LOW], args)
    rows = [{"id": str(i), "problem": problem, "answer": "3"} for i, problem in enumerate(("1+2", "1+" * 400, "2+1"))]
    episodes = evaluation.evaluate(agents, rows, max_new_tokens=8, samples=[2, 1])
    assert [bool(episode.turns[0].tokens) for episode in episodes] == [True] * 2 + [False] * 2 + [True] * 2
    assert not episodes[2].correct and not episodes[2].turns[1].tokens
    assert evaluation.summarise(episodes)["too long for the context"][0] == pytest.approx(100 / 3)


@pytest.mark.parametrize("plans, flat, hierarchical", [
    ([[5, 5, 5], [7, 7, 1], [7, 7, 2]], "7", "7"),
    ([[5, 5, 5], [7, 7, 5], [7, 7, 5]], "5", "7"),                 # 5 of 9 answers, but 1 of 3 plans
    ([["0.5", "2", "2"], [r"\frac{1}{2}", "3", "3"], ["1/2", "4", "4"]], "0.5", "2"),    # three spellings
    ([[None, None, None], [None, None, 4]], "4", "4"),             # saying nothing is no vote
    ([[None, 1], [2, None], [2, 1]], "1", "2"),                    # a tie goes to the first
    ([[3], [1], [2]], "3", "3"),
    ([[None], [None]], None, None)])
def test_votes(plans, flat, hierarchical):
    episodes = sampled("0", plans)
    assert evaluation.vote([episode.answer for episode in episodes]) == flat
    assert evaluation.vote_by_plan(episodes) == hierarchical


def test_summary_by_level_and_subject():
    episodes = (sampled("7", [[7, 7]], 0, level=1, subject="Algebra") + sampled("7", [[7, 1]], 1, level=2)
                + sampled("7", [[1, 7]], 2, level=1, subject="Geometry"))
    found = evaluation.summarise(episodes)
    assert found["accuracy, level 1"] == pytest.approx((75, 25)) and found["accuracy, level 2"] == (50, None)
    assert found["pass@2, level 1"] == pytest.approx((100, 100 / 6))
    assert found["majority vote, flat, level 2"] == (100, None)
    assert found["accuracy, subject Algebra"] == (100, None) and found["accuracy, subject Geometry"] == (50, None)
    assert sum("subject" in name for name in found) == 2 * 4 and "accuracy, subject None" not in found
    assert not any("level" in name for name in evaluation.summarise(sampled("7", [[7, 7]], 0, level=1)))
    judged = evaluation.summarise(sampled("7", [[7]], 0, category="Chat") + sampled("7", [[1]], 1, category="Code"))
    assert judged["accuracy, category Chat"] == (100, None) and judged["accuracy, category Code"] == (0, None)


def evaluated(directory, outcomes):
    """What compare reads of an evaluation: {problem: its samples' verdicts}."""
    directory.mkdir()
    (directory / "episodes.jsonl").write_text("".join(
        json.dumps({"id": f"mine-{i}", "problem": problem, "answer": "1", "correct": verdict}) + "\n"
        for i, (problem, verdicts) in enumerate(outcomes.items()) for verdict in verdicts))
    return str(directory)


def test_compare_pairs_problem_by_problem(tmp_path):
    """Differences 1, 0 and -.5, and a problem that only the first one has: mean 1/6, std .7638."""
    a = evaluated(tmp_path / "a", {"p": [False, False], "q": [True, True], "r": [True, True], "s": [True]})
    b = evaluated(tmp_path / "b", {"p": [True], "q": [True], "r": [True, False]})
    first, second, verdict = compare.compare(a, b).splitlines()
    assert first.endswith("66.7 %") and second.endswith("83.3 %")
    assert "3 problems in both (of 4 and 3); the second gains +16.7 points +- 44.1" in verdict


def test_compare_refuses_different_problems(tmp_path, capsys):
    """The same ids are not enough: those of two files of one name are alike."""
    a, b = evaluated(tmp_path / "a", {"1+1": [True]}), evaluated(tmp_path / "b", {"2+2": [True]})
    with pytest.raises(SystemExit) as stop:
        compare.main([a, b])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "no problem in common" in error


def test_the_program_writes_every_response(tmp_path, capsys):
    evaluation.main(["--limit", "6", "--max-new-tokens", "32", "--out", str(tmp_path / "a"), "--diagnose"])
    lines = [json.loads(line) for line in (tmp_path / "a" / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and [turn["role"] for turn in lines[0]["turns"]] == ["high", "low"]
    shown = capsys.readouterr().out
    share = 100 * sum(line["correct"] for line in lines) / 6
    assert f"{share:.1f} %" in shown
    for meaning in ("no cost of an empty plan", "compare accuracies at equal costs", "no sign that roles are reversed"):
        assert meaning in shown
    assert re.search(r"tokens of low +\d+\.\d +\+- \d", shown)
    with pytest.raises(SystemExit) as stop:
        evaluation.main(["--out", str(tmp_path / "a")])
    assert stop.value.code == 2 and "not empty" in capsys.readouterr().err


def test_own_data_and_own_reward(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text('{"problem": "1+2*3", "answer": "7"}\n'
                                         '{"problem": "(1+2)*3", "answer": 9}\n')
    rows = load_data(str(tmp_path / "mine.jsonl"), "heldout", None)
    assert [row["answer"] for row in rows] == ["7", "9"] and len({row["id"] for row in rows}) == 2
    args = Namespace(device="cpu", dtype="float32", plan_format="text", graphs=False)
    agents = rollout.load_agents("tiny", [rema.VRP], args)
    monkeypatch.setattr(rewards, "compute_reward", lambda response, answer: 0.25)
    episodes = evaluation.evaluate(agents, rows, max_new_tokens=8)
    assert [episode.turns[0].reward for episode in episodes] == [0.25, 0.25]
    agents[0].role = replace(rema.VRP, reward=lambda turn, episodes: len(turn.tokens))     # or as the role's own
    episodes = evaluation.evaluate(agents, rows, max_new_tokens=8)
    assert [record(episode)["rewards"]["solo"] for episode in episodes] == [8, 8]


@pytest.mark.parametrize("text, message", [
    ("", "empty"), ('{"problem": "x"}\n', "1"), ('{"problem": "x", "answer": "1"}\n{', "2")])
def test_malformed_data_names_file_and_line(tmp_path, text, message):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(UserError, match="bad.jsonl.*" + message):
        load_data(str(tmp_path / "bad.jsonl"), "heldout", None)


def test_claim_never_takes_what_exists(tmp_path):
    claimed = [claim_directory(str(tmp_path / "run")) for _ in range(3)]
    assert claimed == [str(tmp_path / name) for name in ("run", "run-2", "run-3")]
    assert (tmp_path / "run-3").is_dir()


def test_a_runs_settings_are_the_defaults(tmp_path, capsys, monkeypatch):
    rows = "".join(json.dumps({"problem": f"{a}+2*{a}", "answer": str(3 * a)}) + "\n" for a in range(1, 9))
    (tmp_path / "mine.jsonl").write_text(rows)
    paper = {("tiny", str(tmp_path / "mine.jsonl")): {"VRP": 12.5}}
    monkeypatch.setattr(benchmarks, "paper_figures", lambda *names: paper.get(names, {}))
    train.main(["--process", "vrp", "--data", str(tmp_path / "mine.jsonl"), "--max-new-tokens", "8",
                "--steps", "1", "--questions", "2", "--group", "2", "--out", str(tmp_path / "run")])
    evaluation.main(["--model", str(tmp_path / "run"), "--out", str(tmp_path / "eval")])
    lines = [json.loads(line) for line in (tmp_path / "eval" / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == 1 and [turn["role"] for turn in lines[0]["turns"]] == ["solo"]   # held out
    said = capsys.readouterr().out
    assert max(line["turns"][0]["tokens"] for line in lines) <= 8 and "vrp" in said
    assert re.search(r"the paper's VRP +12.50 %", said)                  # of the model that the run began with


def test_a_runs_directory_wants_its_own_process(tmp_path):
    (tmp_path / "solo").mkdir()
    (tmp_path / "solo" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="process"):
        rollout.load_agents(str(tmp_path), [HIGH, LOW], Namespace(device="cpu", dtype="float32", plan_format="text", graphs=False))


class Letters:
    """A tokenizer: the last word that is shown, a letter a token."""
    @staticmethod
    def chat(messages):
        return [ord(letter) for letter in messages[-1]["content"].split()[-1]]

    @staticmethod
    def decode(ids):
        return "".join(chr(id) for id in ids)

    @classmethod
    def read(cls, ids):
        return "", cls.decode(ids)


class Echo(rollout.Agent):
    """Plans a problem's right answer; boxes the last word that it is shown. Needs no model."""
    def generate(self, prompts, samples, **how):
        groups = []
        for prompt in prompts:
            word = Letters.decode(prompt)
            text = f"\\boxed{{{word}}}" if self.name == "low" else str(int(word[1:]) + 10)
            ids = [ord(letter) for letter in text]
            groups.append([Turn(prompt, ids, [0.0] * len(ids), True) for _ in range(samples)])
        return groups


def test_diagnose_pairs_problems_with_each_others_plans():
    """A solver that repeats its plan's last number is right with its own plan only."""
    rows = [{"id": str(i), "problem": f"p{i}", "answer": str(i + 10)} for i in range(4)]
    model = SimpleNamespace(config=SimpleNamespace(context=10 ** 6))
    agents = [Echo(HIGH, model, Letters), Echo(LOW, model, Letters)]
    found = evaluation.diagnose(agents, rows, max_new_tokens=4)
    assert found == {"kept": [True] * 4, "swapped": [False] * 4, "emptied": [False] * 4}
    rows[1]["answer"] = "0"                                  # then its own plan is no use either
    found = evaluation.diagnose(agents, rows, max_new_tokens=4)
    assert found["kept"] == [True, False, True, True]
    rows[1]["answer"], rows[2]["answer"] = "12", "13"        # right with the plan of the problem behind it
    found = evaluation.diagnose(agents, rows, max_new_tokens=4)
    assert found["swapped"] == [False, True, True, False]


def test_diagnosis_pairs_the_costs():
    """Kept against emptied: differences 1, 0, 0, 1, so 50 points with std .5774 / sqrt(4)."""
    shown = evaluation.describe_diagnosis({"kept": [1, 1, 0, 1], "swapped": [1, 1, 0, 1], "emptied": [0, 1, 0, 0]})
    kept, swapped, emptied, worth = shown.splitlines()
    assert kept.endswith("plan kept              75.0 % +- 25.0") and "costs 0.0 points +- 0.0" in swapped
    assert "25.0 % +- 25.0   costs 50.0 points +- 28.9" in emptied
    assert "nothing here says that plans help" in worth                        # 50 is less than two errors


def test_diagnosis_says_what_its_numbers_say():
    kept, few, none = [1] * 30 + [0] * 10, [1] * 12 + [0] * 28, [0] * 40
    for outcomes, said in (({"kept": kept, "swapped": few, "emptied": few}, ["plans help"]),
                           ({"kept": kept, "swapped": none, "emptied": few}, ["plans help", "wrong plans are followed"]),
                           ({"kept": few, "swapped": few, "emptied": kept}, ["no cost of an empty plan", "wrong plans are followed"]),
                           ({"kept": [1], "swapped": [0], "emptied": [0]}, ["no cost of an empty plan"])):
        sentences = evaluation.describe_diagnosis(outcomes).splitlines()[3:]
        assert len(sentences) == len(said), sentences
        for sentence, beginning in zip(sentences, said):
            assert sentence.strip().startswith(beginning)


def test_roles_are_called_reversed_only_where_they_are():
    figures = {"tokens of high": (10.0, 1.0), "tokens of low": (30.0, 1.0), "plans with the gold answer": (4.0, 3.0),
               "answers with a verifying phrase": (9.0, 1.0)}
    price, sign = evaluation.describe_roles(figures)
    assert "10.0 + 30.0 = 40.0 tokens" in price and sign.startswith("no sign that roles are reversed")
    figures["plans with the gold answer"] = (8.0, 3.0)
    _, reversed_roles, checked = evaluation.describe_roles(figures)
    assert "reversed in 8.0 % of the plans" in reversed_roles and "9.0 % of the answers verify" in checked
    figures["answers with a verifying phrase"] = (1.0, 1.0)
    assert len(evaluation.describe_roles(figures)) == 2


@pytest.mark.parametrize("flags", [["--process", "vrp"], ["--turns", "2"]])
def test_what_needs_plans_says_so_at_once(flags, capsys):
    for wish in (["--diagnose"], ["--plan-format", "json"]):
        with pytest.raises(SystemExit):
            evaluation.main([*flags, *wish])
        assert "--process rema in one turn" in capsys.readouterr().err


def test_budget_cuts_small_shapes_out_of_a_large_one():
    """Two plans (10 and 20 tokens) with two answers (1 token) each; right: both of plan 0, none of plan 1."""
    places = [(plan, answer) for plan in (0, 1) for answer in (0, 1)]
    grid = {(p, a): budget.Answered((0, p, a), str(7 + p), "7", p == 0, 10 + 10 * p, 1) for p, a in places}
    assert budget.cut(grid, (2, 2), (2, 2)) == [34, 0.5, 1, 1, 1]          # tokens, avg, votes (a tie), pass
    assert budget.cut(grid, (2, 2), (1, 2)) == [17, 0.5, 0.5, 0.5, 0.5]
    assert budget.cut(grid, (2, 2), (2, 1)) == [32, 0.5, 1, 1, 1]
    assert budget.cut(grid, (2, 2), (1, 1)) == [16, 0.5, 0.5, 0.5, 0.5]
    lost = {(p, a): budget.Answered((0, p, a), None, "7", False, 0, 0) for p, a in places}
    assert budget.cut(lost, (2, 2), (1, 1)) == [0] * 5                     # too long for the context


def test_budget_writes_a_table_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "SAMPLED", ((2, 2), (2, 2)))
    monkeypatch.setattr(budget, "SHAPES", ((1, 1), (1, 2), (2, 1), (2, 2)))
    found = budget.study("tiny", ["--limit", "3", "--max-new-tokens", "8"])
    assert all(len(rows) == 3 for rows in found.values()) and found["greedy"][0][0] <= 16
    for shape in ((1, 4), (4, 1), (1, 16), (4, 4), (16, 1)):
        found[shape] = found[2, 2]
    budget.draw({"tiny": found}, tmp_path / "budget.png")
    assert (tmp_path / "budget.png").stat().st_size > 10_000
    text = budget.table("tiny", found)
    assert "| 2 x 1 | " in text and "4 plans with an answer each gain +0.0 ± 0.0 points of flat vote" in text


def test_benchmarks_make_a_table_of_all_processes(tmp_path, monkeypatch, capsys):
    """Each cell is the percentage that is right, then of those with an answer."""
    (tmp_path / "mine.jsonl").write_text('{"problem": "1+2", "answer": "3"}\n{"problem": "2+1", "answer": "4"}\n')
    monkeypatch.setattr(every_benchmark, "TESTS", (str(tmp_path / "mine.jsonl"),))

    def answer(agents, rows, samples, **how):
        turns = [Turn([1], [2], [0.0], True, agent.name, "\\boxed{3}") for agent in agents]
        return [Episode(row, (i, *[0] * len(agents)), turns) for i, row in enumerate(rows)]
    monkeypatch.setattr(evaluation, "sample_episodes", answer)
    every_benchmark.main(["--max-new-tokens", "8"])
    told = capsys.readouterr().out
    assert told.startswith("`eval.py --max-new-tokens 8`")
    assert told.splitlines()[-1] == f"| {tmp_path / 'mine.jsonl'} | 50 (100) | 50 (100) | 50 (100) |"


def test_ablations_by_hand(tmp_path, monkeypatch):
    """Two seeds of one arm, evaluated twice; a run that was cut short does not count."""
    from data.results import ablations

    def write(root, seed, *lines, steps=2):
        place = ablations.directory("weights", "shared", seed, root)
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps({"steps": steps}))
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = {"step": 0, "heldout_greedy": 10.0, "heldout_t1": 20.0}
    middle = {"step": 1, "sampled_tokens": 100, "episodes": 5, "clip_share": 0.1}
    for seed, root, value in ((0, tmp_path / "runs", 75.0), (1, tmp_path / "kept", 65.0)):
        write(root, seed, before, middle, {"step": 2, "sampled_tokens": 50, "filter_tokens": 7, "episodes": 3,
                                           "clip_share": 0.3, "heldout_greedy": 80.0, "heldout_t1": value})
    write(tmp_path / "runs", 2, before, middle)
    monkeypatch.setattr(ablations, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(ablations.directory, "__defaults__", (tmp_path / "runs",))
    found = ablations.places("weights", "shared", range(3))
    assert [place.parent.parent.name for place in found] == ["runs", "kept"]
    text = ablations.summarise("weights", range(3), tmp_path / "new")
    cells = [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")]
    assert cells[:3] == ["shared (2 seeds)", "10.0 → 80.0 ± 0.0", "20.0 → 70.0 ± 5.0"]
    assert cells[-3:] == ["20.00", "157", "157 / 8, never"]
    assert (tmp_path / "new" / "weights.png").exists() and not (tmp_path / "kept" / "weights.png").exists()
    ablations.directory("weights", "alternating", 0, tmp_path / "runs").mkdir()
    (ablations.directory("weights", "alternating", 0, tmp_path / "runs") / "metrics.jsonl").write_text('{"step"')
    assert not ablations.finished(ablations.directory("weights", "alternating", 0, tmp_path / "runs"))   # killed
    monkeypatch.setattr(ablations, "RUNS", tmp_path / "new")
    with pytest.raises(UserError, match="of sizes no run has"):
        ablations.main(["sizes", "weights", "--table"])                # the other table is there all the same
    assert "shared (2 seeds)" in (tmp_path / "new" / "weights.md").read_text()
    with pytest.raises(UserError, match="to --publish 3"):
        ablations.main(["sizes", "--table", "--seeds", "1", "--publish"])
    with pytest.raises(UserError, match="--seeds must be at least 1"):
        ablations.main(["sizes", "--table", "--seeds", "0"])


def test_habits_of_the_ablation_about_reversed_roles(tmp_path):
    """Plans that solve hold their own result, answers that check solve the problem, in the stated shares."""
    from data.results import habits

    habits.main([str(tmp_path / "habits.jsonl"), "--problems", "600"])
    lines = [json.loads(line)["messages"] for line in (tmp_path / "habits.jsonl").read_text().splitlines()]
    solved = checked = copied = 0
    for high, low in zip(lines[::2], lines[1::2]):
        problem, plan, answer = high[1]["content"], high[2]["content"], low[2]["content"]
        assert low[1]["content"].endswith(f"Problem:\n{problem}\n\nPlan:\n{plan}") and not rewards.has_box(plan)
        right = values(right_plan(problem))[-1]
        if is_verifying(answer):
            checked += 1
            assert rewards.is_correct(answer, str(right))
        if plan.endswith("."):
            solved += 1
            copied += answer == "\\boxed{%s}" % plan.rstrip(".").split("=")[-1]
            assert leaks(plan, str(right)) or plan.rstrip(".").split("=")[-1] != str(right)
    assert len(lines) == 1200 and abs(solved / 600 - habits.SOLVED) < .05
    assert abs(checked / 600 - habits.CHECKED) < .05 and abs(copied / solved - (1 - habits.CHECKED)) < .1


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, monkeypatch, capsys):
    """As with `| head -1` once head has ended; the results are there all the same."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as stdout, pytest.raises(SystemExit) as end:
        monkeypatch.setattr(sys, "stdout", stdout)
        evaluation.main(["--limit", "2", "--max-new-tokens", "8", "--out", str(tmp_path / "a")])
    monkeypatch.undo()
    assert end.value.code == 141 and "roken" not in capsys.readouterr().err
    assert len((tmp_path / "a" / "episodes.jsonl").read_text().splitlines()) == 2


def test_a_directory_with_the_data_of_the_embedded_model_fits(tmp_path, capsys):
    evaluation.main(["--model", "data/tiny", "--data", "arithmetic", "--limit", "5", "--out", str(tmp_path / "a")])
    assert re.search(r"too long for the context +0\.0 %", capsys.readouterr().out)
    (tmp_path / "mine.jsonl").write_text('{"problem": "1+1 \\ud800", "answer": "2"}\n')
    evaluation.main(["--data", str(tmp_path / "mine.jsonl"), "--max-new-tokens", "64", "--out",
                     str(tmp_path / "b")])
    assert "1+1" in (tmp_path / "b" / "episodes.html").read_text()


@pytest.mark.parametrize("flags", [[], ["--turns", "2"]])
def test_a_turn_ends_with_the_context_whatever_was_asked_for(flags, tmp_path):
    """No memory is taken for a million tokens that could never be drawn."""
    problems = "".join(json.dumps({"problem": "1+" * n + "1", "answer": str(n + 1)}) + "\n" for n in (1, 300))
    (tmp_path / "mine.jsonl").write_text(problems)
    evaluation.main(["--data", str(tmp_path / "mine.jsonl"), "--max-new-tokens", "1000000", *flags,
                     "--out", str(tmp_path / "a")])
    lines = [json.loads(line) for line in (tmp_path / "a" / "episodes.jsonl").read_text().splitlines()]
    assert [bool(line["turns"][0]["tokens"]) for line in lines] == [True, False]
    assert all(turn["tokens"] < 512 for line in lines for turn in line["turns"])


@pytest.mark.parametrize("flags, why", [
    (["--turns", "2", "--plans", "4"], "--answers"), (["--turns", "0"], "at least 1"),
    (["--temperature", "nan"], "temperature"), (["--top-p", "0"], "top-p"),
    (["--process", "vrp", "--diagnose"], "plans"), (["--limit", "0"], "at least 1"),
    (["--diagnose", "--limit", "1"], "too few"), (["--max-new-tokens", "0"], "at least 1"),
    (["--temperature", "inf"], "temperature"),
    (["--out", "README.md/x"], "README.md"), (["--limitt", "3"], "unrecognized")])
def test_flags_that_make_no_sense_are_one_line(flags, why, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluation.main(flags)
    told = capsys.readouterr().err
    assert stop.value.code == 2 and why in told and told.count("\n") == 1
