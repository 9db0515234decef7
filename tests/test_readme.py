"""README.md and the pages beside the code: what they say is what the code does.

Their loop, their numbers, their map, their examples and their commands are read out of the pages and tried.
"""
import ast
import importlib.util
import inspect
import pathlib
import re
import shlex
import sys
import textwrap

import pytest
import torch

import eval as evaluation
import rema
import rewards
import rollout
import train
from data.extensions import memory
from data.problems.reading import read_jsonl
from data.views.program import Parser
from rema import Turn

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("data/**/*.md")), ROOT / "tests/README.md"]
SECTIONS = ["Two commands", "One episode", "The idea", "The loop", "GRPO with numbers", "The reading path", "One result",
            "A real model on a GPU", "Your own data, reward, role", "Exercises", "Limits", "Links"]
GONE = {"tests/bench_decode.py"}         # pages name it as a program of an older commit
STEPS = {"choose_learners", "rollout", "sample_turns", "generate", "decode", "draw", "score", "reward_plan", "reward_answer",
         "compute_reward", "equivalent", "assign_advantages", "compute_advantages", "drop_dead_groups", "update",
         "assign_weights", "make_micro_batches", "run_turns", "compute_logprobs", "policy_loss", "Optimizer.step"}
QUICK = ["--steps", "2", "--questions", "2", "--group", "2", "--switch-every", "1", "--eval-questions", "4"]


def read(page):
    return page.read_text(encoding="utf-8")


def get_section(title):
    """README's text under a heading."""
    return read(README).split(f"\n## {title}\n")[1].split("\n## ")[0]


def find_blocks(text, language):
    """What stands between fences that open with ```language."""
    blocks, opened = [], None            # the language of the block that a line is in
    for line in text.splitlines(keepends=True):
        if line.startswith("```") and opened is None:
            opened = line[3:].strip()
            blocks.append((opened, []))
        elif line.startswith("```"):
            opened = None
        elif opened is not None:
            blocks[-1][1].append(line)
    return ["".join(lines) for named, lines in blocks if named == language]


def read_tables(text):
    """Markdown tables -> for each a list of rows, cells without their spaces; the head is row 0."""
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE):
        rows = []
        for line in block.splitlines():
            if not line.startswith("|---"):
                rows.append([cell.strip() for cell in line.strip("|").split("|")])
        tables.append(rows)
    return tables


# ------------------------------------------------------------------------------------------------------------
# Its shape

def test_it_is_read_in_minutes():
    assert len(read(README).split()) <= 3000


def test_sections_come_in_the_order_of_a_lesson():
    assert re.findall(r"^## (.*)$", read(README), re.MULTILINE) == SECTIONS


def list_anchors(page):
    """What #links to a page may name, as GitHub makes it from headings."""
    headings = re.findall(r"^#+ (.*)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]*)\)", re.sub(r"\s+", " ", read(page)).replace("] (", "](")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in list_anchors(file), target


def test_no_page_is_lost():
    """From README every page can be reached."""
    reached, new = set(), [README]
    while new:
        page = new.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)\s#]+\.md)", read(page)):
            new.append((page.parent / target).resolve())
    assert set(ROOT.glob("data/*/README.md")) | {ROOT / "data/README.md", ROOT / "tests/README.md"} <= reached
    assert {ROOT / "data/results/speed.md", ROOT / "data/results/grader.md"} <= reached


