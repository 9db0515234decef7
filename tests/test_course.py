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
import time
import zipfile

import numpy
import pytest
import torch

from data import UserError
from data.course import child, grading, judging, making, reference, sources
from tests.course import mutating, small

HERE = pathlib.Path(__file__).resolve().parent
EXERCISES = reference.load_exercises()
SOLUTIONS = sorted((HERE / "course/solutions").glob("e*.py"))
each_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=[f"e{n:02}" for n in EXERCISES])


def take_reference(exercise):
    """The scripts that a perfect student would have."""
    scripts = {}
    for target in exercise.TARGETS:
        script, _ = sources.split_target(target)
        scripts[script] = reference.read_script(script)
    return scripts


def replace_bodies(exercise, body):
    """Every target has this body."""
    scripts = take_reference(exercise)
    for target in exercise.TARGETS:
        script, path = sources.split_target(target)
        own = body
        if body == "its input":
            arguments = sources.find(ast.parse(scripts[script]), path).args
            names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args] if argument.arg != "self"]
            own = f"return {names[0]}"
        scripts[script] = sources.replace_body(scripts[script], path, own)
    return scripts


def judge_here(exercise, scripts, seeds=(1,), known=()):
    """As judging.check, in this process."""
    cases = judging.make_cases(exercise, seeds)
    answers = list(child.answer_cases(exercise, scripts, cases))
    return judging.judge(exercise, cases, answers, known=list(known))


# ------------------------------------------------------------------------------------------------------------
# Each exercise

@each_exercise
def test_an_exercise_is_complete(exercise):
    assert len(exercise.HINTS) == 3 and len(exercise.MISTAKES) >= 5 and exercise.MINUTES > 0
    for case in judging.make_cases(exercise, [1]):
        assert case.part in exercise.PARTS
    for target in exercise.TARGETS:
        script, path = sources.split_target(target)
        node = sources.find(ast.parse(reference.read_script(script)), path)
        assert node is not None and ast.get_docstring(node), target
        assert node.end_lineno - node.lineno < 60


@each_exercise
def test_the_reference_has_full_marks(exercise):
    verdict = judge_here(exercise, take_reference(exercise), judging.PUBLIC_SEEDS)
    assert verdict.earned == exercise.PARTS, verdict.messages


@each_exercise
@pytest.mark.parametrize("body", ["raise NotImplementedError", "return 0", "return None", "return []", "its input"])
def test_what_is_trivial_has_no_points(exercise, body):
    verdict = judge_here(exercise, replace_bodies(exercise, body))
    assert verdict.points == 0, verdict.earned


@each_exercise
def test_known_mistakes_are_found_and_named(exercise):
    cases = judging.make_cases(exercise, judging.PUBLIC_SEEDS[:1])
    known = judging.answer_mistakes(exercise, cases)
    for mistake, answers in zip(exercise.MISTAKES, known):
        verdict = judging.judge(exercise, cases, answers, known=known)
        assert verdict.points < sum(exercise.PARTS.values()), mistake.says
        said = "\n".join(verdict.messages.values())
        failed = all("error" in answer for answer in answers)
        assert mistake.says in said or failed, (mistake.says, said)


@pytest.mark.parametrize("path", SOLUTIONS, ids=[path.stem for path in SOLUTIONS])
def test_another_correct_solution_has_full_marks(path):
    exercise = EXERCISES[reference.get_number(path.stem)]
    text = path.read_text(encoding="utf-8")
    scripts = {script: text for script in take_reference(exercise)}
    verdict = judge_here(exercise, scripts, judging.PUBLIC_SEEDS)
    assert verdict.earned == exercise.PARTS, verdict.messages


# ------------------------------------------------------------------------------------------------------------
# Hostile and broken submissions: each part has the points that it deserves

RIGHT = reference.read_script("rewards")
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
    ("if part == 'b': return 10 ** 10_000", "4300 digits"),
    ("if part == 'b': response = []; response.append(response); return response", "RecursionError"),
])
def test_a_part_that_fails_costs_its_own_points(what, message):
    verdict = check_hostile(what)
    assert verdict.earned == {"a": 1, "b": 0, "c": 3, "d": 4}, verdict.messages
    assert message in verdict.messages["b"]


