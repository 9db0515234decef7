"""How the code reads: its density, the size of its core, what the core can do alone, and the map in the README.

These hold what the redesign reached, so that no later change gives it up unseen.
"""
import ast
import io
import json
import pathlib
import re
import shutil
import sys
import tokenize

import pytest

import apart
import eval as evaluation
import rollout
import train

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIX = ("rema.py", "rewards.py", "model.py", "rollout.py", "train.py", "eval.py")
DIVIDER = "\n# --- extensions"
GUARD = '\nif __name__ == "__main__":'
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


# ------------------------------------------------------------------------------------------------------------
# Counting by statement: a formatter changes nothing

def measure(text):
    """{"tokens", "statements", "large", "comprehensions", "choices", "lambdas"} of a source text.

    Tokens are names, numbers, strings and operators, without docstrings; a compound statement counts by its
    header; large: over 30 tokens; choices: conditional values, and `a or b` used as one.
    """
    tree = ast.parse(text)
    documented, starts = set(), []
    for node in ast.walk(tree):
        is_docstring = (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                        and isinstance(node.value.value, str))
        if is_docstring:
            documented.update(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, ast.stmt):
            starts.append((node.lineno, node.col_offset))
    starts.sort()
    sizes = [0] * len(starts)
    at = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in LAYOUT or token.start[0] in documented:
            continue
        while at + 1 < len(starts) and starts[at + 1] <= token.start:
            at += 1
        sizes[at] += 1
    return {"tokens": sum(sizes), "statements": len(sizes), "large": sum(size > 30 for size in sizes),
            "comprehensions": count_comprehensions(tree), "choices": count_choices(tree),
            "lambdas": sum(isinstance(node, ast.Lambda) for node in ast.walk(tree))}


def count_comprehensions(tree):
    """map, filter and partial are no way out."""
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            found += 1
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            found += name in ("map", "filter", "partial")
    return found


def count_choices(tree):
    conditions, inner = set(), set()
    for node in ast.walk(tree):
        if hasattr(node, "test"):
            conditions.add(id(node.test))
        if isinstance(node, ast.comprehension):
            conditions.update(id(condition) for condition in node.ifs)
        if isinstance(node, ast.BoolOp):
            inner.update(id(value) for value in node.values)
        if isinstance(node, ast.UnaryOp):
            inner.add(id(node.operand))
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            found += 1
        elif isinstance(node, ast.BoolOp) and id(node) not in conditions | inner:
            found += not all(isinstance(value, (ast.Compare, ast.UnaryOp, ast.BoolOp)) for value in node.values)
    return found


def core(name):
    """What stands above the divider."""
    return (ROOT / name).read_text(encoding="utf-8").split(DIVIDER)[0] + "\n"


def test_counting_by_hand():
    found = measure('"""Doc."""\nx = [a for a in b]\nif x:\n    y = 1 if a else (lambda: 2)\nz = a or b\n')
    assert found["statements"] == 4 and found["comprehensions"] == 1 and found["lambdas"] == 1
    assert found["choices"] == 2                     # the conditional value, and `a or b`
    assert found["tokens"] == 9 + 3 + 11 + 5 and found["large"] == 0


@pytest.mark.parametrize("name", SIX)
def test_a_script_reads_like_a_lesson(name):
    found = measure((ROOT / name).read_text(encoding="utf-8"))
    n = found["statements"]
    assert found["tokens"] / n <= 12.5
    assert 100 * found["large"] / n <= 5
    assert 100 * found["comprehensions"] / n <= 6
    assert 100 * found["choices"] / n <= 3.5


def test_few_lambdas():
    assert sum(measure((ROOT / name).read_text(encoding="utf-8"))["lambdas"] for name in SIX) <= 8


def test_the_core_is_small():
    """12,000 tokens, flags included. Later came the check of rewards (rema.check_reward, 75), the seldom look at who is
    done (rollout.decode, 20) and --graphs (14)."""
    assert sum(measure(core(name))["tokens"] for name in SIX) <= 12_000 + 75 + 20 + 14


