"""Automatic mutants: each is a target with one comparison, sign, constant, min or max changed, or a line dropped.

    python -m tests.course.mutating [3 5 ...]      measure what is not up to date, write data/course/mutants.json

An exercise is measured anew when its file or its targets have changed, so an interrupted run goes on where it was.
"equivalent" in the record is written by hand: a survivor's text -> why it computes the same. It is kept.
"""
import ast
import copy
import hashlib
import json
import os
import subprocess
import sys

from data.course import child, judging, reference, sources
from data.formats.files import atomic_write

RECORD = reference.ROOT / "data/course/mutants.json"
SEEDS = (1,)
LIMIT = 20                  # seconds a mutant

COMPARISONS = {ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
               ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
               ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,)}
SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Mod: ast.Mult,
         ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And}
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "argmax": "argmin", "argmin": "argmax",
         "any": "all", "all": "any"}


def make_mutants(text: str, name: str) -> list[str]:
    """The texts of a script in which one thing about the function `name` is changed."""
    tree = ast.parse(text)
    mutants = []
    for i, node in enumerate(ast.walk(sources.find(tree, name))):
        for change in list_changes(node):
            changed = copy.deepcopy(sources.find(tree, name))
            change(list(ast.walk(changed))[i])
            lines = ast.unparse(changed).splitlines()
            source = "".join(f"{line}\n" for line in lines)
            mutants.append(text.replace(sources.get_source(text, name), source))
    return list(dict.fromkeys(mutants))


def list_changes(node):
    """Functions that change a node of this kind."""
    changes = []
    if isinstance(node, ast.Compare):
        for kind in COMPARISONS[type(node.ops[0])]:
            changes.append(lambda node, kind=kind: node.ops.__setitem__(0, kind()))
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SIGNS:
        changes.append(lambda node: setattr(node, "op", SIGNS[type(node.op)]()))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        changes.append(lambda node: setattr(node, "op", ast.UAdd()))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        changes.append(negate_twice)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        for value in (node.value + 1, node.value - 1):       # its sign: see UnaryOp, or it would be changed twice
            if value != node.value:
                changes.append(lambda node, value=value: setattr(node, "value", value))
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        changes.append(lambda node: setattr(node, "value", not node.value))
    if isinstance(node, ast.Name) and node.id in NAMES:
        changes.append(lambda node: setattr(node, "id", NAMES[node.id]))
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        changes.append(lambda node: setattr(node, "attr", NAMES[node.attr]))
    for field in ("body", "orelse"):
        statements = getattr(node, field, None)
        if isinstance(statements, list):
            for j, statement in enumerate(statements):
                if not is_docstring(statement) and not isinstance(statement, ast.Pass):
                    changes.append(lambda node, field=field, j=j: getattr(node, field).__setitem__(j, ast.Pass()))
    return changes


def negate_twice(node):
    node.operand = ast.UnaryOp(ast.Not(), node.operand)


def is_docstring(statement) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


# ------------------------------------------------------------------------------------------------------------
# Measuring

def measure(exercise) -> dict:
    """mutants, killed, survivors (what was changed), equivalent. Each mutant is run by this file in another process."""
    kept = read_record().get(exercise.__name__, {}).get("equivalent", {})
    mutants = []
    for target in exercise.TARGETS:
        script, name = target.split(".")
        plain = ast.unparse(sources.find(ast.parse(reference.read_text(f"{script}.py")), name))
        for text in make_mutants(reference.read_text(f"{script}.py"), name):
            changed = ast.unparse(sources.find(ast.parse(text), name))
            if changed != plain:
                mutants.append((script, describe_change(target, plain, changed), text))
    survivors = []
    for i, survived in enumerate(run_all(exercise, mutants)):
        if survived:
            survivors.append(mutants[i][1])
    equivalent = {text: why for text, why in kept.items() if text in survivors}
    return {"mutants": len(mutants), "killed": len(mutants) - len(survivors), "equivalent": equivalent,
            "survivors": [text for text in survivors if text not in equivalent]}


def describe_change(target: str, before: str, after: str) -> str:
    pairs = zip(before.splitlines(), after.splitlines())
    for old, new in pairs:
        if old != new:
            return f"{target}: {old.strip()}  ->  {new.strip()}"
    return f"{target}: a line less"


def run_all(exercise, mutants: list) -> list[bool]:
    """Whether each survives. One that never ends is killed with its process, and the next one begins another."""
    survived = []
    while len(survived) < len(mutants):
        job = {"exercise": exercise.__name__, "mutants": [(script, text) for script, _, text in mutants[len(survived):]]}
        process = subprocess.Popen([sys.executable, "-m", "tests.course.mutating", "--child"], cwd=reference.ROOT,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        survived += [line == "True\n" for line in process.stdout if line in ("True\n", "False\n")]
        process.wait()
        if len(survived) < len(mutants):             # the one at which the process ended
            survived.append(False)
    return survived


def count_points(exercise, cases: list, answers: list[dict]) -> int:
    """As judging.judge, which also asks which known mistake it is, and that takes time."""
    points = dict(exercise.PARTS)
    for case, answer in zip(cases, answers):
        if judging.find_fault(exercise, case, answer):
            points[case.part] = 0
    return sum(points.values())


def run_here() -> None:
    import faulthandler
    import importlib

    job = json.load(sys.stdin)
    exercise = importlib.import_module(job["exercise"])
    cases = judging.make_cases(exercise, SEEDS)
    full = sum(exercise.PARTS.values())
    pipe = os.fdopen(os.dup(1), "w")
    for script, text in job["mutants"]:
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        scripts = {target.split(".")[0]: "" for target in exercise.TARGETS}
        scripts = {name: reference.read_text(f"{name}.py") for name in scripts}
        answers = list(child.answer_cases(exercise, {**scripts, script: text}, cases))
        survives = count_points(exercise, cases, answers) == full
        faulthandler.cancel_dump_traceback_later()
        pipe.write(f"{survives}\n")
        pipe.flush()
    os._exit(0)


# ------------------------------------------------------------------------------------------------------------
# The record

def read_record() -> dict:
    if not RECORD.exists():
        return {}
    return json.loads(RECORD.read_text(encoding="utf-8"))


def compute_state(exercise) -> str:
    """Changes with the exercise's file and its targets."""
    texts = {"exercise": reference.read_text(exercise.__name__.replace(".", "/") + ".py")}
    for target in exercise.TARGETS:
        texts[target] = reference.read_source(target)
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(f"{name}\n{texts[name]}\n".encode())
    return digest.hexdigest()[:10]


def main() -> None:
    wanted = [int(number) for number in sys.argv[1:]]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=reference.ROOT, capture_output=True,
                            text=True).stdout.strip()
    for number, exercise in reference.load_exercises().items():
        record = read_record()
        state = compute_state(exercise)
        if number in (wanted or [number]) and record.get(exercise.__name__, {}).get("state") != state:
            record[exercise.__name__] = {"commit": commit, "state": state, **measure(exercise)}
            atomic_write(RECORD, json.dumps(record, indent=1) + "\n")
        found = record.get(exercise.__name__, {})
        print(number, {name: found.get(name) for name in ("mutants", "killed", "survivors", "equivalent")}, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        run_here()
    else:
        main()
