"""Generated problems: what they promise; the corpus that data/tiny/make_tiny.py makes of them, the embedded model."""
import hashlib
import itertools
import json
import random
import re

import pytest

import rema
from data.formats.hub import TINY
from data.formats.tokenizer import Tokenizer
from data.problems.arithmetic import (EMPTY, habit, rewrite, right_plan, trace, values, working, wrong_plan)
from data.problems.generate import generate, held_out
from data.problems.words import draw_story
from data.tiny import make_tiny

needs_tiny = pytest.mark.skipif(not (TINY / "model.safetensors").exists(), reason="data/tiny is not built")
ROWS = generate(300, seed=3)


def test_hand_worked_example():
    problem = "3+4*(2+5)"
    assert right_plan(problem) == "a=2+5; b=4*a; 3+b"
    assert working(right_plan(problem)) == "a=2+5=7; b=4*7=28; 3+28=31."
    assert wrong_plan(problem) == "a=3+4; b=a*2; b+5"
    assert working(wrong_plan(problem)) == "a=3+4=7; b=7*2=14; 14+5=19."
    assert rewrite(problem) == "3+(4*(2+5))"
    assert right_plan("9-2*3-1") == "a=2*3; b=9-a; b-1"          # the same precedence goes from left to right


def test_values_agree_with_an_independent_evaluator():
    for row in ROWS:                                             # eval: of our own digits and operators
        assert re.fullmatch(r"[-+*()1-9]+", row["problem"])
        assert eval(row["problem"]) == eval(rewrite(row["problem"])) == int(row["answer"])
        right, wrong = values(right_plan(row["problem"])), values(wrong_plan(row["problem"]))
        assert right[-1] == int(row["answer"]) != wrong[-1]
        assert len(right) == len(wrong) == row["level"] + 1 == len(re.findall(r"[-+*]", row["problem"]))
        assert all(0 <= v <= 99 for v in right + wrong)


def left_to_right(problem):
    """A second implementation: a pocket calculator that has no brackets."""
    first, *rest = re.findall(r"[-+*]?\d", re.sub(r"[()]", "", problem))
    value = int(first)
    for step in rest:
        value = eval(f"{value}{step}")
    return value


def test_wrong_plans_are_a_pocket_calculator():
    for row in ROWS:
        assert values(wrong_plan(row["problem"]))[-1] == left_to_right(row["problem"]) != int(row["answer"])


def test_plans_never_contain_the_answer():
    for row in ROWS:
        for plan in (right_plan(row["problem"]), wrong_plan(row["problem"]), rewrite(row["problem"]), EMPTY):
            assert row["answer"] not in plan


@pytest.mark.parametrize("kind", ["arithmetic", "words"])
def test_splits_are_disjoint_and_reproducible(kind):
    kept = generate(1000, split="heldout", kind=kind)
    assert len({row["problem"] for row in kept}) == len({row["id"] for row in kept}) == 1000
    assert all(held_out(row["problem"]) for row in kept)
    assert not any(held_out(row["problem"]) for row in generate(400, seed=1, kind=kind))
    assert generate(30, seed=7, kind=kind) == generate(40, seed=7, kind=kind)[:30] != generate(30, seed=8, kind=kind)
    assert {row["level"] for row in generate(9, level=2, kind=kind)} == {2}
    assert [row["level"] for row in kept[:4]] == [1, 2, 3, 1]
    for row in kept:
        assert set(row) == {"id", "problem", "answer", "level"} and int(row["answer"]) >= 0


def test_the_checksum_is_the_same_everywhere():
    assert [held_out(problem) for problem in ("4*(9-7)", "3+4*(2+5)", "2+3*4", "8-2*4")] == \
        [False, True, True, False]


@pytest.mark.parametrize("kind, split, seed, digest", [
    ("arithmetic", "train", 0, "da8663e5e0b9dc59"), ("arithmetic", "heldout", 0, "e971c112b5e93124"),
    ("arithmetic", "train", "habits", "2f565d0d92595aa8"), ("words", "train", 0, "922f40b5fca7e434"),
    ("words", "heldout", 0, "51253d2caa42a057")])
def test_the_problems_stay_as_they_are(kind, split, seed, digest):
    """data/tiny was trained on them and every published figure is about them: not one byte may change."""
    rows = generate(400, seed=seed, split=split, kind=kind)
    said = [[write(row["problem"]) for write in (right_plan, wrong_plan, rewrite)] for row in rows
            if kind == "arithmetic"]
    assert hashlib.sha256(json.dumps([rows, said]).encode()).hexdigest()[:16] == digest


def test_bad_arguments(monkeypatch):
    for wrong in ({"split": "test"}, {"level": 4}, {"kind": "geometry"}):
        with pytest.raises(ValueError, match="generate"):
            generate(1, **wrong)
    monkeypatch.setattr("data.problems.generate.draw_expression", lambda rng, level: ("3+4*(2+5)", 31))
    assert len(generate(1, split="heldout", level=1)) == 1
    with pytest.raises(ValueError, match="no 2 different held-out problems at level 1"):
        generate(2, split="heldout", level=1)


