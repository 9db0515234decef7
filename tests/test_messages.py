"""What a user is told: each message says what is wrong here, and what to do, in one line."""
import gzip
import json
import os
import pathlib
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

import eval as evaluation
import rema
import rollout
import train
from data import UserError
from data.formats import files, hub, runs
from data.problems import benchmarks, choosing, reading
from data.views import statistics, terminal

ROOT = pathlib.Path(__file__).resolve().parent.parent


def refuse(function, *arguments):
    """The one line of the UserError that a call ends with."""
    with pytest.raises(UserError) as told:
        function(*arguments)
    text = str(told.value)
    assert "\n" not in text
    return text


# ------------------------------------------------------------------------------------------------------------
# Too few problems, or too little room

class Words:
    """A tokenizer of one id a word."""
    def chat(self, messages):
        return " ".join(message["content"] for message in messages).split()


def make_agents(context, names=("high", "low")):
    agents = []
    for name in names:
        role = SimpleNamespace(prompt=lambda row, said: [{"content": row["problem"]}])
        model = SimpleNamespace(config=SimpleNamespace(context=context))
        agents.append(SimpleNamespace(name=name, role=role, model=model, tokenizer=Words()))
    return agents


def test_too_few_problems_are_not_blamed_on_the_context():
    rows = [{"problem": "a b c"}] * 3
    args = SimpleNamespace(questions=4, max_new_tokens=10)
    text = refuse(choosing.leave_out_long, rows, [], make_agents(1000), args)
    assert text == "there are 3 problems to train on, fewer than --questions 4: take --questions 3 or more data"


def test_a_short_context_is_named_with_what_would_fit():
    rows = [{"problem": " ".join("a" * n)} for n in (5, 7, 9, 30)]
    args = SimpleNamespace(questions=3, max_new_tokens=50)
    text = refuse(choosing.leave_out_long, rows, [], make_agents(60), args)
    for part in ("context of this model is 60 tokens", "2 x --max-new-tokens 50", "0 of 4 training problems fit",
                 "the longest prompt has 30 tokens", "--max-new-tokens 25 leaves room for --questions 3"):
        assert part in text, part
    args.max_new_tokens = 25                                 # as it was told
    assert len(choosing.leave_out_long(rows, [], make_agents(60), args)) == 3
    args.max_new_tokens = 26
    refuse(choosing.leave_out_long, rows, [], make_agents(60), args)
    assert "too long for this model" in refuse(choosing.leave_out_long, rows, [], make_agents(8), args)


def test_a_question_that_is_too_long_names_the_context(capsys):
    with pytest.raises(SystemExit):
        rollout.main(["1+" * 1000 + "1"])
    assert re.search(r"prompt has \d{4} tokens, .* context of 512", capsys.readouterr().err)


# ------------------------------------------------------------------------------------------------------------
# Directories

def test_what_is_in_the_way_is_called_by_its_name(tmp_path):
    out = tmp_path / "out"
    out.write_text("a file")
    args = SimpleNamespace(resume=None, out=str(out))
    assert refuse(runs.refuse_used_run, args) == f"{out} is a file, not a directory: name another --out"
    out.unlink()
    out.mkdir()
    runs.refuse_used_run(args)
    (out / "thesis.tex").write_text("")
    assert "holds other files, but no run" in refuse(runs.refuse_used_run, args)
    (out / "config.json").write_text("{}")
    assert f"continue it with --resume {out}" in refuse(runs.refuse_used_run, args)
    runs.refuse_used_run(SimpleNamespace(resume=str(out), out=str(out)))


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def refuse_to_make(path, *more, **how):
        raise PermissionError(13, "Permission denied", path)
    monkeypatch.setattr(os, "makedirs", refuse_to_make)
    text = refuse(runs.claim_directory, "out/tiny-rema-s0")
    assert text == "out/tiny-rema-s0: cannot be made (Permission denied); name another place with --out"
    monkeypatch.undo()
    assert "cannot be written" in refuse(files.append_json, tmp_path / "nowhere" / "metrics.jsonl", [{}])


# ------------------------------------------------------------------------------------------------------------
# Data of other formats and names

