"""What a run keeps, so that nothing is lost in silence: its roles, its program, its lock, its first save."""
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import apart
import eval as evaluation
import rema
import rollout
import train
from data import UserError
from data.formats import roles as formats
from data.formats import runs
from data.problems import choosing, reading
from test_readme import get_example, README
from test_train import metrics, slow

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUICK = ["--questions", "2", "--group", "2", "--eval-questions", "3", "--max-new-tokens", "12", "--switch-every", "1"]


def reward_length(turn, episodes):
    return -len(turn.tokens) / 100


def halve(turns, kind):
    for turn in turns:
        turn.advantage = turn.reward / 2


def read_settings(directory):
    return json.loads((directory / "config.json").read_text())


def fail(program, argv, capsys, **how):
    """Run a program that refuses -> its one line on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        program(argv, **how)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1, err
    return err


# ------------------------------------------------------------------------------------------------------------
# Roles, rewards, programs

def make_three():
    solver = replace(rema.LOW, reward=reward_length)
    checker = replace(rema.LOW, name="check", system="Check it. Say \\boxed{}.", user="{question}\n{low}",
                      examples=({"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}))
    return [rema.HIGH, solver, checker]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A run of three agents with prompts, an example and a reward of their own."""
    run = tmp_path_factory.mktemp("runs") / "three agents"
    train.main([*QUICK, "--steps", "3", "--save-every", "1", "--out", str(run)], roles=make_three())
    return run


def test_roles_are_saved_with_a_run(three):
    saved = read_settings(three)["roles"]
    assert [role["name"] for role in saved] == ["high", "low", "check"]
    assert [role["reward"] for role in saved] == ["rema.reward_plan", "test_runs.reward_length", "rema.reward_answer"]
    for role, entry in zip(make_three(), saved):
        assert (entry["system"], entry["user"], entry["examples"]) == (role.system, role.user, list(role.examples))


def test_eval_asks_with_the_prompts_of_the_run(three, tmp_path, monkeypatch, capsys):
    """From the command line, with nothing else; accuracy needs no reward, and that one is unknown is said."""
    asked = []

    def spying(agents, *given, **how):
        asked.append([agent.role for agent in agents])
        return plain(agents, *given, **how)
    plain = evaluation.sample_episodes
    monkeypatch.setattr(evaluation, "sample_episodes", spying)
    evaluation.main(["--model", str(three), "--out", str(tmp_path / "eval")])
    for role, found in zip(make_three(), asked[0], strict=True):
        assert (role.name, role.system, role.user, role.examples) == (found.name, found.system, found.user, found.examples)
    told = capsys.readouterr().out
    assert "three agents, high, low, check, arithmetic" in told and "reward" in told and "tokens of check" in told
    line = json.loads((tmp_path / "eval/episodes.jsonl").read_text().splitlines()[0])
    assert [turn["role"] for turn in line["turns"]] == ["high", "low", "check"]
    greedy = [json.loads(text)["correct"] for text in (tmp_path / "eval/episodes.jsonl").read_text().splitlines()]
    assert 100 * sum(greedy) / 3 == pytest.approx(metrics(three)[-1]["heldout_greedy"])
    rollout.main(["--model", str(three / "best"), "1+2"])
    assert "--- check" in capsys.readouterr().out


@pytest.mark.parametrize("flags, why", [(["--diagnose"], "two agents"), (["--process", "vrp"], "roles of its own"),
                                        (["--example"], "roles of its own"), (["--turns", "2"], "roles of its own")])
