"""The course: each exercise's check is right about what is right and wrong, the runner about what is hostile.

tests/course/solutions/ holds other correct solutions (eNN_anything.py), tests/course/small.py a small exercise.
"""
import ast
import pathlib

import pytest

from data.course import child, judging, reference, sources

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