def test_compressed_and_other_files_get_their_own_advice(tmp_path):
    rows = [{"problem": "1+1", "answer": "2"}, {"problem": "2+2", "answer": "4"}]
    lines = "".join([json.dumps(row) + "\n" for row in rows])
    cases = [("a.jsonl.gz", gzip.compress(lines.encode()), "compressed: unpack it first \\(gunzip "),
             ("b.parquet", b"PAR1....", "Parquet"), ("c.json", json.dumps(rows).encode(), "one JSON list"),
             ("d.csv", b"\xef\xbb\xbfproblem,answer\n1+1,2\n2+2,4\n", "is a table"),
             ("d2.tsv", b"problem\tanswer\n1+1\t2\n2+2\t4\n", "is a table"),
             ("e.json", json.dumps(rows[0], indent=1).encode(), "over several lines")]
    for name, content, said in cases:
        (tmp_path / name).write_bytes(content)
        text = refuse(benchmarks.load, tmp_path / name)
        assert re.search(said, text), text
        made = re.search(r'python -c "(.*)" (\S+) > (\S+)$', text)
        if made:                                             # the command that was advised makes what is needed
            monkey = pytest.MonkeyPatch()
            with monkey.context() as patch, open(tmp_path / made[3], "w") as out:
                patch.setattr(sys, "argv", ["-c", made[2]])
                patch.setattr(sys, "stdout", out)
                exec(made[1], {})
            found = reading.read_jsonl(tmp_path / made[3])
            assert [row["answer"] for row in found] == ["2", "4"]
    (tmp_path / "f.csv").write_text(lines)                   # only its name is that of a table
    assert len(benchmarks.load(tmp_path / "f.csv")) == 2


@pytest.mark.parametrize("row, advice", [
    ({"question": "1+1", "answer": "2"}, "rename 'question' to 'problem'"),
    ({"problem": "1+1", "solution": "2"}, "rename 'solution' to 'answer'"), ({"text": "1+1"}, "(only ['text'])")])
def test_fields_of_other_names_are_to_be_renamed(tmp_path, row, advice):
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    assert refuse(reading.read_jsonl, tmp_path / "mine.jsonl").endswith(advice)


@pytest.mark.parametrize("name, nearest", [("openai/gsm8k", "'gsm8k', to train on 'gsm8k-train'"), ("math-ai/math500", "'math500'"),
                                           ("HuggingFaceH4/MATH-500", "'math500'"), ("someone/arithmetics", "'arithmetic'")])
def test_names_of_the_hub_lead_to_ours(name, nearest):
    text = refuse(benchmarks.load, name)
    assert f"'{name}' is no file, and data sets of the hub are not read" in text and f"nearest is {nearest} (" in text
    assert set(benchmarks.OF_THE_HUB.values()) <= set(benchmarks.BENCHMARKS)


def test_a_misspelt_name_is_no_name_of_the_hub():
    assert refuse(benchmarks.load, "mathh500").startswith("no data 'mathh500'; nearest is 'math500' (")


# ------------------------------------------------------------------------------------------------------------
# Figures

def make_episode(plan, problem, answer, correct=True, **row):
    turns = [rema.Turn([], [1], [0.0], True, name, text) for name, text in (("high", plan), ("low", "\\boxed{1}"))]
    return rema.Episode({"id": problem, "problem": problem, "answer": answer, **row}, (0, 0, 0), turns, correct)


def test_a_plan_that_repeats_the_problem_gives_nothing_away():
    assert not statistics.is_leaking(make_episode("a=7-4; b+5", "8*(7-4)+5", "5"))
    assert statistics.is_leaking(make_episode("a=7-4; b+5", "8*(7-4)", "5"))
    assert statistics.is_leaking(make_episode("It is [A].", "[A] or [B]?", "A", judge=True))


def test_one_problem_has_no_error(capsys):
    table = evaluation.summarise([make_episode("p", "1+1", "2")])
    assert table["accuracy"] == (100.0, None)
    args = SimpleNamespace(model="tiny", process="rema", own_roles=False, data="x", plans=1, answers=1, temperature=0.0)
    terminal.print_table(args, [{"problem": "1+1"}], table)
    told = capsys.readouterr().out
    assert re.search(r"accuracy +100.0 % \+- -\n", told) and "+- 0.0" not in told
    assert "1 sample each" in told


# ------------------------------------------------------------------------------------------------------------
# Without a network