def test_what_roles_of_a_run_cannot_do_is_one_line(three, flags, why, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert why in fail(evaluation.main, ["--model", str(three), *flags], capsys)
    assert not list(tmp_path.iterdir())


def test_a_run_of_the_house_is_asked_as_it_was_trained(tmp_path):
    """With the prompts that rema.py had then; with other ones where a flag or the data says so."""
    train.main([*QUICK, "--steps", "1", "--out", str(tmp_path / "run")])
    saved = read_settings(tmp_path / "run")
    saved["roles"][1]["system"] = "As it was."
    (tmp_path / "run/config.json").write_text(json.dumps({**saved, "roles": [{"name": "high"}]}))
    with pytest.raises(UserError, match="config.json: its roles make no sense"):
        rollout.choose_roles(rollout.parse(["--model", str(tmp_path / "run"), "1+1"]), [{}])
    (tmp_path / "run/config.json").write_text(json.dumps(saved))
    for flags, row, system in (([], {}, "As it was."), (["--turns", "2"], {}, rema.LOW_TURNS.system),
                               ([], {"judge": True}, rema.make_judges([rema.LOW])[0].system)):
        args = rollout.parse(["--model", str(tmp_path / "run"), *flags, "1+1"])
        found = rollout.choose_roles(args, [row])
        assert found[1].system == system and found[0].reward in (
            rema.reward_plan, rema.reward_conversation, rema.reward_judge_plan)


def test_prompts_that_only_a_program_can_make_are_refused(tmp_path):
    class Looking(rema.Role):
        def prompt(self, row, said):
            return [{"role": "user", "content": row["problem"][::-1]}]
    role = Looking("solo", "", "", rema.reward_answer)
    [entry] = formats.describe_roles([role])
    assert entry["prompt"].startswith("test_runs.")
    formats.check_roles([role])
    with pytest.raises(UserError, match="only the program that made this run"):
        rollout.recall_role(entry)


def run_mine(directory, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*arguments], cwd=directory, env=environment, capture_output=True, text=True)


@slow
def test_an_own_reward_is_not_lost_when_a_run_goes_on(tmp_path, monkeypatch, capsys):
    """README's mine.py, in a terminal: the printed command, word for word, goes on with it, and train.py does not."""
    (tmp_path / "mine.py").write_text(get_example(README, 0))
    flags = [*QUICK, "--save-every", "1", "--out", "my run"]
    done = run_mine(tmp_path, sys.executable, "mine.py", *flags, "--steps", "2")
    assert done.returncode == 0, done.stderr
    saved = read_settings(tmp_path / "my run")
    assert saved["roles"][1]["reward"] == "mine.reward_short_answer"
    assert saved["command"] == shlex.join([sys.executable, "mine.py", *flags, "--steps", "2"])
    monkeypatch.chdir(tmp_path)
    refused = fail(train.main, ["--resume", "my run", "--steps", "3"], capsys)
    assert "mine.reward_short_answer" in refused
    advised = shlex.split(refused.split(": ")[-1])
    assert advised == [sys.executable, "mine.py", "--resume", "my run"]
    done = run_mine(tmp_path, *advised, *flags, "--steps", "4")                # what was typed may be typed again
    assert done.returncode == 0, done.stderr
    episodes = [json.loads(line) for line in (tmp_path / "my run/episodes.jsonl").read_text().splitlines()]
    earned = [(e["rewards"]["low"], e["turns"][1]["tokens"]) for e in episodes if e["step"] == 4]
    for reward, tokens in earned:
        assert round(reward + 0.2 * tokens / 100, 6) in (1.0, -0.5, -1.0)      # with the price of its length


def test_a_run_goes_on_with_what_it_was_made_with(three, tmp_path, capsys):
    plain, own = tmp_path / "plain", tmp_path / "own"
    train.main([*QUICK, "--steps", "1", "--out", str(plain)])
    train.main([*QUICK, "--steps", "1", "--out", str(own)], assign_advantages=halve)
    for run, how, why in ((own, {}, "advantages by test_runs.halve"), (three, {}, "low rewarded by test_runs.reward_len"),
                          (plain, {"assign_advantages": halve}, "advantages by rema.assign_advantages"),
                          (plain, {"roles": [rema.HIGH]}, "2 roles, here 1"),
                          (three, {"roles": [*make_three()[:2], replace(rema.LOW, name="check")]}, "another")):
        assert why in fail(train.main, ["--resume", str(run), "--steps", "9"], capsys, **how)
    train.main(["--resume", str(own), "--steps", "2"], assign_advantages=halve)
    assert len(metrics(own)) == 3


def test_own_prompts_with_rewards_that_train_knows_go_on_with_train(tmp_path, monkeypatch):
    role = replace(rema.VRP, system="Solve it. Use \\boxed{}.")
    train.main([*QUICK, "--steps", "1", "--out", str(tmp_path / "run")], roles=[role])
    seen = []
    monkeypatch.setattr(train, "load_learners", lambda args, roles: seen.extend(roles) or stop())

    def stop():
        raise UserError("enough")
    with pytest.raises(SystemExit):
        train.main(["--resume", str(tmp_path / "run"), "--steps", "2"])
    assert seen == [role]