def test_the_opening_page_names_every_room():
    named = {re.search(r"`(\w+)/`", room)[1] for room, _ in read_tables(read(ROOT / "data/README.md"))[0][1:]}
    rooms = {path.name for path in (ROOT / "data").iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert named == rooms


def test_old_names_are_gone():
    """What no script and no page may still tell a reader to use, but for the page that says what replaced it."""
    for page in PAGES:
        if page.name == "speed.md" or page.parent.name == "extensions":
            continue
        for name in ("--answers-high", "--box-weight", "--leak-weight", "--compile", "data.make_tiny", "data/flags.py"):
            assert name not in read(page), (page, name)


# ------------------------------------------------------------------------------------------------------------
# The loop, the numbers, the episode

def test_the_loop_is_that_of_train():
    """Every line of it stands in train(), in this order."""
    [block] = find_blocks(get_section("The loop"), "python")
    lines = [line.strip() for line in block.splitlines()]
    assert 14 <= len(lines) <= 18
    source = iter([line.partition("  #")[0].strip() for line in inspect.getsource(train.train).splitlines()])
    for line in lines:
        assert line in source, line                  # goes on where the line before was found
    ast.parse(textwrap.dedent(block))


def test_the_advantages_worked_out_by_hand():
    """The four plans of README: their answers are graded, their rewards and advantages are the code's."""
    rows = read_tables(get_section("GRPO with numbers"))[0][1:]
    assert len(rows) == 4
    given, deviations, advantages, turns = [], [], [], []
    for number, (plan, answer, reward, deviation, advantage) in enumerate(rows):
        correct = rewards.is_correct(answer.strip("`"), "29")
        assert rewards.plan_reward(plan.strip("`"), [correct]) == float(reward)
        given.append(float(reward))
        deviations.append(float(deviation))
        advantages.append(float(advantage))
        turns.append(Turn([1], [2], [-1.0], True, place=(0, number), reward=float(reward)))
    assert deviations == rema.compute_advantages(given, ["x"] * 4, "dr_grpo")
    assert rema.compute_advantages(given, ["x"] * 4) == pytest.approx(advantages, abs=1e-5)
    rema.assign_advantages(turns)
    assert [turn.advantage for turn in turns] == pytest.approx(advantages, abs=1e-5)
    # If all had earned the same, the group would be left out
    for turn in turns:
        turn.reward = 1.0
    rema.assign_advantages(turns)
    assert rema.drop_dead_groups(turns) == []


def test_the_gains_worked_out_by_hand():
    rows = read_tables(get_section("GRPO with numbers"))[1][1:]
    assert len(rows) == 4
    for row in rows:
        ratio, advantage, plain, clipped, gain = [float(cell) for cell in row]
        assert plain == pytest.approx(ratio * advantage)
        assert clipped == pytest.approx(min(max(ratio, 0.8), 1.2) * advantage)
        new = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
        old, one = torch.zeros_like(new).detach(), torch.ones_like(new).detach()
        loss, _ = rema.policy_loss(new, old, advantage * one, one)
        assert loss.item() == pytest.approx(-gain)
        loss.backward()
        assert (new.grad.item() == 0) == (gain == clipped != plain)            # beyond the clip: no gradient


def test_the_episode_is_what_the_embedded_model_says(capsys):
    """Of the untrained model, word for word; the log-probs are another matter, machines round differently."""
    block = next(block for block in find_blocks(get_section("One episode"), "") if "--model" not in block)
    command, *expected = block.splitlines()
    rollout.main(shlex.split(command)[3:])
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if not line.startswith("---")] == \
        [line for line in expected if not line.startswith("---")]
    heads = [line.partition(",")[0] for line in said if line.startswith("---")]
    assert heads == [line.partition(",")[0] for line in expected if line.startswith("---")]


def find_advice(lines, size):
    """What --fit says of a card."""
    line = next(line for line in lines if line.strip().startswith(f"{size}: "))
    return line.partition(": ")[2].partition(" (")[0]


def test_the_end_of_help_is_that_of_fit():
    """Fewer models than in the README, but the same words."""
    found = 0
    for line in memory.CARDS.splitlines():
        size, _, models = line.strip().partition("  ")
        if size not in ("T4", "16 GB", "24 GB", "48 GB", "80 GB"):
            continue
        for entry in models.strip().split("; "):
            name, _, flags = entry.partition(" ")
            lines = memory.table(name, train.parse(["--model", name, "--fit"])).splitlines()
            assert find_advice(lines, size) == (f"does not fit as it is; fits with {flags}" if flags else "fits"), (size, name)
            found += 1
    assert found >= 12


def test_the_table_of_cards_is_that_of_fit():
    head, *rows = next(table for table in read_tables(get_section("A real model on a GPU")))
    sizes = head[1:]
    assert sizes == ["T4", "16 GB", "24 GB", "48 GB", "80 GB"] and len(rows) >= 5
    for name, *cells in rows:
        args = train.parse(["--model", name, "--fit"])
        lines = memory.table(name, args).splitlines()
        for size, cell in zip(sizes, cells):
            advice = find_advice(lines, size)
            expected = {"fits": "fits", "no": memory.TOO_LARGE}
            assert advice == expected.get(cell, "does not fit as it is; fits with " + cell.strip("`")), (name, size)


# ------------------------------------------------------------------------------------------------------------
# The map

def read_map():
    """[(function, file)] of README's reading path."""
    head, *rows = read_tables(get_section("The reading path"))[0]
    assert head == ["what happens", "function", "file", "paper"]
    return [(row[1].strip("`"), row[2].strip("`")) for row in rows]


