"""What others build on the six scripts: the examples speak, learn and resume as they say; their tables add up."""
import json
import pathlib
import random
import re
import sys
import types

import pytest

import model as models
import rema
from data.examples import critic, debate, own_estimator, own_reward, retrieval, shared, table, tensorboard
from data.examples.shared import make_start
from data.problems.arithmetic import right_plan
from data.problems.generate import generate, held_out
from rema import Episode, Turn

ROOT = pathlib.Path(__file__).resolve().parent.parent
VOICES = {"critic": critic, "debate": debate, "retrieval": retrieval}
SMALL = ["--steps", "1", "--questions", "2", "--group", "2", "--eval-questions", "2",
         "--max-new-tokens", "8", "--save-every", "1"]
FILLED = r"(?<=\n)(?!-$|-\n)[^\n:]+"         # a line of a prompt that is filled in, but for what is not shown
QUESTION = {"id": "q", "problem": "8*(7-4)+5", "answer": "29", "level": 2}


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(autouse=True)
def keep_it_small(tmp_path, monkeypatch):
    """Everything goes to tmp_path; each example starts from the embedded model as it is; no curves are drawn."""
    monkeypatch.setattr(shared, "ROOT", tmp_path)
    monkeypatch.setattr(shared, "make_start", lambda *_: "tiny")
    monkeypatch.setattr(shared.train.report.curves, "draw_run", lambda *_: None)


def heard(role, said, row=QUESTION):
    """The question that a role is shown."""
    return role.prompt(row, said)[-1]["content"]


# ------------------------------------------------------------------------------------------------------------
# Three and more voices

@pytest.mark.parametrize("name, names", [("critic", ["high", "critic", "low"]), ("retrieval", ["high", "low"]),
                                         ("debate", ["a", "b", "a2", "b2", "judge"])])
def test_an_example_runs_and_goes_on(name, names, tmp_path, capsys):
    switch = "0" if name == "debate" else "1"                # the debate shares its weights
    VOICES[name].main([*SMALL, "--switch-every", switch, "--out", str(tmp_path / "run")])
    lines = read_lines(tmp_path / "run/metrics.jsonl")
    learners = names[0]
    if name == "debate":                             # all at once
        learners = "+".join(names)
    assert [line["step"] for line in lines] == [0, 1] and lines[1]["learner"] == learners
    assert all(f"reward_{agent}" in lines[1] for agent in names)
    assert all((tmp_path / "run" / agent / "model.safetensors").exists() for agent in names)
    turns = read_lines(tmp_path / "run/episodes.jsonl")[0]["turns"]
    assert [turn["role"] for turn in turns] == names

    if name == "retrieval":                          # as many agents as usual; its prompts no other program makes
        capsys.readouterr()
        VOICES[name].main(["--measure", str(tmp_path / "run")])
        assert len(re.findall(r"^  accuracy  .* \+- ", capsys.readouterr().out, re.MULTILINE)) == 2
    if name == "critic":
        critic.main(["--resume", str(tmp_path / "run"), "--steps", "2"])
        assert read_lines(tmp_path / "run/metrics.jsonl")[2]["learner"] == "critic"


def test_an_arm_is_remembered(tmp_path, monkeypatch, capsys):
    """--resume goes on with the roles of the run, not with those of the example's first arm."""
    run = str(tmp_path / "run")
    critic.main([*SMALL, "--arm", "two", "--out", run])
    asked = []
    monkeypatch.setattr(shared.train, "main", lambda argv, roles: asked.append((argv, roles)))
    critic.main(["--resume", run])
    assert asked == [(["--resume", run], critic.ARMS["two"][0])]
    with pytest.raises(SystemExit):
        critic.main(["--stepz", "3"])                # before the start is made
    assert "--stepz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        retrieval.main(["--resume", str(tmp_path)])
    assert len(capsys.readouterr().err.strip().splitlines()[-1]) < 200


def test_the_start_is_made_once_and_has_learned(monkeypatch):
    """It differs from the embedded model; a second arm takes it as it is; other lessons make another one."""
    place = pathlib.Path(make_start("critic", critic.write_lessons, 64))
    embedded, _ = models.load("tiny")
    start, _ = models.load(str(place))
    moved = [not a.equal(b) for a, b in zip(embedded.parameters(), start.parameters())]
    assert any(moved)
    written = (place / "model.safetensors").stat().st_mtime_ns
    assert make_start("critic", critic.write_lessons, 64) == str(place)
    assert (place / "model.safetensors").stat().st_mtime_ns == written
    asked = []
    monkeypatch.setattr(shared.train, "main", asked.append)
    make_start("critic", critic.write_lessons, 32)
    assert len(asked) == 1 and not place.exists()


