"""What is right, part by part, and what to say where it is not. All of it happens in the parent: a child only computes."""
import ast
import math
from dataclasses import dataclass, field
from random import Random

from data.course import child, reference, running, sources
from data.course.exercises import Case

PUBLIC_SEEDS = (1, 2, 3)    # of a student's own checks; grading takes others
DIGITS = 1e-9               # relative


@dataclass
class Verdict:
    """On one exercise."""
    earned: dict[str, int] = field(default_factory=dict)     # of each part
    messages: dict[str, str] = field(default_factory=dict)   # of each part that is not right
    notes: list[str] = field(default_factory=list)           # on the whole

    @property
    def points(self) -> int:
        return sum(self.earned.values())


def check(exercise, scripts: dict[str, str], seeds=PUBLIC_SEEDS, limit: float = running.LIMIT) -> Verdict:
    """Points for a student's targets. scripts: the text of each of the student's scripts, by name."""
    own, notes, written = {}, [], False
    for script in sorted({sources.split_target(target)[0] for target in exercise.TARGETS}):
        own[script] = scripts.get(script, "")
        tree, problem = sources.parse(own[script])
        if problem:
            notes.append(f"{script}.py, {problem}: only what can be read without it counts")
        functions = sources.find_targets(tree, script, exercise.TARGETS).values()
        functions = [node for node in functions if not sources.is_unsolved(node)]
        written = written or functions != []
        for name in find_ignored(script, tree, functions):
            notes.append(f"{script}.py: you have changed {name}, but the check takes the reference's")
    if not written:
        return judge(exercise, [], [], notes)
    cases = make_cases(exercise, seeds)
    return judge(exercise, cases, running.answer_apart(exercise, own, cases, limit), notes)


def find_ignored(script: str, tree, functions: list) -> list[str]:
    """What a student has changed and uses here, though it belongs to no exercise."""
    targets = reference.list_targets()
    ignored = sources.find_ignored(tree, ast.parse(reference.read_script(script)), functions)
    return [name for name in ignored if f"{script}.{name}" not in targets]


def make_cases(exercise, seeds) -> list[Case]:
    """Of all seeds, those of a part side by side."""
    cases = []
    for seed in seeds:
        cases += exercise.make_cases(Random(f"{exercise.__name__} {seed}"))
    order = list(exercise.PARTS)
    return sorted(cases, key=lambda case: order.index(case.part))


# ------------------------------------------------------------------------------------------------------------
# Right or wrong

def judge(exercise, cases: list[Case], answers: list[dict], notes=(), known=None) -> Verdict:
    """known: what known mistakes give (answer_mistakes); None: it is computed if somebody has to ask."""
    verdict = Verdict(notes=list(notes))
    for part, points in exercise.PARTS.items():
        chosen = [i for i, case in enumerate(cases) if case.part == part]
        message = ""
        if not chosen:
            message = "not written yet"
        for i in chosen:
            message = find_fault(exercise, cases[i], answers[i])
            if message:
                break
        if message and chosen:
            if known is None:
                known = answer_mistakes(exercise, cases)
            named = name_mistake(exercise, chosen, answers, known)
            if named:
                message += f"\n{named}"
        verdict.earned[part] = 0
        if message:
            verdict.messages[part] = message
        else:
            verdict.earned[part] = points
    return verdict


def find_fault(exercise, case: Case, answer: dict) -> str:
    """What is wrong with one answer; "" if nothing is."""
    fault = answer.get("error", "")
    if not fault:
        expected = child.encode(exercise.expect(case.given))
        fault = find_difference(expected, answer["value"])
    if fault and case.says:
        fault = f"{case.says}: {fault}"
    if fault and answer.get("printed"):
        fault += f"\nit printed: {answer['printed'].rstrip()}"
    return fault


def find_difference(expected, found, name: str = "result") -> str:
    """Between two encoded outputs (child.encode), in words; "" if there is none."""
    if type(expected) is float and type(found) in (float, int):
        return compare_numbers(expected, found, name)
    kind, due = get_kind(found), get_kind(expected)
    if kind != due:
        return f"{name} is of type {kind}, {due} is due"
    if due == "dict":
        return compare_dicts(dict(expected["dict"]), dict(found["dict"]), name)
    if type(expected) is dict:                       # another kind: what it holds
        return find_difference(expected[due], found[due], name)
    if due == "list":
        if len(found) != len(expected):
            return f"{name} has {len(found)} elements, {len(expected)} are due"
        for i, (right, given) in enumerate(zip(expected, found)):
            difference = find_difference(right, given, f"{name}[{i}]")
            if difference:
                return difference
    elif found != expected:
        return f"{name} is {found!r:.200}, due is {expected!r:.200}"
    return ""


def get_kind(value) -> str:
    if type(value) is dict:
        return next(iter(value))
    return type(value).__name__


def compare_dicts(expected: dict, found: dict, name: str) -> str:
    if set(expected) != set(found):
        return f"{name} has the keys {sorted(found)}, due are {sorted(expected)}"
    for key, value in expected.items():
        part = f"{name}[{key!r}]"
        if name == "result":
            part = key                               # the names that `run` gives its outputs
        difference = find_difference(value, found[key], part)
        if difference:
            return difference
    return ""


def compare_numbers(expected: float, found: float, name: str) -> str:
    if math.isclose(expected, found, rel_tol=DIGITS, abs_tol=1e-12) or math.isnan(expected) and math.isnan(found):
        return ""
    message = f"{name} is {found:.6g}, due is {expected:.6g}"
    if f"{found:.6g}" == f"{expected:.6g}":
        message += f" (off by {found - expected:.1e}, more than rounding in float64 explains)"
    return message


# ------------------------------------------------------------------------------------------------------------
# Known mistakes: what they give for the same inputs is computed here, by sources that are ours

def apply_mistake(exercise, mistake) -> dict[str, str]:
    """The reference's scripts, the targets' source changed. ValueError unless they hold mistake.old exactly once."""
    scripts, changed = {}, 0
    for target in exercise.TARGETS:
        script, path = sources.split_target(target)
        text = scripts.setdefault(script, reference.read_script(script))
        source = sources.get_source(text, path)
        changed += source.count(mistake.old)
        scripts[script] = sources.replace_function(text, path, source.replace(mistake.old, mistake.new))
    if changed != 1:
        raise ValueError(f"the targets hold {mistake.old!r} {changed} times")
    return scripts


def answer_mistakes(exercise, cases: list[Case]) -> list[list[dict]]:
    """The answers of each known mistake."""
    reference.take_scripts_from_archive()
    found = []
    for mistake in exercise.MISTAKES:
        answers = child.answer_cases(exercise, apply_mistake(exercise, mistake), cases)
        found.append(list(answers))
    return found


def name_mistake(exercise, chosen: list[int], answers: list[dict], known: list[list[dict]]) -> str:
    """The sentence of a mistake that gives a student's answers to all cases of a part."""
    for mistake, others in zip(exercise.MISTAKES, known):
        if all(are_same(others[i], answers[i]) for i in chosen):
            return mistake.says
    return ""


def are_same(ours: dict, theirs: dict) -> bool:
    if "error" in ours or "error" in theirs:
        return False
    return find_difference(ours["value"], theirs["value"]) == ""