def test_word_problems():
    rows = generate(600, kind="words", seed=2)
    assert len({re.sub(r"[A-Z][a-z]+|\d+", "", row["problem"]).split(".")[0][:20] for row in rows}) >= 12
    for row in rows:
        assert "{" not in row["problem"] and row["problem"].endswith("?") and 1 <= int(row["answer"]) <= 99
    text, answer = draw_story(random.Random(0), 1)
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    assert answer in (numbers[0] + numbers[1], numbers[0] - numbers[1], numbers[0] * numbers[1])


def test_trace():
    assert trace("a=2+5; a*3") == [("a", "2+5", 7), ("", "7*3", 21)]
    known = {}
    assert working("a=2+5; b=a-1", known) == "a=2+5=7; b=7-1=6." and known == {"a": 7, "b": 6}
    assert working("b*2", known) == "6*2=12."
    for bad in ("a+1", "solve it", "", "a=2+5;b=1+1", "a=2/1"):
        with pytest.raises(ValueError):
            trace(bad)


def test_habit():
    problem = "3+4*(2+5)"
    for plan, kind in ((right_plan(problem), "right"), (" " + right_plan(problem), "right"), ("", "empty"),
                       (wrong_plan(problem), "wrong"), ("a=2+5; b=a*4; b+3", "right"), (EMPTY, "empty"),
                       ("first the brackets", "other"), ("3+(4*(2+5))", "rewrite"), ("a=2+5; a*4", "other"),
                       ('{"action": "DECOMPOSE", "output": "a=3+4; b=a*2; b+5"}', "wrong"), ("[]", "other"),
                       ("{broken", "other"), ("{}", "empty"), ('{"action": "EMPTY", "output": ""}', "empty")):
        assert habit(plan, problem) == kind, plan


# ------------------------------------------------------------------------------------------------------------
# The corpus

def conversations(n, seed=0):
    return list(itertools.islice(make_tiny.corpus(random.Random(seed)), n))


def last(messages):
    return messages[-1]["content"]


def test_conversations_are_in_the_formats_of_rema():
    systems = {}
    for messages in conversations(2000):
        assert [m["role"] for m in messages[:2]] == ["system", "user"] and messages[-1]["role"] == "assistant"
        assert all(m["role"] == ("user", "assistant")[i % 2] for i, m in enumerate(messages[1:]))
        systems.setdefault(messages[0]["content"], []).append(messages)
    roles = (rema.VRP, rema.MRP, rema.HIGH, rema.LOW, rema.HIGH_JSON, rema.HIGH_TURNS, rema.LOW_TURNS)
    assert systems.keys() == {role.system for role in roles}

    for messages in systems[rema.HIGH_JSON.system]:
        plan = json.loads(last(messages))
        assert last(messages) == json.dumps(plan) and plan.keys() == {"action", "output"}
        kind = habit(last(messages), messages[1]["content"])
        expected = {"right": "DECOMPOSE", "wrong": "DECOMPOSE", "rewrite": "REWRITE", "empty": "EMPTY"}[kind]
        assert plan["action"] == expected or plan["output"] == rewrite(messages[1]["content"])
    for messages in systems[rema.HIGH.system]:
        assert habit(last(messages), messages[1]["content"]) in ("right", "wrong", "empty")
        assert not held_out(messages[1]["content"])
    for role in (rema.VRP, rema.MRP, rema.LOW):
        assert all(re.search(r"\\boxed\{\d+\}$", last(messages)) for messages in systems[role.system])
    for messages in systems[rema.LOW.system]:                    # what is not a guess does what the plan says
        plan = messages[1]["content"].split("\n\nPlan:\n")[1]
        if plan.startswith("a=") and not last(messages).startswith("\\boxed"):
            assert last(messages).startswith(working(plan) + " \\boxed{")
    finished = [sum("[FINISH]" in m["content"] for m in messages[1:]) for messages in systems[rema.HIGH_TURNS.system]]
    assert set(finished) == {1}


def test_habits_come_in_the_stated_proportions():
    rng, kinds = random.Random(1), []
    for _ in range(4000):
        kinds.append(make_tiny.write_plan(rng, {"problem": "3+4*(2+5)", "level": 2}, make_tiny.PLANS)[0])
    for kind, share in make_tiny.PLANS[2].items():
        assert abs(kinds.count(kind) / 4000 - share) < 0.03
    for table in (*make_tiny.PLANS.values(), *make_tiny.JSON_PLANS.values(), make_tiny.FORMATS, make_tiny.FINISH):
        assert sum(table.values()) == pytest.approx(1)