def test_a_part_that_never_ends_costs_its_own_points():
    verdict = check_hostile("while part == 'c': pass", limit=0.7)
    assert verdict.earned == {"a": 1, "b": 2, "c": 0, "d": 4}
    assert "never end" in verdict.messages["c"]


@pytest.mark.parametrize("what", [
    "print('x' * 20_000_000); sys.stdout.flush(); os.write(1, b'x' * 5_000_000); os.write(2, b'x' * 5_000_000)",
    "import warnings; warnings.warn('w' * 1_000_000); sys.stderr.write('x' * 5_000_000)",
    "for name in glob.glob('../*') + glob.glob('*'): os.path.isfile(name) and open(name, 'a').write('passed\\n')",
    "sys.__stdout__.write('{{\"points\": 10}}')",
    "import threading; threading.Thread(target=time.sleep, args=(60,)).start()",
])
def test_noise_costs_nothing(what):
    verdict = check_hostile(what)
    assert verdict.earned == small.PARTS, verdict.messages


def test_whoever_closes_every_file_loses_a_part():
    verdict = check_hostile("if part == 'c': os.closerange(0, 100)")
    assert verdict.earned == {"a": 1, "b": 2, "c": 0, "d": 4}, verdict.messages


def test_what_is_written_into_the_pipe_does_not_count():
    """Lines without the nonce are nobody's; a wrong function stays wrong, a right one right."""
    forge = """for number in range(3, 20):
        try:
            os.write(number, b'{{"value": [1.0, true, "a"]}}\\n')
        except OSError:
            pass
    """.replace("{{", "{").replace("}}", "}")
    assert check_hostile(forge).earned == small.PARTS
    assert check_hostile(forge + "return 0.25").points == 0


def test_a_script_that_can_not_be_read_costs_only_what_is_broken():
    text = RIGHT.replace("def plan_reward(plan_text", "def plan_reward(plan_text:::")
    verdict = judging.check(small, {"rewards": text}, seeds=[1])
    assert verdict.earned == small.PARTS and "line" in verdict.notes[0]
    assert judging.check(small, {"rewards": "\0"}, seeds=[1]).points == 0
    assert judging.check(small, {}, seeds=[1]).points == 0


def test_helpers_count_and_changes_elsewhere_do_not():
    text = RIGHT.replace("import re\n", "import re\nimport math as mathematics\nHALF = mathematics.sqrt(0.25)\n", 1)
    text = text.replace("return -0.5\n", "return lose(HALF)\n\n\ndef lose(much):\n    return -much\n", 1)
    assert judging.check(small, {"rewards": text}, seeds=[1]).earned == small.PARTS
    text = RIGHT.replace("def is_correct(response: str, answer: str, lenient: bool = False) -> bool:\n",
                         "def is_correct(response: str, answer: str, lenient: bool = False) -> bool:\n    return True\n")
    verdict = judging.check(small, {"rewards": text}, seeds=[1])
    assert verdict.earned == small.PARTS and "is_correct" in verdict.notes[0]


def test_the_modules_are_what_they_were_before():
    import rewards

    before = dict(vars(rewards))
    judge_here(small, {"rewards": RIGHT.replace("return -0.5", "return -0.25")})
    assert vars(rewards) == before


@pytest.mark.parametrize("expected, found, difference", [
    (1.0, 1.0 + 1e-11, ""), (1.0, 1, ""), (1, 1.0, "float"), (1.0, True, "bool"), (True, 1, "int"), (1.0, None, "NoneType"),
    (1.0, 1.0 + 1e-8, "off by"), (-1.0, 1.0, "due is -1"), ([1.0], (1.0,), "tuple"), ([1.0], [1.0, 2.0], "2 elements"),
    ([1.0], torch.ones(1), "tensor"), (torch.ones(2), torch.ones(2).double(), "float64"), (0.0, math.nan, "nan"),
    (torch.ones(2, 2), torch.ones(4), "[4]"), (torch.ones(2, 2), torch.tensor([[1, 1], [1, 3.0]]), "[1][1] is 3"),
    (torch.tensor([1]), torch.tensor([2]), "due is 1"), ({"a": 1}, {}, "the keys []"), ("x", "y", "'y'"),
    (math.inf, math.inf, ""), (math.nan, math.nan, ""), (math.inf, 1e308, "due is inf"), (0.0, numpy.float32(0), "float32"),
    (torch.tensor(2.0), 2.0, "float"), ({"a": 1}, {"a": 1, "b": 2}, "'b'"),
])
def test_differences(expected, found, difference):
    said = judging.find_difference(child.encode(expected), child.encode(found))
    assert (difference in said) if difference else said == ""


