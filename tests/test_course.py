"""The course: each exercise's check is right about what is right and wrong, the runner about what is hostile.

tests/course/solutions/ holds other correct solutions (eNN_anything.py), tests/course/small.py a small exercise.
"""
import ast
import math
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy
import pytest
import torch

from data import UserError
from data.course import __main__ as commands
from data.course import child, filling, grading, judging, making, reference, sources, terminal
from tests.course import mutating, recording, small

HERE = pathlib.Path(__file__).resolve().parent
EXERCISES = reference.load_exercises()
SOLUTIONS = sorted((HERE / "course/solutions").glob("e*.py"))
each_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=[f"e{n:02}" for n in EXERCISES])


def take_reference(exercise):
    """The scripts that a perfect student would have."""
    scripts = {}
    for target in exercise.TARGETS:
        script, _ = target.split(".")
        scripts[script] = reference.read_text(f"{script}.py")
    return scripts


def replace_bodies(exercise, body):
    """Every target has this body."""
    scripts = take_reference(exercise)
    for target in exercise.TARGETS:
        script, name = target.split(".")
        own = body
        if body == "its input":
            arguments = sources.find(ast.parse(scripts[script]), name).args
            own = f"return {[*arguments.posonlyargs, *arguments.args][0].arg}"
        scripts[script] = sources.replace_body(scripts[script], name, own)
    return scripts


def answer_here(exercise, scripts, seeds=(1,)):
    """Cases, and a student's answers to them, computed in this process."""
    cases = judging.make_cases(exercise, seeds)
    return cases, list(child.answer_cases(exercise, scripts, cases))


def count_points(exercise, scripts, seeds=(1,)):
    return mutating.count_points(exercise, *answer_here(exercise, scripts, seeds))


# ------------------------------------------------------------------------------------------------------------
# Each exercise

@each_exercise
def test_an_exercise_is_complete(exercise):
    assert len(exercise.HINTS) == 3 and len(exercise.MISTAKES) >= 5 and exercise.MINUTES > 0
    assert {case.part for case in judging.make_cases(exercise, [1])} == set(exercise.PARTS)
    for target in exercise.TARGETS:
        script, name = target.split(".")
        node = sources.find(ast.parse(reference.read_text(f"{script}.py")), name)
        assert node is not None and ast.get_docstring(node), target
        assert node.end_lineno - node.lineno < 60
        for other in reference.SCRIPTS:              # a script that took it by its name would not have the student's
            for part in ast.walk(ast.parse(reference.read_text(f"{other}.py"))):
                if isinstance(part, ast.ImportFrom) and part.module == script:
                    assert name not in [alias.name for alias in part.names], (other, target)


@each_exercise
def test_the_reference_has_full_marks(exercise):
    assert judging.judge(exercise, *answer_here(exercise, take_reference(exercise), judging.PUBLIC_SEEDS)) == {}


@each_exercise
@pytest.mark.parametrize("body", ["raise NotImplementedError", "return 0", "return None", "return []", "its input"])
def test_what_is_trivial_has_no_points(exercise, body):
    assert count_points(exercise, replace_bodies(exercise, body)) == 0


@each_exercise
def test_known_mistakes_are_found_and_named(exercise):
    cases = judging.make_cases(exercise, judging.PUBLIC_SEEDS[:1])
    texts = "\n".join(reference.read_source(target) for target in exercise.TARGETS)
    known = []
    for mistake in exercise.MISTAKES:
        assert texts.count(mistake.old) == 1, mistake.old
        known.append(list(child.answer_cases(exercise, judging.apply_mistake(exercise, mistake), cases)))
    for mistake, answers in zip(exercise.MISTAKES, known):
        assert mutating.count_points(exercise, cases, answers) < sum(exercise.PARTS.values()), mistake.says
        failed = all("error" in answer for answer in answers)
        assert failed or mistake in list_named(exercise, cases, answers, known), mistake.says