@pytest.mark.parametrize("name", VOICES)
def test_lessons_are_in_the_prompts_of_all_arms(name):
    """Every role of every arm hears a prompt that the lessons have taught, about training problems only."""
    rng = random.Random(0)
    rows = generate(12, seed=name)
    taught = set()
    for row in rows:
        assert not held_out(row["problem"])
        for messages in VOICES[name].write_lessons(rng, row):
            assert [message["role"] for message in messages] == ["system", "user", "assistant"]
            taught.add((messages[0]["content"], re.sub(FILLED, "", "\n" + messages[1]["content"])))
    said = dict.fromkeys(("high", "critic", "a", "b", "a2", "b2"), "Solve it.")
    for roles, _ in VOICES[name].ARMS.values():
        for role in roles:
            form = re.sub(FILLED, "", "\n" + heard(role, said, rows[0]))
            assert (role.system, form) in taught, role


def test_a_deaf_role_hears_nothing():
    said = {"high": "a=7-4", "critic": "Right."}
    assert "Right." in heard(critic.SOLVER, said)
    unheard = critic.ARMS["unheard"][0][-1]
    assert "Right." not in heard(unheard, said) and "a=7-4" in heard(unheard, said)
    assert unheard.reward is critic.SOLVER.reward and unheard.name == "low"


def test_debaters_hear_each_other_and_the_muted_one_is_not_heard():
    said = {"a": "mine", "b": "yours", "a2": "mine again", "b2": "yours again"}
    a2, b2, judge = debate.ARMS["debate"][0][2:]
    assert heard(debate.B, said) == heard(debate.A, said) == QUESTION["problem"]
    assert heard(a2, said).index("mine") < heard(a2, said).index("yours")
    assert heard(b2, said).index("yours") < heard(b2, said).index("mine")
    assert "mine again" in heard(judge, said) and "yours again" in heard(judge, said)
    a2, b2, judge = debate.ARMS["muted"][0][2:]
    assert "mine" in heard(a2, said) and "yours" not in heard(a2, said)
    assert "yours" not in heard(judge, said) and "mine" in heard(b2, said)


def test_a_debater_earns_what_its_own_words_earn():
    turn = Turn([], [1], [0.0], True, "a", text="\\boxed{29}")
    last = Turn([], [1], [0.0], True, "judge", text="\\boxed{3}")
    episode = Episode(QUESTION, (0, 0), [turn, last])
    assert debate.reward_own_answer(turn, [episode]) == 1.0
    assert debate.reward_own_answer(last, [episode]) == -0.5 == rema.reward_answer(last, [episode])


# ------------------------------------------------------------------------------------------------------------
# Retrieval

def test_the_store_holds_no_held_out_problem_and_nobody_finds_itself():
    store = retrieval.open_store()
    assert len(store.problems) > 1000 and not any(held_out(problem) for problem in store.problems)
    for problem in store.problems[:20]:
        assert problem not in store.find(problem) and len(store.find(problem)) == retrieval.K


def test_the_nearest_problem_is_the_most_alike():
    rows = [{"problem": problem} for problem in ("1+2*3", "(1+2)*3", "4*(5-3)+1", "9-8-7")]
    store = retrieval.Store(rows)
    assert store.find("7+5*2", 1) == ["1+2*3"] and store.find("6*(9-2)+5", 1) == ["4*(5-3)+1"]
    assert store.find("1+2*3", 4)[-1] != "1+2*3" and len(store.find("1+2*3", 4)) == 3
    assert abs((store.vectors ** 2).sum(1) - 1).max() < 1e-6


def test_strangers_are_another_problems_neighbours():
    rows = generate(20, split="heldout")
    same = [row for row in rows
            if retrieval.find_strangers(row["problem"]) == retrieval.find_neighbours(row["problem"])]
    assert len(same) <= 2
    shown = heard(retrieval.READER, {}, rows[0])
    for problem in retrieval.find_neighbours(rows[0]["problem"]):
        assert f"Problem:\n{problem}\n\nPlan:\n{right_plan(problem)}" in shown
    assert shown.endswith(f"Problem:\n{rows[0]['problem']}\n\nPlan:")
    assert heard(retrieval.STRANGER, {}, rows[0]) != shown


def test_an_imitated_plan_is_right_if_the_two_are_alike():
    assert retrieval.imitate("9-(2+3)", "8-(1+4)") == "a=2+3; 9-a" == right_plan("9-(2+3)")
    assert retrieval.imitate("9-(2+3)", "8-1+4") == "a=9-2; a+3"
    assert retrieval.imitate("9-(2+3)", "8-(1+4)*2") is None