def find_functions(file):
    """{name, of a method Class.name: line at which its code begins, decorators included}."""
    found = {}
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for node in tree.body:
        members = [("", node)]
        if isinstance(node, ast.ClassDef):
            members = [(f"{node.name}.", member) for member in node.body]
        for prefix, member in members:
            if isinstance(member, ast.FunctionDef):
                lines = [member.lineno, *(decorator.lineno for decorator in member.decorator_list)]
                found[prefix + member.name] = min(lines)
    return found


def test_the_map_names_functions_that_exist():
    entries = read_map()
    assert STEPS <= {name for name, _ in entries} and len(set(entries)) == len(entries)
    for name, file in entries:
        assert name in find_functions(file), (name, file)


def test_the_map_is_in_the_order_in_which_things_happen(tmp_path, monkeypatch):
    """One step of train.py: each function of the map is called, and first calls come in the map's order."""
    expected = [name for name, _ in read_map()]
    places = {}
    for name, file in read_map():
        places[str(ROOT / file), find_functions(file)[name]] = name
    called = []
    before = sys.gettrace()
    first = rema.choose_learners

    def watch(frame, event, argument):
        """Sees calls alone, since it returns nothing."""
        code = frame.f_code
        name = places.get((code.co_filename, code.co_firstlineno))
        if name and name not in called:
            called.append(name)
            if len(called) == len(expected):
                sys.settrace(before)

    def begin(*arguments):
        sys.settrace(watch)
        return first(*arguments)

    monkeypatch.setattr(rema, "choose_learners", begin)
    try:
        train.main(["--steps", "1", "--questions", "4", "--eval-questions", "2", "--out", str(tmp_path / "run")])
    finally:
        sys.settrace(before)
    assert called == expected


def test_the_map_names_what_the_docstrings_cite():
    """Where the map names an equation, an algorithm or an appendix, so does the core of the method."""
    core = ""
    for name in ("rema.py", "rewards.py"):
        core += (ROOT / name).read_text(encoding="utf-8").split("\n# --- extensions")[0]
    for row in read_tables(get_section("The reading path"))[0][1:]:
        number = row[3].removeprefix("eq. ")
        assert row[3] in core or re.search(rf"equations .*\b{number}\b", core), row


# ------------------------------------------------------------------------------------------------------------
# The examples

EXAMPLES = [(README, i) for i in range(3)] + [(ROOT / "data/extensions/README.md", 0)]


def get_example(page, i):
    text = read(page)
    if page == README:
        text = get_section("Your own data, reward, role")
    return find_blocks(text, "python")[i]


@pytest.mark.parametrize("page, i", EXAMPLES, ids=lambda value: getattr(value, "name", None))
def test_an_example_trains(page, i, tmp_path, monkeypatch):
    """As a file mine.py, run with few steps."""
    monkeypatch.setattr(sys, "argv", ["mine.py", *QUICK, "--out", str(tmp_path / "run")])
    exec(compile(get_example(page, i), "mine.py", "exec"), {"__name__": "__main__"})
    names = {"high", "low"}
    if "name=\"check\"" in get_example(page, i):
        names.add("check")
    lines = read_jsonl(tmp_path / "run/metrics.jsonl", required=())
    assert len(lines) == 3 and {f"reward_{name}" for name in names} <= lines[-1].keys()
    assert all((tmp_path / "run" / name / "model.safetensors").exists() for name in names)


def test_all_examples_are_tried():
    assert len(find_blocks(get_section("Your own data, reward, role"), "python")) == 3
    assert len(find_blocks(read(ROOT / "data/extensions/README.md"), "python")) == 1


def run_example(page, i):
    """An example's names, without the run at its end."""
    names = {}
    code = get_example(page, i)
    exec(compile(code[:code.index("train.main(")], "mine.py", "exec"), names)
    return names


def test_the_reward_of_the_first_example():
    reward = run_example(README, 0)["reward_short_answer"]
    for tokens, expected in ((50, 0.9), (100, 0.8), (400, 0.8)):
        turn = Turn([1], [2] * tokens, [0.0] * tokens, True, "low", r"\boxed{29}", (0, 0, 0))
        episode = rema.Episode({"answer": "29"}, (0, 0, 0), [turn])
        assert reward(turn, [episode]) == pytest.approx(expected)


def test_what_a_checker_is_shown_and_what_a_solver_earns():
    names = run_example(README, 1)
    checker = names["checker"]
    messages = checker.prompt({"problem": "1+1"}, {"high": "add", "low": "1+1=2"})
    assert messages[-1]["content"] == "Problem:\n1+1\n\nPlan:\n1+1=2"
    episodes = [rema.Episode({}, (0, 0, 0, i), [], correct=i == 0) for i in range(4)]
    assert names["solver"].reward(None, episodes) == 0.25