@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_means_offline(value, tmp_path, monkeypatch):
    def open_nothing(*_, **__):
        raise AssertionError("the network was asked")
    monkeypatch.setattr(hub.urllib.request, "build_opener", open_nothing)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("REMA_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    text = refuse(hub.resolve, "smollm2-135m")
    assert str(tmp_path) in text and "HF_HUB_OFFLINE is set" in text and not list(tmp_path.iterdir())
    assert "HF_HUB_OFFLINE is set" in refuse(benchmarks.load, "math500")
    assert pathlib.Path(hub.resolve("tiny")).is_dir()


def test_offline_may_be_said_to_be_off(monkeypatch):
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    for value in ("", "0", "no", "False"):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert not hub.is_offline()


# ------------------------------------------------------------------------------------------------------------
# Memory

def test_what_does_not_fit_is_told_what_would(capsys):
    train.main(["--model", "llama-8b", "--fit"])
    told = capsys.readouterr().out
    assert re.search(r" 24 GB: does not fit as it is; fits with --\w", told) and "does not fit, with" not in told


def test_a_single_problem_is_too_few_to_hold_out(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"problem": "1+1", "answer": "2"}\n')
    with pytest.raises(UserError, match="a single problem can't be both"):
        choosing.split_data(str(path), None, 10, None)


def test_contradicting_answers_are_named(tmp_path, capsys):
    path = tmp_path / "two.jsonl"
    rows = [("1+1", "2"), ("1+1", "3"), ("1/2", "0.5"), ("1/2", r"\\frac12"), ("4", "4")]
    path.write_text("".join(f'{{"problem": "{problem}", "answer": "{answer}"}}\n' for problem, answer in rows))
    choosing.split_data(str(path), None, 10, None)
    told = capsys.readouterr().err
    assert "1 rows give another answer to a problem than an earlier row, such as '1+1'" in told


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_ctrl_c_while_torch_is_imported_is_one_line():
    code = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *rest):
        if name == "torch.nn":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["train.py"]
sys.modules["__main__"].__file__ = "train.py"
import train
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (-2, 130) and done.stderr.strip().splitlines() == ["train.py: interrupted"]


# ------------------------------------------------------------------------------------------------------------
# What was typed counts, or is refused

