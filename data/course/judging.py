"""What is right, part by part, and what to say where it is not. All of it happens in the parent: a child only computes."""
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
    own = {}
    for target in exercise.TARGETS:
        script, _ = sources.split_target(target)
        own[script] = scripts.get(script, "")
    notes = find_notes(exercise, own)
    if is_untouched(exercise, own):
        return judge(exercise, [], [], notes)
    cases = make_cases(exercise, seeds)
    answers = running.answer_apart(exercise, own, cases, limit)
    return judge(exercise, cases, answers, notes)


def make_cases(exercise, seeds) -> list[Case]:
    """Of all seeds, those of a part side by side."""
    cases = []
    for seed in seeds:
        cases += exercise.make_cases(Random(f"{exercise.__name__} {seed}"))
    order = list(exercise.PARTS)
    cases.sort(key=lambda case: order.index(case.part))
    return cases


def is_untouched(exercise, own: dict[str, str]) -> bool:
    for target in exercise.TARGETS:
        script, path = sources.split_target(target)
        tree, _ = sources.parse(own[script])
        if not sources.is_unsolved(sources.find(tree, path)):
            return False
    return True


def find_notes(exercise, own: dict[str, str]) -> list[str]:
    """Scripts that can't be read as a whole; functions that don't count though a target uses them."""
    notes, targets = [], []
    for other in reference.load_exercises().values():
        targets += other.TARGETS
    for script, text in own.items():
        tree, problem = sources.parse(text)
        if problem:
            notes.append(f"{script}.py, {problem}: only what can be read without it counts")
        nodes = []
        for target in exercise.TARGETS:
            owner, path = sources.split_target(target)
            node = sources.find(tree, path)
            if owner == script and node is not None:
                nodes.append(node)
        ours, _ = sources.parse(reference.read_script(script))
        for name in sources.find_ignored(tree, ours, nodes):
            if f"{script}.{name}" not in targets:
                notes.append(f"{script}.py: you have changed {name}, but the check takes the reference's")
    return notes


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


def find_difference(expected: list, found: list, name: str = "result") -> str:
    """Between two encoded outputs (child.encode), in words; "" if there is none."""
    kind, content = found
    due, right = expected
    if due == "float" and kind in ("int", "float"):
        return compare_numbers(right, content, name)
    if kind != due:
        return f"{name} is of type {kind}, {due} is due"
    if kind == "tensor":
        return compare_tensors(right, content, name)
    if kind in ("list", "tuple"):
        if len(content) != len(right):
            return f"{name} has {len(content)} elements, {len(right)} are due"
        for i, (a, b) in enumerate(zip(right, content)):
            difference = find_difference(a, b, f"{name}[{i}]")
            if difference:
                return difference
        return ""
    if kind == "dict":
        return compare_dicts(right, content, name)
    if content != right:
        return f"{name} is {content!r:.200}, due is {right!r:.200}"
    return ""


def compare_dicts(expected: list, found: list, name: str) -> str:
    theirs = {str(key[1]): value for key, value in found}
    for key, value in expected:
        part = f"{name}[{key[1]!r}]"
        if name == "result":
            part = str(key[1])                       # the names that `run` gives its outputs
        if str(key[1]) not in theirs:
            return f"{part} is missing"
        difference = find_difference(value, theirs[str(key[1])], part)
        if difference:
            return difference
    if len(found) > len(expected):
        return f"{name} has {len(found)} entries, {len(expected)} are due"
    return ""


def compare_tensors(expected: list, found: list, name: str) -> str:
    for what, right, given in (("dtype", expected[0], found[0]), ("shape", expected[1], found[1])):
        if given != right:
            return f"{name} has {what} {given}, {right} is due"
    for i, (right, given) in enumerate(zip(expected[2], found[2])):
        place = []
        for size in reversed(expected[1]):
            place.insert(0, i % size)
            i = i // size
        difference = compare_numbers(right, given, f"{name}{place or ''}", is_exact(expected[0]))
        if difference:
            return difference
    return ""


def is_exact(dtype: str) -> bool:
    """Whole numbers and bools."""
    return "float" not in dtype


def compare_numbers(expected: float, found: float, name: str, exact: bool = False) -> str:
    if expected == found or (math.isnan(expected) and math.isnan(found)):
        return ""
    if not exact and math.isclose(expected, found, rel_tol=DIGITS, abs_tol=1e-12):
        return ""
    shown = f"{name} is {found:.6g}, due is {expected:.6g}"
    if f"{found:.6g}" == f"{expected:.6g}":
        shown += f" (off by {found - expected:.1e}, more than rounding in float64 explains)"
    return shown


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