def test_data_reads_in_the_same_style():
    tokens, statements = 0, 0
    for path in sorted((ROOT / "data").rglob("*.py")):
        if path.relative_to(ROOT / "data").parts[0] not in ("results", "course", "examples"):
            found = measure(path.read_text(encoding="utf-8"))
            tokens += found["tokens"]
            statements += found["statements"]
    assert tokens / statements <= 13


def test_nobody_imports_upward():
    """train, eval -> rollout -> model, rema -> rewards -> data; programs under data/ stand on top."""
    allowed = {"rema": {"rewards"}, "rewards": set(), "model": set(), "rollout": {"rema", "model"},
               "eval": {"rollout", "rema", "rewards"}, "train": {"eval", "rollout", "rema", "model"}}
    scripts = set(allowed)
    for name, below in allowed.items():
        text = (ROOT / f"{name}.py").read_text(encoding="utf-8")
        assert set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)) & scripts <= below, name
    for room in ("formats", "answers", "problems", "views", "extensions"):
        for path in (ROOT / "data" / room).glob("*.py"):
            imported = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert not set(imported) & scripts, path


# ------------------------------------------------------------------------------------------------------------
# The core alone

def cut(text):
    """A script without what stands below the divider, its last lines excepted."""
    if DIVIDER not in text:
        return text
    above = text.split(DIVIDER)[0] + "\n"
    if GUARD in text:
        above += GUARD + text.split(GUARD)[1]
    return above


def read_metrics(path):
    """The lines of a log without what the clock says."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        metrics = json.loads(line)
        lines.append({name: value for name, value in metrics.items() if not name.startswith("time_")})
    return lines


def test_the_core_trains_and_evaluates_alone(tmp_path, capsys):
    """Cut everything below the divider out of all six scripts: the rest is a program, with the same results."""
    for name in SIX:
        (tmp_path / name).write_text(cut((ROOT / name).read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copytree(ROOT / "data", tmp_path / "data",
                    ignore=shutil.ignore_patterns("results", "course", "examples"))
    small = ["--steps", "2", "--questions", "4", "--eval-questions", "6", "--switch-every", "1", "--max-new-tokens", "24"]
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import eval, train
train.main({[*small, "--out", str(tmp_path / "cut")]!r})
print("TABLE")
eval.main(["--limit", "6", "--out", {str(tmp_path / "cut-eval")!r}])
train.main(["--lora", "2"])                  # an extension's flag: unknown, status 2
"""
    process = apart.start(apart.execute, program, told=tmp_path / "told")
    train.main([*small, "--out", str(tmp_path / "whole")])
    capsys.readouterr()
    evaluation.main(["--limit", "6", "--out", str(tmp_path / "whole-eval")])
    process.join()
    told = (tmp_path / "told").read_text(encoding="utf-8")
    assert process.exitcode == 2 and "TABLE" in told, told
    assert "--lora" in told.strip().splitlines()[-1]
    assert read_metrics(tmp_path / "cut/metrics.jsonl") == read_metrics(tmp_path / "whole/metrics.jsonl")
    tables = []
    for text in (told.split("TABLE")[1], capsys.readouterr().out):
        tables.append([line for line in text.splitlines() if "+-" in line])
    assert tables[0] == tables[1] and len(tables[0]) > 8


def test_few_files_on_the_path(tmp_path):
    """From the first call of rollout to the first optimizer step a reader needs at most eight files."""
    files = set()
    watching = False

    def watch(frame, event, argument):
        nonlocal watching
        code = frame.f_code
        if event == "call" and code is rollout.rollout.__code__ and frame.f_back.f_back.f_code is train.train.__code__:
            watching = True
        if event == "call" and watching:
            files.add(code.co_filename)
        if event == "return" and code is train.Optimizer.step.__code__ and watching:
            sys.setprofile(None)
            watching = False

    sys.setprofile(watch)
    try:
        train.main(["--steps", "1", "--questions", "4", "--eval-questions", "2", "--out", str(tmp_path / "run")])
    finally:
        sys.setprofile(None)
    ours = set()
    for name in files:
        if name.startswith(str(ROOT)) and name.endswith(".py") and not name.startswith(str(ROOT / "tests")):
            ours.add(str(pathlib.Path(name).relative_to(ROOT)))
    assert "rema.py" in ours and "train.py" in ours
    assert len(ours) <= 8, sorted(ours)