@pytest.mark.parametrize("roles, flags, why", [
    ([rema.HIGH, rema.HIGH], [], "each name once"), ([replace(rema.VRP, name="best")], [], "not question or best"),
    ([replace(rema.VRP, name="../up")], [], "'../up'"),
    ([rema.HIGH, replace(rema.LOW, user="{question} {hihg}")], [], "may name {question}, {high}"),
    ([replace(rema.HIGH, user="{question} {low}"), rema.LOW], [], "it may name {question};"),
    ([replace(rema.VRP, user='{question} {"a": 1}')], [], "written twice"), ([rema.VRP], ["--example"], "--example is for"),
    ([rema.VRP], ["--process", "mrp"], "--process is for")])
def test_roles_that_cannot_speak_are_one_line(roles, flags, why, tmp_path, capsys):
    assert why in fail(train.main, [*QUICK, *flags, "--out", str(tmp_path / "run")], capsys, roles=roles)
    assert not (tmp_path / "run").exists()


def test_worked_examples_for_a_third_voice_are_one_line():
    third = replace(rema.LOW, name="check", user="{question} {low}")
    with pytest.raises(UserError, match="check is shown what 'low' said"):
        rema.add_examples([rema.HIGH, rema.LOW, third], [{"question": "1+1", "plan": "add", "working": "2"}])


@pytest.mark.parametrize("typed, argv, own, expected", [
    (["python", "mine.py", "--out", "a b"], None, True, "python mine.py --resume 'x y'"),
    (["python3", "-m", "lab.mine", "--lr", "1"], ["--lr", "1"], True, "python3 -m lab.mine --resume 'x y'"),
    (["python", "train.py"], None, False, "python train.py --resume 'x y'"),
    (["python", "-m", "pytest", "-q"], ["--steps", "2"], False, "python train.py --resume 'x y'"),
    (["python", "sweep.py", "3"], ["--steps", "2"], True, "python sweep.py 3 --resume 'x y' (if this program")])
def test_the_advice_is_the_command_that_was_typed(typed, argv, own, expected, monkeypatch):
    script = 3 if "-m" in typed else 2
    monkeypatch.setattr(sys, "orig_argv", typed)
    monkeypatch.setattr(sys, "argv", [typed[1], *typed[script:]])
    command, program = formats.find_command(argv, own)
    assert command == shlex.join(typed)
    args = rollout.Namespace(command=command, program=program, out="x y")
    assert formats.advise(args).startswith(expected)


# ------------------------------------------------------------------------------------------------------------
# Two at once; a disk that was full

def hold(run, told):
    runs.hold_run(str(run))
    told.touch()
    time.sleep(60)


def test_only_one_process_goes_on_with_a_run(three, tmp_path, capsys):
    """The lock ends with its process, however that dies."""
    other = apart.start(hold, three, tmp_path / "held")
    while not (tmp_path / "held").exists():
        assert other.is_alive()
        time.sleep(0.01)
    before = (three / "metrics.jsonl").read_bytes()
    assert "another process" in fail(train.main, ["--resume", str(three)], capsys, roles=make_three())
    assert (three / "metrics.jsonl").read_bytes() == before
    other.kill()
    other.join()
    train.main(["--resume", str(three)], roles=make_three())
    train.main(["--resume", str(three)], roles=make_three())                   # nor does this process keep it


def test_a_run_that_is_being_trained_is_not_gone_on_with(tmp_path, monkeypatch, capsys):
    """Nor does it begin twice; torchrun's other processes take no lock."""
    said = []

    def spying(*given):
        with pytest.raises(UserError, match="another process"):
            train.parse(["--resume", str(tmp_path / "run")])
        monkeypatch.setenv("RANK", "1")
        said.append(train.parse(["--resume", str(tmp_path / "run")]))
        monkeypatch.delenv("RANK")
        return plain(*given)
    plain = train.Run.restore
    monkeypatch.setattr(train.Run, "restore", spying)
    train.main([*QUICK, "--steps", "1", "--out", str(tmp_path / "run")])
    assert len(said) == 1
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/.lock").touch()               # all that a run leaves whose settings could not be written
    runs.refuse_used(str(tmp_path / "begun"), "is used")


@pytest.mark.parametrize("full_at", [
    "state.safetensors", pytest.param("config.json", marks=slow), pytest.param("metrics.jsonl", marks=slow)])