def test_bpe_hand_worked():
    """abab abab ab: (a, b) occurs 5 times, (b, a) twice; then (ab, ab) twice; then every word is one token."""
    assert make_tiny.train_bpe({"abab": 2, "ab": 1}) == [("a", "b"), ("ab", "ab")]
    assert make_tiny.train_bpe({"aaa": 2}) == [("a", "a"), ("aa", "a")]       # from the left, as encoders merge
    assert make_tiny.train_bpe({" b": 3, "b": 9}) == [("Ġ", "b")]
    assert make_tiny.train_bpe({"xy": 1}) == []                  # once is not often


# ------------------------------------------------------------------------------------------------------------
# The embedded model

@needs_tiny
def test_tiny_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in TINY.iterdir() if path.suffix in (".json", ".safetensors")}
    assert files.keys() == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                            "generation_config.json"}
    assert sum(files.values()) <= 8e6


@needs_tiny
def test_tiny_tokens():
    tokenizer = Tokenizer.load(TINY)
    assert tokenizer.encode("31+4=35") == [tokenizer.encode(c)[0] for c in "31+4=35"]          # single digits
    assert 300 <= tokenizer.vocab_size <= 800
    for row in generate(60, seed=5):
        plan = right_plan(row["problem"])
        assert 9 <= len(tokenizer.encode(plan)) <= 40 and 10 <= len(tokenizer.encode(working(plan))) <= 40
        assert tokenizer.decode(tokenizer.encode(working(plan))) == working(plan)
    for role in (rema.VRP, rema.MRP, rema.HIGH, rema.LOW, rema.HIGH_JSON, rema.HIGH_TURNS, rema.LOW_TURNS):
        words = len(re.findall(r"[A-Za-z]+|[^A-Za-z\s]", role.system))
        assert len(tokenizer.encode(role.system)) <= words + 5, "the prompts have changed: rebuild data/tiny"


@needs_tiny
def test_lessons_teach_what_the_assistant_says():
    tokenizer = Tokenizer.load(TINY)
    messages = rema.HIGH_TURNS.prompt({"problem": "2+3*4"}, {}) + [
        {"role": "assistant", "content": "a=3*4"}, {"role": "user", "content": "a=3*4=12."},
        {"role": "assistant", "content": "2+a [FINISH]"}]
    lesson = rema.make_lesson(tokenizer, messages)
    ids, mask = lesson.prompt + lesson.tokens, [0] * len(lesson.prompt) + lesson.learned
    assert len(ids) == len(mask) and lesson.prompt == tokenizer.chat(messages[:2])
    assert tokenizer.decode([i for i, m in zip(ids, mask) if m]) == "a=3*42+a [FINISH]"
    assert sum(ids[i] in tokenizer.stop_ids and mask[i] for i in range(len(ids))) == 2
    assert ids == tokenizer.chat(messages[:4]) + tokenizer.encode("2+a [FINISH]") + [*tokenizer.stop_ids]


@needs_tiny
def test_a_lesson_keeps_what_was_said_where_the_template_trims():
    """Llama 3's template leaves out the blanks around a message: the mask must not slip."""
    tokenizer = Tokenizer.load(TINY)
    tokenizer._format = tokenizer.format._replace(trim=True)
    messages = rema.HIGH_TURNS.prompt({"problem": "2+3*4"}, {}) + [
        {"role": "assistant", "content": "a=3*4   "}, {"role": "user", "content": " a=3*4=12."},
        {"role": "assistant", "content": "2+a [FINISH]"}]
    lesson = rema.make_lesson(tokenizer, messages)
    learned = [id for id, learns in zip(lesson.tokens, lesson.learned) if learns]
    said = [[id for id, number in zip(learned, rema.number_turns(lesson)) if number == turn] for turn in (0, 1)]
    assert said == [tokenizer.encode(messages[i]["content"]) + [*tokenizer.stop_ids] for i in (2, 4)]
    between = [id for id, learns in zip(lesson.tokens, lesson.learned) if not learns]
    assert between == tokenizer.after(said[0]) + tokenizer.turn("user", "a=3*4=12.") + tokenizer.assistant


@needs_tiny
def test_tiny_loads_and_answers():
    import model
    import rollout
    net, tokenizer = model.load("tiny")
    assert 0.5e6 <= sum(weight.numel() for weight in net.parameters()) <= 2e6
    plan = right_plan("3+4*(2+5)")
    prompt = tokenizer.chat(rema.LOW.prompt({"problem": "3+4*(2+5)"}, {"high": plan}))
    group = rollout.generate(net, [prompt], 20, max_new_tokens=64, stop_ids=tokenizer.stop_ids)[0]
    texts = [tokenizer.decode(c.tokens) for c in group]
    assert all(c.stopped for c in group) and f"{working(plan)} \\boxed{{31}}" in texts
    assert any(text.startswith("\\boxed{") for text in texts)    # and some guess: RL has something to find out