# ------------------------------------------------------------------------------------------------------------
# One's own reward, advantage and log

def test_a_short_answer_earns_more():
    def earn(tokens, text="\\boxed{29}"):
        turn = Turn([], [0] * tokens, [0.0] * tokens, True, "low", text=text)
        return own_reward.reward_short_answer(turn, [Episode(QUESTION, (0, 0), [turn])])

    assert earn(4) == earn(10) == 1.0 and earn(60) == earn(90) == 0.8
    assert earn(35) == pytest.approx(0.9)
    assert earn(90) > earn(4, "\\boxed{30}") == -0.5


def test_a_moving_baseline_by_hand():
    """Group means 1 and 0, the batch's 0.5; then the usual 0.9 * 0.5 + 0.1 * 1 = 0.55 for another batch."""
    turns = [Turn([], [1], [0.0], True, "high", place=(question, 0), reward=float(1 - question)) for question in (0, 1)]
    assign = own_estimator.MovingBaseline()
    assign(turns, "grpo")
    assert [turn.advantage for turn in turns] == [0.25, -0.25]
    assign([], "grpo")
    turns[1].reward = 1.0
    assign(turns, "grpo")
    assert [turn.advantage for turn in turns] == [0.25, 0.25]
    assert assign.baselines["high"] == pytest.approx(0.55)
    other = Turn([], [1], [0.0], True, "low", place=(0, 0, 0), reward=-1.0)
    assign([other], "grpo")
    assert other.advantage == 0.0


@pytest.mark.parametrize("example", [own_reward, own_estimator])
def test_own_functions_reach_the_trainer(example, tmp_path):
    example.main([*SMALL, "--out", str(tmp_path / "run")])
    assert read_lines(tmp_path / "run/metrics.jsonl")[1]["episodes"] == 4


def test_tensorboard_gets_every_number(tmp_path, monkeypatch, capsys):
    written = []

    class Writer:
        def __init__(self, directory):
            written.append(directory)

        def add_scalar(self, *what):
            written.append(what)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    lines = '{"step": 0, "heldout_t1": 25.5}\n{"step": 1, "learner": "high", "kl": null}\n'
    (tmp_path / "metrics.jsonl").write_text(lines)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    tensorboard.main([str(tmp_path)])
    assert written == [f"out/tensorboard/{tmp_path.name}", ("heldout_t1", 25.5, 0)]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)          # as if it were not installed
    with pytest.raises(SystemExit) as stop:
        tensorboard.main([str(tmp_path)])
    told = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(told) == 1 and "pip install tensorboard" in told[0]


# ------------------------------------------------------------------------------------------------------------
# Tables

def test_a_table_by_hand():
    """Two seeds; the shortest run has 200 tokens, where the longer ones are read half way; a fifth of them is 40."""
    short = {"0": [[0, 40, 20], [200, 60, 40]], "1": [[0, 40, 20], [200, 64, 44]]}
    long = {"0": [[0, 40, 20], [100, 50, 30], [300, 54, 34]], "1": [[0, 40, 20], [100, 50, 30], [300, 50, 30]]}
    assert table.read_at(long["0"], 200, 1) == 52
    lines = table.make_table("critic", {"critic": short, "two": long}).splitlines()
    assert "200 sampled tokens, 2 seeds" in lines[0]
    assert lines[-2] == ("| critic | 40.0 | 62.0 ± 2.0 | +11.0 ± 3.0 "
                         "| 20.0 | 24.4 ± 0.4 | +0.4 ± 0.4 | 42.0 ± 2.0 | +11.0 ± 3.0 |")
    assert lines[-1] == "| two | 40.0 | 51.0 ± 1.0 |  | 20.0 | 24.0 ± 0.0 |  | 31.0 ± 1.0 |  |"


@pytest.mark.parametrize("name", VOICES)
def test_published_tables_are_those_of_the_published_curves(name):
    arms = json.loads((ROOT / f"data/examples/curves/{name}.json").read_text(encoding="utf-8"))
    assert set(arms) == set(VOICES[name].ARMS) and all(len(curves) >= 3 for curves in arms.values())
    assert table.make_table(name, arms) in (ROOT / "data/examples/README.md").read_text(encoding="utf-8")


def test_nobody_else_knows_the_examples():
    for path in [*ROOT.glob("*.py"), *(ROOT / "data").rglob("*.py")]:
        if path.parent != ROOT / "data/examples":
            assert not re.search(r"data[./]examples", path.read_text(encoding="utf-8")), path
    for name in VOICES:
        text = (ROOT / f"data/examples/{name}.py").read_text(encoding="utf-8")
        assert not re.search(r"torch|rollout|generate\(.*samples|backward|Optimizer", text), name
