"""What is right, part by part, and what to say where it is not. It happens in the parent: a child only computes."""
import ast
import math
from random import Random

from data.course import child, reference, running, sources
from data.course.exercises import Case

PUBLIC_SEEDS = (1, 2, 3)    # of a student's own checks; grading takes others


def check(exercise, scripts: dict[str, str], seeds=PUBLIC_SEEDS, limit: float = running.LIMIT) -> dict[str, str]:
    """What is wrong with a student's targets: part -> message, of each part that is not right.

    scripts: the text of each of the student's scripts, by name
    """
    own, problem = {}, "not written yet"
    for target in exercise.TARGETS:
        script, name = target.split(".")
        own[script] = scripts.get(script, "")
        try:
            tree = ast.parse(own[script], f"{script}.py")
        except (SyntaxError, ValueError) as error:   # ValueError: null bytes
            problem = f"Python can't read {script}.py: {error}"
            break
        if not sources.is_unsolved(sources.find(tree, name)):
            problem = ""
    if problem:
        return dict.fromkeys(exercise.PARTS, problem)
    cases = make_cases(exercise, seeds)
    return judge(exercise, cases, running.answer_apart(exercise, own, cases, limit))


def count_points(exercise, messages: dict[str, str]) -> int:
    """Those of the parts that are right."""
    return sum(worth for part, worth in exercise.PARTS.items() if part not in messages)


def make_cases(exercise, seeds) -> list[Case]:
    """Of all seeds, those of a part side by side."""
    cases = []
    for seed in seeds:
        cases += exercise.make_cases(Random(f"{exercise.__name__} {seed}"))
    order = list(exercise.PARTS)
    return sorted(cases, key=lambda case: order.index(case.part))


# ------------------------------------------------------------------------------------------------------------
# Right or wrong

def judge(exercise, cases: list[Case], answers: list[dict]) -> dict[str, str]:
    """As check."""
    messages = {}
    for case, answer in zip(cases, answers):
        fault = find_fault(exercise, case, answer)
        if fault and case.part not in messages:
            messages[case.part] = fault + name_mistake(exercise, case.part, cases, answers)
    return messages


def find_fault(exercise, case: Case, answer: dict) -> str:
    """What is wrong with one answer; "" if nothing is."""
    fault = answer.get("error", "")
    if not fault:
        fault = find_difference(child.flatten(exercise.expect(case.given)), answer["value"])
    if not fault:
        return ""
    fault = f"{case.says}: {fault}"
    if answer.get("printed"):
        fault += f"\nit printed: {answer['printed'].rstrip()}"
    return "".join(sign for sign in fault if sign.isprintable() or sign == "\n")     # a terminal is not to be steered


def find_difference(expected: list, found: list) -> str:
    """The first one between two flat lists (child.flatten), in words; "" if there is none."""
    for (name, due, right), (_, kind, given) in zip(expected, found):
        if due == "float" and kind in ("float", "int"):
            if not math.isclose(right, given, rel_tol=1e-9, abs_tol=1e-12):
                return f"{name} is {given:.10g}, due is {right:.10g}"
        elif kind != due:
            return f"{name} is of type {kind}, {due} is due"
        elif given != right:
            return f"{name} is {given!r:.200}, due is {right!r:.200}"
    return ""


# ------------------------------------------------------------------------------------------------------------
# Known mistakes: what they give for the same inputs is computed here, by sources that are ours

def name_mistake(exercise, part: str, cases: list[Case], answers: list[dict]) -> str:
    """The sentence of a mistake that gives these answers to all cases of a part, on a line of its own."""
    chosen = [i for i, case in enumerate(cases) if case.part == part]
    if any("error" in answers[i] for i in chosen):
        return ""
    reference.take_scripts_from_archive()
    for mistake in exercise.MISTAKES:
        scripts = apply_mistake(exercise, mistake)
        others = child.answer_cases(exercise, scripts, [cases[i] for i in chosen])
        if are_same(list(others), [answers[i] for i in chosen]):
            return f"\n{mistake.says}"
    return ""


def apply_mistake(exercise, mistake) -> dict[str, str]:
    """The reference's scripts, the targets' source changed."""
    scripts = {}
    for target in exercise.TARGETS:
        script, name = target.split(".")
        text = scripts.get(script, reference.read_text(f"{script}.py"))
        source = sources.get_source(text, name)
        scripts[script] = text.replace(source, source.replace(mistake.old, mistake.new))
    return scripts


def are_same(ours: list[dict], theirs: list[dict]) -> bool:
    for our, their in zip(ours, theirs):
        if "error" in our or find_difference(our["value"], their["value"]):
            return False
    return True