def test_your_own_data(tmp_path, monkeypatch, capsys):
    """The two lines of mine.jsonl, and both commands, a single step."""
    section = get_section("Your own data, reward, role")
    [lines] = find_blocks(section, "json")
    monkeypatch.chdir(tmp_path)
    pathlib.Path("mine.jsonl").write_text(lines, encoding="utf-8")
    assert [row["answer"] for row in read_jsonl("mine.jsonl")] == ["24", "3"]
    commands = [words for words in find_commands(section) if "mine.jsonl" in words]
    assert [words[1] for words in commands] == ["eval.py", "train.py"]
    evaluation.main(commands[0][2:])
    assert "mine.jsonl, 2 problems" in capsys.readouterr().out
    train.main([*commands[1][2:], "--steps", "1"])
    assert "2 held-out problems of mine.jsonl" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------
# The commands

def find_commands(text):
    """All commands of a page as lists of words: lines of blocks without a language, and `python ...` in the text."""
    found, variables = [], {}
    for block in find_blocks(text, ""):
        for line in block.splitlines():
            assignment = re.match(r'(\w+)="(.*)"', line)
            if assignment:
                variables[assignment[1]] = assignment[2]
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            line = line.removeprefix("$ ")
            for part in line.split("&&"):
                if part.strip().startswith(("python ", "torchrun ")):
                    found.append(shlex.split(part, comments=True))
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for command in re.findall(r"`((?:python|torchrun) [^`]*)`", prose):
        found.append(shlex.split(command.replace("\n", " ")))
    return found


def test_finding_commands():
    text = ('So `python eval.py\n--limit 2`, but not `mine.py`.\n```\nx="--lora 4"\npip install a && python train.py $x  # why\n'
            "$ python -m pytest\nstep 1\n```\n```python\npython = 1\n```\n")
    assert find_commands(text) == [["python", "train.py", "--lora", "4"], ["python", "-m", "pytest"],
                                   ["python", "eval.py", "--limit", "2"]]


def make_train_parser():
    parser = Parser("")
    for add in [train.add_flags, *train.FLAGS]:
        add(parser)
    return parser


def make_eval_parser():
    """Its own flags stand within eval.parse, which tries them all the same."""
    parser = Parser("")
    rollout.add_speaking_flags(parser)
    for flag in ("--data", "--data-dir", "--limit", "--batch", "--out"):
        parser.add_argument(flag)
    for add in evaluation.FLAGS:
        add(parser)
    return parser


def make_rollout_parser():
    parser = Parser("")
    rollout.add_flags(parser)
    return parser


PARSERS = {"train.py": make_train_parser, "eval.py": make_eval_parser, "rollout.py": make_rollout_parser}


def parse_command(words):
    """UserError: a program would refuse it. Nothing is run or loaded."""
    script, arguments = words[0], words[1:]
    if script in PARSERS:
        known = PARSERS[script]()._option_string_actions
        for word in arguments:
            assert not word.startswith("--") or word in known, words           # argparse would take half a flag
    if script == "train.py":
        if "--resume" not in arguments:                      # that needs the run
            train.parse(arguments)
    elif script == "eval.py":
        args = evaluation.parse(arguments)
        evaluation.complete_speaking(args)
        for check in evaluation.CHECKS:
            check(args)
    elif script == "rollout.py":
        rollout.parse(arguments)
    elif script == "-m":
        assert importlib.util.find_spec(arguments[0]), arguments[0]
    else:
        assert (ROOT / script).exists() or script in GONE or script == "mine.py", script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_understood(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)          # nothing is there, so no run's directory either
    for words in find_commands(read(page)):
        if words[0] == "torchrun":
            words = words[words.index("train.py") - 1:]
        parse_command(words[1:])


def test_there_are_commands_to_understand():
    assert len(find_commands(read(README))) >= 9
    assert len(find_commands(read(ROOT / "data/extensions/README.md"))) >= 20
    assert len(find_commands(read(ROOT / "data/results/README.md"))) >= 10


def test_flags_named_in_the_text_exist():
    """Also those that stand alone, such as `--lora 16`."""
    known = set()
    for make_parser in PARSERS.values():
        known |= set(make_parser()._option_string_actions)
    for page in PAGES:
        text = read(page)
        if page.parent.name == "extensions":
            text = text.split("## Flags that are gone")[0]
        if page.name in ("speed.md", "grader.md", "benchmarks-smollm2.md", "budget.md"):
            continue                                         # of programs with flags of their own
        for flag in re.findall(r"`(--[a-z][a-z-]*)[^`]*`", text):
            assert flag in known or flag in ("--size", "--publish"), (page, flag)