def list_named(exercise, cases, answers, known):
    """The mistakes that a student with these answers reads of: as judging.name_mistake, which computes what is known."""
    named = []
    for part in exercise.PARTS:
        chosen = [i for i, case in enumerate(cases) if case.part == part]
        mine = [answers[i] for i in chosen]
        wrong = any(judging.find_fault(exercise, cases[i], answers[i]) for i in chosen)
        if not wrong or any("error" in answer for answer in mine):
            continue
        for mistake, others in zip(exercise.MISTAKES, known):
            if judging.are_same([others[i] for i in chosen], mine):
                named.append(mistake)
                break
    return named


@pytest.mark.parametrize("path", SOLUTIONS, ids=[path.stem for path in SOLUTIONS])
def test_another_correct_solution_has_full_marks(path):
    exercise = EXERCISES[int(path.stem[1:3])]
    text = path.read_text(encoding="utf-8")
    scripts = {script: text for script in take_reference(exercise)}
    assert judging.judge(exercise, *answer_here(exercise, scripts, judging.PUBLIC_SEEDS)) == {}


# ------------------------------------------------------------------------------------------------------------
# Hostile and broken submissions: each part has the points that it deserves

RIGHT = reference.read_text("rewards.py")
HOSTILE = '''

def compute_reward(response, answer):
    import sys, os, time, glob
    part = sys._getframe(1).f_locals["given"]["part"]
    {what}
    if is_correct(response, answer):
        return 1.0
    return -1.0 if extract(response) is None else -0.5
'''


def check_hostile(what, limit=10.0):
    text = RIGHT.replace("def compute_reward", "def the_old_one") + HOSTILE.format(what=what)
    return judging.check(small, {"rewards": text}, seeds=[1], limit=limit)


