"""Programs that made the published figures: their flags are those of train.py, what they make and print stays."""
import hashlib
import json
import random
import sys

import pytest

import train
from data import UserError
from data.problems.generate import generate
from data.results import ablations, collect, habits


def test_every_ablation_is_a_command_line_of_train():
    asked = {}
    for question, arms in ablations.ABLATIONS.items():
        for arm, flags in arms.items():
            asked[question, arm] = train.parse([*ablations.COMMON.split(), *flags.split(), "--seed", "0"])
    assert len(asked) == 17 and ablations.BUILT.keys() < ablations.ABLATIONS.keys()
    assert asked["weights", "simultaneous"].group == asked["weights", "shared"].group == [4, 2]
    assert asked["weights", "shared"].switch_every == asked["ratio", "turn, clip 0.2"].switch_every == 0
    assert asked["reward", "consistency"].followers == asked["reversal", "base"].followers == 4
    assert asked["ratio", "turn, clip 3e-4"].clip == 3e-4 and asked["ratio", "turn, clip 3e-4"].ratio == "turn"


def test_the_habits_stay_as_they_are():
    """The published runs of `reversal` were warm-started on them."""
    rng, said = random.Random(0), []
    for row in generate(400, seed="habits"):
        said += habits.write_conversations(rng, row)
    assert hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16] == "54ac345640458afb"


def make_run(directory, seed, accuracy, lr=0.1):
    directory.mkdir(parents=True)
    command = f"{sys.executable} train.py --seed {seed}"
    (directory / "config.json").write_text(json.dumps({"seed": seed, "lr": lr, "out": str(directory), "command": command}))
    (directory / "curves.png").write_bytes(b"")
    lines = [{"step": 0, "heldout_greedy": 10.0, "heldout_t1": 20.0},
             {"step": 1, "learner": "high", "sampled_tokens": 100, "time_sample": 60.0, "time_train": 30.0,
              "heldout_greedy": accuracy, "heldout_t1": 30.0}]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(directory)


def test_collect_keeps_runs_and_averages_those_that_differ_in_their_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collect, "HERE", tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    names = [make_run(tmp_path / f"run-s{seed}", seed, 40.0 + 20 * seed) for seed in (0, 1)]
    collect.main(names)
    lines = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["run-s0", "10.0", "40.0", "30.0", "20.0", "30.0", "10.0", "10.0", "-", "-", "1.5", "100.0"]
    assert lines[-1].startswith("| mean | 10.0 ± 0.0 | 50.0 ± 10.0 | 40.0 ± 10.0 |")
    assert sorted(path.name for path in (tmp_path / "kept" / "run-s1").iterdir()) == sorted(collect.FILES)
    kept = json.loads((tmp_path / "kept/run-s1/config.json").read_text())
    assert kept["command"] == "python train.py --seed 1"     # nothing published says where things are on a machine
    collect.main([names[0], make_run(tmp_path / "other", 0, 50.0, lr=0.2)])
    assert capsys.readouterr().out.endswith("no mean: the runs differ in more than their seeds\n")
    with pytest.raises(UserError, match="holds another run of that name"):
        collect.main([make_run(tmp_path / "again" / "run-s0", 0, 99.0)])
    with pytest.raises(UserError, match="no finished run"):
        collect.main([str(tmp_path)])