def test_a_disk_that_was_full_at_the_first_save_is_no_dead_end(full_at, tmp_path, monkeypatch, capsys):
    """The same command or --resume begins anew, and ends as if the disk had been large enough."""
    flags = [*QUICK, "--steps", "2", "--save-every", "2"]
    train.main([*flags, "--out", str(tmp_path / "whole")])

    def full(path, *given):
        if pathlib.Path(path).name == full_at:
            raise UserError(f"{path}: the disk is full")
        return plain(path, *given)
    module, name = {"state.safetensors": (runs, "write_tensors"), "config.json": (runs, "atomic_write"),
                    "metrics.jsonl": (runs, "append_json")}[full_at]
    plain = getattr(module, name)
    with monkeypatch.context() as patch:
        if full_at == "state.safetensors":
            patch.setattr(runs, name, lambda tensors, path: full(path) or plain(tensors, path))
        else:
            patch.setattr(module, name, full)
        assert "disk is full" in fail_late(train.main, [*flags, "--out", str(tmp_path / "run")], capsys)
    again = ["--resume", str(tmp_path / "run")]
    if full_at == "config.json":
        again = [*flags, "--out", str(tmp_path / "run")]
    train.main(again)
    told = capsys.readouterr().err
    assert ("so it starts over" in told) == (full_at == "state.safetensors")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert "so it starts over" not in fail_late(train.main, ["--resume", str(tmp_path / "run"), "--steps", "1"], capsys)


def fail_late(program, argv, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        program(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_damaged_log_is_one_line(tmp_path, capsys):
    """A state without the line of its step: what was best, and what was measured, is not known."""
    train.main([*QUICK, "--steps", "1", "--out", str(tmp_path / "run")])
    log = tmp_path / "run/metrics.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    assert "step 1 is missing" in fail(train.main, ["--resume", str(tmp_path / "run"), "--steps", "2"], capsys)
    log.unlink()
    assert "metrics.jsonl" in fail(train.main, ["--resume", str(tmp_path / "run"), "--steps", "2"], capsys)


# ------------------------------------------------------------------------------------------------------------
# Data: gold answers that can't be read, copies

def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("answer, mended", [
    ("She sold 48/2 = 24 clips in May.\n#### 72", "'72'"), ("So $x = 5$, hence \\boxed{5}.", "'5'"),
    ("it is then 1,005", "'1,005'"), ("as one may see", "alone")])
def test_gold_answers_that_cannot_be_read_are_counted_and_mended(answer, mended, tmp_path, capsys):
    rows = [{"problem": "1+1", "answer": "2"}, {"problem": "1+2", "answer": answer}, {"problem": "2+2", "answer": answer}]
    path = write_rows(tmp_path / "mine.jsonl", rows)
    choosing.load_data(path, "train", None)
    told = capsys.readouterr().err
    assert "2 of 3 gold answers" in told and "mine-2" in told and mended in told and told.count("\n") == 1
    choosing.load_data(write_rows(tmp_path / "good.jsonl", rows[:1]), "train", None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_none_are_refused(value, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"problem": "1", "answer": 1}\n{"problem": "1", "answer": %s}\n' % value)
    with pytest.raises(UserError, match="mine.jsonl, line 2"):
        reading.read_jsonl(tmp_path / "mine.jsonl")


def test_copies_never_stand_on_both_sides(tmp_path, capsys):
    """50 problems four times over, in other words too; and README's own example, one file for both."""
    rows = [{"problem": f"{i}+{i}" + " " * (i % 3) * (k % 2), "answer": str(2 * i), "id": f"{i}-{k}"}
            for k in range(4) for i in range(50)]
    path = write_rows(tmp_path / "mine.jsonl", rows)
    for held_in in (None, path):
        training, held = choosing.split_data(path, held_in, 20, None)
        texts = [{reading.problem_text(row) for row in part} for part in (training, held)]
        told = capsys.readouterr().err
        assert "copies of others" in told or "held out, too" in told
        assert not texts[0] & texts[1] or "every training problem is held out" in told
    path = write_rows(tmp_path / "two.jsonl", [{"problem": "12*(3-1)", "answer": "24"}, {"problem": "9-2*3", "answer": "3"}])
    training, held = choosing.split_data(path, path, None, None)
    assert len(training) == len(held) == 2 and "by heart" in capsys.readouterr().err


def test_training_on_with_the_houses_prompts_is_said(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"own_roles": true}')
    formats.warn_of_other_prompts(str(tmp_path))
    assert "with roles of its own: here its agents get the prompts of --process" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"own_roles": false}')
    formats.warn_of_other_prompts(str(tmp_path))
    formats.warn_of_other_prompts("tiny")
    assert capsys.readouterr().err == ""