# ------------------------------------------------------------------------------------------------------------
# A student's copy, made once, in a directory with spaces in its name

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("a course") / "copy of Ada"
    making.make(directory, "Ada L", list(EXERCISES))
    return directory


@pytest.fixture
def copy(made, tmp_path):
    """A fresh one for each test, which may write in it."""
    directory = tmp_path / "my copy"
    shutil.copytree(made, directory)
    return directory


def run_in(directory, *arguments, typed=""):
    """Without this repository beside it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([sys.executable, *arguments], cwd=directory, env=environment, input=typed, text=True,
                          capture_output=True)


def write_function(directory, target, source):
    script, path = sources.split_target(target)
    file = directory / f"{script}.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(sources.replace_function(text, path, source), encoding="utf-8")


def solve(directory, exercise):
    for target in exercise.TARGETS:
        script, path = sources.split_target(target)
        write_function(directory, target, sources.get_source(reference.read_script(script), path))


def test_a_copy_holds_no_solution(made):
    for exercise in EXERCISES.values():
        for target in exercise.TARGETS:
            script, path = sources.split_target(target)
            node = sources.find(ast.parse((made / f"{script}.py").read_text(encoding="utf-8")), path)
            ours = sources.find(ast.parse(reference.read_script(script)), path)
            assert sources.is_unsolved(node)
            assert ast.dump(node.args) == ast.dump(ours.args)
            assert len(node.decorator_list) == len(ours.decorator_list)
            if target not in getattr(exercise, "DOCSTRINGS", {}):
                assert ast.get_docstring(node) == ast.get_docstring(ours)
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert not [name for name in names if "test" in name or "results" in name or "__pycache__" in name]
    assert not [name for name in names if "exercises/e" in name or "grading" in name or "making" in name]
    handout = (made / "README.md").read_text(encoding="utf-8")
    for exercise in EXERCISES.values():
        assert exercise.TEXT.strip() in handout and all(target in handout for target in exercise.TARGETS)


def test_a_student_at_work(copy):
    number, exercise = 3, EXERCISES[3]
    done = run_in(copy, "-m", "data.course")
    assert done.returncode == 0 and "0 of" in done.stdout and "next: " in done.stdout, done.stderr
    write_function(copy, exercise.TARGETS[0], sources.get_source(
        judging.apply_mistake(exercise, exercise.MISTAKES[0])["rema"], "compute_advantages"))
    done = run_in(copy, "-m", "data.course", "check", str(number))
    assert done.returncode == 1 and exercise.MISTAKES[0].says in done.stdout and "7 of 10" in done.stdout, done
    done = run_in(copy, "-m", "data.course", "compare", str(number))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    for i in (1, 2, 3, 3):
        assert f"hint {i} of 3" in run_in(copy, "-m", "data.course", "hint", str(number)).stdout.splitlines()[-1]
    solve(copy, exercise)
    assert run_in(copy, "-m", "data.course", "check", str(number)).returncode == 0
    assert "--- ours" in run_in(copy, "-m", "data.course", "compare", str(number)).stdout
    assert "nothing was shown" in run_in(copy, "-m", "data.course", "reveal", "5", typed="no\n").stdout
    assert "cumsum" in run_in(copy, "-m", "data.course", "reveal", "5", typed="yes\n").stdout
    done = run_in(copy, "-m", "data.course", "pack")
    assert done.returncode == 0 and (copy / "Ada-L.zip").exists() and "10 points" in done.stdout
    row = grading.grade_submission(copy / "Ada-L.zip", [3, 5], [21])
    assert row["exercise 3"] == 10 and row["exercise 5"] == 0 and row["of"] == 20, row
    assert "3: word for word the reference" in row["notes"] and "5: revealed" in row["notes"], row


def test_the_scripts_of_a_copy_run_at_any_time(copy):
    done = run_in(copy, "-c", "import rollout, rema; print(rema.compute_advantages([1.0, 0.0], [0, 0]))")
    assert done.returncode == 0 and "0.70" in done.stdout, done.stderr
    assert "from the reference: " in done.stderr and "compute_advantages (exercise 3)" in done.stderr
    solve(copy, EXERCISES[3])
    done = run_in(copy, "-c", "import rema")
    assert "compute_advantages" not in done.stderr


def test_an_update_keeps_what_was_written(copy):
    write_function(copy, "rema.compute_advantages", "import math as m\n\n\ndef total(xs):\n    return m.fsum(xs)\n\n\n"
                   "def compute_advantages(values, groups, kind='grpo'):\n    return [total(values)]\n")
    assert making.update(copy)                       # the docstring is gone: that is said
    text = (copy / "rema.py").read_text(encoding="utf-8")
    assert "return [total(values)]" in text and "return m.fsum(xs)" in text and "import math as m" in text
    assert (copy / "rema.py.before").exists()
    making.update(copy)
    assert (copy / "rema.py").read_text(encoding="utf-8").count("def total") == 1
    (copy / "rema.py").write_text("def broken(:\n", encoding="utf-8")
    with pytest.raises(UserError, match="mend that first"):
        making.update(copy)
    with pytest.raises(UserError, match="not empty"):
        making.make(copy, "", [3])


def test_strange_submissions_have_a_row(tmp_path):
    path = tmp_path / "=cmd.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("some folder/rema.py", "def compute_advantages(values, groups, kind): return 0\n")
        archive.writestr("../../rewards.py", "x" * 3_000_000)
        archive.writestr("some folder/course.json", '{"student": "=1+1", "exercises": "all", "version": 3}')
    row = grading.grade_submission(path, [3], [1])
    assert row["total"] == 0 and row["student"] == "'=1+1" and "another reference" in row["notes"]
    broken, other = tmp_path / "broken.zip", tmp_path / "other"
    broken.write_bytes(path.read_bytes()[:-30])
    other.mkdir()
    (other / "course.json").write_text('{"exercises": ["x"]}', encoding="utf-8")
    grading.grade([broken, tmp_path / "nothing", other, path], [], [1], tmp_path / "points.csv")
    lines = (tmp_path / "points.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5 and sum("could not be graded" in line for line in lines) == 3


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


@pytest.mark.xfail(reason="draw works on the last of two dimensions, so -1 and 1 are the same: 9 of its 50 mutants")
def test_few_mutants_are_excused():
    mutants, excused = 0, 0
    for record in mutating.read_record().values():
        mutants += record["mutants"]
        excused += len(record["equivalent"])
    assert excused <= 0.03 * mutants, (excused, mutants)


# ------------------------------------------------------------------------------------------------------------
# The heavy ones

@pytest.mark.skipif(not os.environ.get("REMA_SLOW"), reason="REMA_SLOW=1: all checks in a copy, about a minute")
def test_all_checks_in_a_copy(copy):
    for exercise in EXERCISES.values():
        solve(copy, exercise)
    begun = time.monotonic()
    done = run_in(copy, "-m", "data.course", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - begun < 90
    assert "all done" in run_in(copy, "-m", "data.course").stdout


@pytest.mark.skipif(not os.environ.get("REMA_SLOW"), reason="REMA_SLOW=1: 50 seeds, one and two threads")
@each_exercise
def test_no_check_changes_its_mind(exercise):
    threads = torch.get_num_threads()
    try:
        for seed in range(50):
            torch.set_num_threads(1 + seed % 2)
            assert judge_here(exercise, take_reference(exercise), [seed]).earned == exercise.PARTS, seed
            for i, mistake in enumerate(exercise.MISTAKES):
                scripts = judging.apply_mistake(exercise, mistake)
                if seed % len(exercise.MISTAKES) == i:
                    assert judge_here(exercise, scripts, [seed]).points < sum(exercise.PARTS.values()), (seed, mistake)
    finally:
        torch.set_num_threads(threads)