@pytest.mark.parametrize("what, message", [
    ("if part == 'b': sys.exit(0)", "SystemExit"),
    ("if part == 'b': raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("if part == 'b': os._exit(0)", "ended"),
    ("if part == 'b': os.abort()", "ended"),
    ("if part == 'b': return part_that_is_not_there", "NameError"),
    ("if part == 'b': return (lambda f: f(f))(lambda f: f(f))", "RecursionError"),
    ("if part == 'b': return True", "bool"),
    ("if part == 'b': return [0.0] * 10_000_000", "10,000,000 elements"),
    ("if part == 'b': return 10 ** 10_000", "4300"),
    ("if part == 'b': response = []; response.append(response); return response", "RecursionError"),
])
def test_a_part_that_fails_costs_its_own_points(what, message):
    messages = check_hostile(what)
    assert list(messages) == ["b"] and message in messages["b"], messages


def test_a_part_that_never_ends_costs_its_own_points():
    messages = check_hostile("while part == 'c': pass", limit=0.7)
    assert list(messages) == ["c"] and "never end" in messages["c"], messages


@pytest.mark.parametrize("what", [
    "print('x' * 20_000_000); sys.stdout.flush(); os.write(1, b'x' * 5_000_000); os.write(2, b'x' * 5_000_000)",
    "import warnings; warnings.warn('w' * 1_000_000); sys.stderr.write('x' * 5_000_000)",
    "for name in glob.glob('../*') + glob.glob('*'): os.path.isfile(name) and open(name, 'a').write('passed\\n')",
    "sys.__stdout__.write('{{\"points\": 10}}')",
    "import threading; threading.Thread(target=time.sleep, args=(60,)).start()",
])
def test_noise_costs_nothing(what):
    assert check_hostile(what) == {}


def test_whoever_closes_every_file_loses_a_part():
    assert list(check_hostile("if part == 'c': os.closerange(0, 100)")) == ["c"]


def test_what_is_written_into_the_pipe_does_not_count():
    """Lines without the nonce are nobody's; a wrong function stays wrong, a right one right."""
    forge = """for number in range(3, 20):
        try:
            os.write(number, b'{{"value": [1.0, true, "a"]}}\\n')
        except OSError:
            pass
    """.replace("{{", "{").replace("}}", "}")
    assert check_hostile(forge) == {}
    assert list(check_hostile(forge + "return 0.25")) == list(small.PARTS)


def test_a_script_that_can_not_be_read():
    for text, message in ((RIGHT.replace("def plan_reward(plan_text", "def plan_reward(plan_text:::"), "line"),
                          ("\0", "can't read"), ("", "not written")):
        messages = judging.check(small, {"rewards": text}, seeds=[1])
        assert list(messages) == list(small.PARTS) and message in messages["a"]
    assert judging.check(small, {}, seeds=[1]) == messages


def test_a_function_that_is_gone_is_not_the_references():
    text = RIGHT.replace("def has_box", "def has_no_box")
    cases, answers = answer_here(small, {"rewards": text})
    assert all("has_box" in answer["error"] for answer in answers)


def test_helpers_count_and_changes_elsewhere_do_not():
    text = RIGHT.replace("import re\n", "import re\nimport math as mathematics\nHALF = mathematics.sqrt(0.25)\n", 1)
    text = text.replace("return -0.5\n", "return lose(HALF)\n\n\ndef lose(much):\n    return -much\n", 1)
    assert count_points(small, {"rewards": text}) == 10
    text = RIGHT.replace("def is_correct(response: str, answer: str, lenient: bool = False) -> bool:\n",
                         "def is_correct(response: str, answer: str, lenient: bool = False) -> bool:\n    return True\n")
    assert text != RIGHT and count_points(small, {"rewards": text}) == 10
    assert count_points(small, {"rewards": RIGHT + "\n\nwhile True:\n    pass\n"}) == 10


def test_the_modules_are_what_they_were_before():
    import rewards

    before = dict(vars(rewards))
    for text in (RIGHT.replace("return -0.5", "return -0.25"), RIGHT + "\nTWO = 1 / 0\n", "def (:"):
        answer_here(small, {"rewards": text})
        assert vars(rewards) == before


@pytest.mark.parametrize("expected, found, difference", [
    (1.0, 1.0 + 1e-11, ""), (1.0, 1, ""), (1, 1.0, "float"), (1.0, True, "bool"), (True, 1, "int"), (1.0, None, "NoneType"),
    (1.0, 1.0 + 1e-8, "is 1.00000001, due is 1"), (-1.0, 1.0, "due is -1"), ([1.0], (1.0,), "tuple"), ([1.0], [1.0, 2.0], "list of 2 elements"),
    ([1.0], torch.ones(1), "tensor"), (torch.ones(2), torch.ones(2).double(), "float64"), (0.0, math.nan, "nan"),
    (torch.ones(2, 2), torch.ones(4), "[4]"), (torch.ones(2, 2), torch.tensor([[1, 1], [1, 3.0]]), "[1][1] is 3"),
    (torch.tensor([1]), torch.tensor([2]), "due is 1"), ({"a": 1}, {}, "the keys []"), ("x", "y", "'y'"),
    (math.inf, math.inf, ""), (math.inf, 1e308, "due is inf"), (0.0, numpy.float32(0), "float32"),
    (torch.tensor(2.0), 2.0, "float"), ({"a": 1}, {"a": 1, "b": 2}, "'b'"), ({"a": 1, "b": 2}, {"b": 2, "a": 1}, ""), ({"a": [1]}, {"a": [2]}, "a[0] is 2"),
])
def test_differences(expected, found, difference):
    said = judging.find_difference(child.flatten(expected), child.flatten(found))
    assert (difference in said) if difference else said == ""


# ------------------------------------------------------------------------------------------------------------
# A student's copy, made once, in a directory with spaces in its name

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("a course") / "copy of Ada"
    making.make(directory, "Ada L", [], update=False)
    return directory


@pytest.fixture
def copy(made, tmp_path, monkeypatch):
    """A fresh one for each test, which may write in it, and which the commands of this process are about."""
    directory = tmp_path / "my copy"
    shutil.copytree(made, directory)
    monkeypatch.setattr(terminal, "ROOT", directory)
    return directory


def run_in(directory, *arguments):
    """In another process, without this repository beside it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([sys.executable, *arguments], cwd=directory, env=environment, text=True, capture_output=True)


def write_function(directory, target, source):
    script, name = target.split(".")
    path = directory / f"{script}.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(sources.get_source(text, name), source), encoding="utf-8")


def solve(directory, exercise):
    for target in exercise.TARGETS:
        write_function(directory, target, reference.read_source(target))


def test_a_copy_holds_no_solution(made):
    for exercise in EXERCISES.values():
        for target in exercise.TARGETS:
            script, name = target.split(".")
            node = sources.find(ast.parse((made / f"{script}.py").read_text(encoding="utf-8")), name)
            ours = sources.find(ast.parse(reference.read_text(f"{script}.py")), name)
            assert sources.is_unsolved(node)
            assert ast.dump(node.args) == ast.dump(ours.args)
            assert len(node.decorator_list) == len(ours.decorator_list)
            assert ast.get_docstring(node) == ast.get_docstring(ours)
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert not [name for name in names if "test" in name or "results" in name or "__pycache__" in name]
    assert not [name for name in names if "exercises/e" in name or "grading" in name or "making" in name]
    handout = (made / "README.md").read_text(encoding="utf-8")
    for exercise in EXERCISES.values():
        assert exercise.TEXT.strip() in handout and all(target in handout for target in exercise.TARGETS)


def test_a_student_at_work(copy, capsys, monkeypatch):
    """Exercise 2, which needs no torch, so its processes start fast."""
    exercise = EXERCISES[2]
    terminal.show_table()
    assert "[----------------]   0 of 10" in capsys.readouterr().out
    wrong = judging.apply_mistake(exercise, exercise.MISTAKES[0])["rewards"]
    write_function(copy, exercise.TARGETS[0], sources.get_source(wrong, "compute_reward"))
    done = run_in(copy, "-m", "data.course", "check", "2")
    assert done.returncode == 1 and exercise.MISTAKES[0].says in done.stdout, done
    assert "0 of 10" in done.stdout and "NotImplementedError: exercise 2 (rewards.py, line" in done.stdout, done
    with pytest.raises(UserError, match="not solved yet"):
        terminal.compare(2)
    for i in (1, 2, 3, 3):
        terminal.hint(2)
        assert f"hint {i} of 3" in capsys.readouterr().out.splitlines()[-1]
    solve(copy, exercise)
    assert terminal.check([2])
    for columns, beside in (("99", False), ("100", True)):
        monkeypatch.setenv("COLUMNS", columns)
        capsys.readouterr()
        terminal.compare(2)
        said = capsys.readouterr().out
        assert ("--- yours" in said.splitlines()) != beside and "--- ours" in said
        assert all(len(line) <= 100 for line in said.splitlines()) or not beside
    for typed in ("no", "yes"):
        monkeypatch.setattr("builtins.input", lambda question, typed=typed: typed)
        terminal.reveal(5)
        assert ("cumsum" in capsys.readouterr().out) == (typed == "yes")
    terminal.show_table()
    said = capsys.readouterr().out
    assert "[################]  10 of 10" in said and "revealed" in said and "next: exercise 1 in README.md" in said
    terminal.pack()
    assert "Ada L.zip: " in capsys.readouterr().out
    row = grading.grade_submission(copy / "Ada L.zip", [2, 5], [21])
    assert row["exercise 2"] == 10 and row["exercise 5"] == 0 and row["of"] == 20 and row["student"] == "Ada L"
    assert "2: word for word the reference" in row["notes"] and "5: revealed" in row["notes"], row


@pytest.mark.parametrize("arguments, said", [
    (["check", "99"], "there is no exercise 99"), (["hint"], "required: number"), (["check", "two"], "invalid int"),
    (["nothing"], "invalid choice"), (["grade", "x", "--only", "99"], "there is no exercise 99"), (["pack"], "no student's copy"),
])
def test_a_wrong_command_is_told_in_a_line(arguments, said, capsys, monkeypatch, copy):
    if arguments == ["pack"]:
        monkeypatch.setattr(terminal, "ROOT", copy / "data")
    with pytest.raises(SystemExit) as ended:
        commands.main(arguments)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and said in told and len(told.splitlines()) == 1, told


def test_the_scripts_of_a_copy_run_at_any_time(copy, capsys):
    done = run_in(copy, "-c", "import rewards; print(rewards.compute_reward('no', '1'), rewards.has_box('no'))")
    assert done.stdout == "-1.0 False\n", done.stderr
    assert done.stderr.startswith("rewards.py: from the reference: find_boxes, extract, compute_reward"), done.stderr
    for solved in (False, True):
        namespace = {"__file__": str(copy / "rewards.py")}
        filling.fill_in(namespace)
        assert ("compute_reward" in namespace) != solved
        assert ("compute_reward" in capsys.readouterr().err) != solved
        solve(copy, EXERCISES[2])


def test_an_update_keeps_what_was_written(copy):
    write_function(copy, "rema.compute_advantages", "import math as m\n\n\ndef total(xs):\n    return m.fsum(xs)\n\n\n"
                   "def compute_advantages(values, groups, kind='grpo'):\n    return [total(values)]\n")
    script = copy / "train.py"
    script.write_text(script.read_text(encoding="utf-8") + "\n\nLATER = 3\n", encoding="utf-8")
    state = terminal.read_state(copy)
    terminal.write_state(copy, {**state, "hints": {"3": 2}})
    for _ in range(2):
        making.make(copy, "", [], update=True)
        text = (copy / "rema.py").read_text(encoding="utf-8")
        assert "return [total(values)]" in text and "return m.fsum(xs)" in text and "import math as m" in text
        assert "LATER = 3" in (copy / "train.py").read_text(encoding="utf-8")
        assert text.count("def total") == 1 and text.count("def compute_advantages") == 1 and text.count(filling.LINE) == 1
        assert list(copy.glob("rema.py.*")) and terminal.read_state(copy)["hints"] == {"3": 2}
    (copy / "rema.py").write_text("def broken(:\n", encoding="utf-8")
    with pytest.raises(SyntaxError, match="rema.py, line 1"):
        making.make(copy, "", [], update=True)
    with pytest.raises(UserError, match="not empty"):
        making.make(copy, "", [3], update=False)


def test_the_page_lists_the_exercises(made):
    page = (HERE.parent / "data/course/README.md").read_text(encoding="utf-8")
    handout = (made / "README.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert rows == [line for line in handout.split("## 1.")[0].splitlines() if line.startswith("|")]


def test_a_copy_of_some_exercises(tmp_path, capsys):
    making.make(tmp_path / "copy", "", [8, 2], update=False)
    text = (tmp_path / "copy/rewards.py").read_text(encoding="utf-8")
    assert 'NotImplementedError("exercise 2")' in text and 'NotImplementedError("exercise 1")' not in text
    with zipfile.ZipFile(tmp_path / "copy/data/course/reference.bin") as archive:
        names = [name for name in archive.namelist() if "/" in name]
    assert names == ["data/course/exercises/e02_rewards.py", "data/course/exercises/e08_filter.py"]
    making.make(tmp_path / "copy", "", [], update=True)
    assert "exercises [2, 8] of reference" in capsys.readouterr().out


def test_an_update_can_add_exercises(tmp_path, capsys):
    """Of an exercise that a copy did not have it holds our functions, which must not pass for the student's."""
    copy = tmp_path / "copy"
    making.make(copy, "", [2], update=False)
    write_function(copy, "rewards.consistency_reward", "def consistency_reward(turn, episodes):\n    return 7.0\n")
    for script, helper in (("model", "HELPER = 1"), ("rema", "def helper(x):\n    raise NotImplementedError")):
        path = copy / f"{script}.py"                 # nothing is missing in these scripts
        path.write_text(path.read_text(encoding="utf-8") + f"\n\n{helper}\n", encoding="utf-8")
    capsys.readouterr()
    making.make(copy, "", [8, 3, 2], update=True)
    assert "exercises [2, 3, 8] of reference" in capsys.readouterr().out
    text = (copy / "rema.py").read_text(encoding="utf-8")
    assert text.count('NotImplementedError("exercise 3")') == 1 and text.count("def compute_advantages(") == 1
    assert 'NotImplementedError("exercise 8")' in (copy / "train.py").read_text(encoding="utf-8")
    assert "return 7.0" in (copy / "rewards.py").read_text(encoding="utf-8")
    assert 'NotImplementedError("exercise 1")' not in (copy / "rewards.py").read_text(encoding="utf-8")
    assert "def helper(x)" in text and "HELPER = 1" in (copy / "model.py").read_text(encoding="utf-8")
    for script in reference.SCRIPTS:
        compile((copy / f"{script}.py").read_text(encoding="utf-8"), script, "exec")
    done = run_in(copy, "-c", "import rema")   # what is missing comes from us, a helper that is unwritten from nobody
    assert done.returncode == 0 and "compute_advantages" in done.stderr and "helper" not in done.stderr, done.stderr


def test_whoever_reads_no_further_is_told_nothing(capsys, monkeypatch, copy):
    def stop(*things, **how):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(terminal, "print", stop, raising=False)
    with pytest.raises(SystemExit):
        commands.main([])
    assert capsys.readouterr().err == ""


def test_strange_submissions_have_a_row(tmp_path):
    files = {"rewards.py": "x" * 3_000_000, "course.json": '{"student": "=1+1", "exercises": [2], "version": 3, "revealed": []}'}
    files = {**{f"{script}.py": "" for script in reference.SCRIPTS}, **files, "../../rewards.py": ""}
    path = tmp_path / "=cmd.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    row = grading.grade_submission(path, [], [1])
    assert row["total"] == 0 and row["of"] == 10 and row["student"] == "'=1+1" and "another reference" in row["notes"]
    broken, other = tmp_path / "broken.zip", tmp_path / "other"
    broken.write_bytes(path.read_bytes()[:-30])
    other.mkdir()
    (other / "course.json").write_text('{"exercises": ["x"]}', encoding="utf-8")
    grading.grade([broken, tmp_path / "nothing", other, path], [], tmp_path / "points.csv", [1])
    lines = (tmp_path / "points.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5 and sum("could not be graded" in line for line in lines) == 3
    assert lines[4].startswith("'=cmd.zip,'=1+1,0,10,")


# ------------------------------------------------------------------------------------------------------------
# Automatic mutants, see tests/course/mutating.py

def test_mutants_by_hand():
    """All changes of a small function."""
    text = "def f(a, b):\n    c = max(a, b)\n    if a < 1:\n        return -c\n    return c + 2\n"
    mutants = mutating.make_mutants(text, "f")
    for source in ("min(a, b)", "if a <= 1", "if a >= 1", "return +c", "return c - 2", "c + 3", "a < 2", "pass"):
        assert any(source in mutant for mutant in mutants), source
    assert len(mutants) == len(set(mutants)) and all(ast.parse(mutant) for mutant in mutants)


@pytest.mark.skipif(not os.environ.get("REMA_SLOW"), reason="REMA_SLOW=1: all automatic mutants, minutes")
@each_exercise
def test_automatic_mutants_are_killed(exercise):
    record = mutating.measure(exercise)
    assert record["killed"] >= 0.95 * (record["mutants"] - len(record["equivalent"])), record["survivors"]


def test_few_mutants_are_excused():
    mutants, excused = 0, 0
    for record in mutating.read_record().values():
        mutants += record["mutants"]
        excused += len(record["equivalent"])
    assert excused <= 0.03 * mutants, (excused, mutants)


# ------------------------------------------------------------------------------------------------------------
# The heavy ones

def test_the_record_says_that_checks_can_be_trusted():
    """python -m tests.course.recording writes it. It may be of an earlier commit, but holds every exercise."""
    record = recording.read_record()
    for exercise in EXERCISES.values():
        found = record[exercise.__name__.split(".")[-1]]
        assert found["changed its mind"] == [] and found["caught"] == found["mistakes"] and found["seeds"] == 50
    assert record["all checks"]["seconds"] <= 90 and record["all checks"]["peak MB"] <= 600


@pytest.mark.skipif(not os.environ.get("REMA_SLOW"), reason="REMA_SLOW=1: all checks in a copy, half a minute")
def test_all_checks_in_a_copy():
    found = recording.measure_checks()
    assert found["seconds"] <= 90 and found["peak MB"] <= 600, found


@pytest.mark.skipif(not os.environ.get("REMA_SLOW"), reason="REMA_SLOW=1: 50 seeds, one and two threads, minutes")
@each_exercise
def test_no_check_changes_its_mind(exercise):
    found = recording.measure_seeds(exercise)
    assert found["changed its mind"] == [] and found["caught"] == found["mistakes"]