def leave_run(directory, flags):
    """What a run that train.py made with these flags leaves, as far as others look before they load anything."""
    directory.mkdir()
    args = train.parse(flags)
    args.roles, args.own_roles, args.first = [], False, args.first or "high"
    (directory / "config.json").write_text(json.dumps(runs.list_settings(args)))
    (directory / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    (directory / "state.safetensors").touch()
    (directory / ".lock").touch()
    return str(directory)


def test_a_typed_flag_is_compared_with_the_run_also_if_it_says_the_default(tmp_path):
    run = leave_run(tmp_path / "run", ["--temperature", "0.5", "--group", "4", "--steps", "2"])
    for flags in (["--temperature", "1"], ["--group", "8"], ["--followers", "2"], ["--group", "4", "--lr", "3e-4", "--lora", "2"]):
        assert "beside it only --steps, not --" in refuse(train.parse, ["--resume", run, *flags])
    assert train.parse(["--resume", run, "--group", "4", "--lr", "3e-4", "--steps", "3"]).steps == 3
    old = tmp_path / "run/config.json"                       # of a run that was begun when nobody refused that
    old.write_text(json.dumps({**json.loads(old.read_text()), "switch_every": 0, "turns": 2, "group": [4, 16]}))
    files.release_locks()
    assert train.parse(["--resume", run, "--steps", "3"]).group == [4, 16]
    files.release_locks()


@pytest.mark.parametrize("made, typed, found", [
    (["--process", "vrp"], ["--process", "rema"], ("process", "rema")),
    (["--turns", "2"], ["--turns", "1"], ("turns", 1)),
    (["--plan-format", "json"], ["--plan-format", "text"], ("plan_format", "text")),
    (["--max-new-tokens", "20"], [], ("max_new_tokens", 20))])
def test_a_run_is_asked_as_it_was_trained_unless_something_was_typed(made, typed, found, tmp_path):
    run = leave_run(tmp_path / "run", made)
    args = rollout.parse(["--model", run, *typed, "1+1"])
    assert getattr(args, found[0]) == found[1]
    args = evaluation.parse(["--model", run])
    evaluation.complete_speaking(args)
    name = made[0].strip("-").replace("-", "_")
    assert str(getattr(args, name)) == made[1]


@pytest.mark.parametrize("flags, why", [
    (["--share", "--switch-every", "7"], "--switch-every has no effect: with --share"),
    (["--share", "--first", "low"], "--first has no effect: all learn at once"),
    (["--switch-every", "0", "--followers", "4"], "--followers has no effect: all learn at once"),
    (["--switch-every", "0", "--turns", "2", "--group", "4", "16"], "--group takes one number"),
    (["--lora-targets", "bananas"], "--lora-targets has no effect"), (["--lora-alpha", "4"], "--lora-alpha has no effect"),
    (["--sft-lr", "5"], "--sft-lr has no effect"), (["--steps", "x"], "must be a whole number, not 'x'"),
    (["--switch-every", "1.5"], "must be a whole number, not '1.5'"), (["--lr", "fast"], "must be a number, not 'fast'"),
    (["--threads", "9999999"], "--threads 9999999: this machine has"), (["--device", "meta"], "this machine has none")])
def test_a_flag_without_effect_or_sense_is_refused(flags, why):
    assert why in refuse(train.parse, flags)


def test_flags_that_go_together_are_taken():
    assert train.parse(["--share", "--switch-every", "0"]).switch_every == 0
    assert train.parse(["--preset", "paper-turns", "--data", "words", "--data-dir", "."]).group == [16]
    assert train.parse(["--lora", "2", "--lora-alpha", "4", "--lora-targets", "q_proj"]).lora_alpha == 4


def test_top_p_wants_a_temperature():
    assert "--top-p has no effect" in refuse(rollout.parse, ["--top-p", "0.3", "1+1"])
    assert "must be at most 1" in refuse(rollout.parse, ["--top-p", "1.5", "1+1"])
    assert rollout.parse(["--top-p", "0.3", "--temperature", "1", "1+1"]).top_p == 0.3
    for flags, fine in ((["--top-p", "0.3"], False), (["--top-p", "0.3", "--answers", "4"], True)):
        args = evaluation.parse(flags)
        if fine:
            evaluation.check_samples(args)
        else:
            assert "--top-p has no effect" in refuse(evaluation.check_samples, args)


def test_who_learns_first_is_one_of_the_agents():
    solo = make_agents(100, ["solo"])
    args = train.parse(["--process", "vrp", "--first", "nobody"])
    assert "--first nobody: the agents are solo" in refuse(train.check_agents, args, solo)
    args = SimpleNamespace(first="low", group=[4], typed=set())                # a preset's
    train.check_agents(args, solo)
    assert args.first == "solo"


def test_a_field_of_another_meaning_makes_no_judge_task(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"problem": "1+1", "answer": "2", "judge": "gpt-4"}\n')
    [row] = choosing.load_data(str(path), "heldout", None)
    assert "judge" not in row
    task = {"question": "?", "response_a": "a", "response_b": "b", "answer": "A"}
    path.write_text('{"problem": "1+1", "answer": "2"}\n' + json.dumps(task) + "\n")
    assert "all be judge tasks" in refuse(choosing.load_data, str(path), "heldout", None)


def test_a_run_does_not_go_on_with_other_problems():
    rows = [{"problem": "1+1", "answer": "2"}, {"problem": "2+2", "answer": "4"}]
    args = SimpleNamespace(resume="out/run", data="mine.jsonl", questions=1, max_new_tokens=10)
    choosing.prepare_rows(rows[:1], rows[1:], make_agents(100), args)
    choosing.prepare_rows(rows[:1], rows[1:], make_agents(100), args)
    for other in ([{"problem": "1+1", "answer": "3"}], [{"problem": "1+2", "answer": "2"}], rows):
        text = refuse(choosing.prepare_rows, other, rows[1:], make_agents(100), args)
        assert text.startswith("out/run: --data mine.jsonl holds other problems")


def test_what_data_dir_and_limit_do_not_do_is_said(tmp_path, capsys):
    choosing.load_data("words", "heldout", 2, str(tmp_path))
    assert "--data-dir is not used for words" in capsys.readouterr().err
    args = evaluation.parse(["--model", leave_run(tmp_path / "run", ["--eval-questions", "10"]), "--limit", "40"])
    trained = evaluation.complete_speaking(args)
    assert len(choosing.choose_held_out(args, trained)) == 10
    assert "--limit 40: this run held out 10 problems" in capsys.readouterr().err


def test_groups_of_one_are_for_advantages_of_ones_own():
    from data.formats.roles import note_program
    for flags in (["--group", "1"], ["--group", "4", "1"]):
        args = train.parse(flags)
        assert "compares the samples of a group" in refuse(note_program, args, [], rema.PROCESSES["rema"], False,
                                                           rema.assign_advantages)
        note_program(args, [], rema.PROCESSES["rema"], False, leave_run)
    note_program(train.parse(["--group", "1", "--advantage", "reinforce++"]), [], rema.PROCESSES["rema"], False,
                 rema.assign_advantages)


def test_the_shapes_of_the_budget_are_fixed():
    from data.results import budget
    assert refuse(budget.program, ["--plans", "3"]).startswith("--plans: the shapes are fixed")


def test_a_misspelt_directory_is_no_network(tmp_path, monkeypatch):
    def fail(name, folder):
        raise UserError("cannot be reached")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hub, "fetch_model", fail)
    (tmp_path / "out").mkdir()
    assert refuse(hub.resolve, "out/tiny-rema-s9") == \
        "there is no directory out/tiny-rema-s9 here; and on the hub: cannot be reached"
    assert refuse(hub.resolve, "someone/model") == "cannot be reached"
