"""The directory of a run: its settings, its agents, and the state that --resume goes on from."""
import argparse
import itertools
import json
import os
import pathlib
import sys

import torch

from data import UserError
from data.formats.files import append_json, atomic_write, forget_after, hold_lock, naming, read_json
from data.formats.safetensors import read_tensors, write_tensors

STATE = "state.safetensors"
LOCK = ".lock"              # in the directory of a run, held by the process that writes there


def save_state(directory: pathlib.Path, agents: list, note: dict) -> None:
    """All that --resume needs, bit for bit: draws follow from (seed, step, question), so generators have no state.

    agents: each with a name and a train.Optimizer. note: what else is to be kept, as JSON.
    """
    tensors, updates, kept = {}, {}, set()
    for agent in agents:
        optimizer = agent.optimizer
        updates[agent.name] = optimizer.updates
        for i, master in enumerate(optimizer.masters):
            tensors[f"{agent.name}.weight.{i}"] = master.detach()
        for i, moments in optimizer.adamw.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"{agent.name}.{name}.{i}"] = value
                kept.add(name)
    text = json.dumps({**note, "updates": updates, "moments": sorted(kept)}).encode()
    tensors["note"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    write_tensors(tensors, directory / STATE)


def load_state(directory: pathlib.Path, agents: list) -> dict:
    """Put weights and moments back into the agents -> the note; of a run without a state that of its beginning."""
    if not (directory / STATE).exists():
        return {"step": 0, "failures": 0, "unmeasured": True}
    tensors = read_tensors(directory / STATE)
    note = json.loads(bytes(tensors["note"].tolist()))
    for agent in agents:
        optimizer, name = agent.optimizer, agent.name
        optimizer.updates = note["updates"][name]
        moments = {}
        for i in range(len(optimizer.masters)):
            for key in note["moments"]:              # of AdamW: step, exp_avg, exp_avg_sq
                if f"{name}.{key}.{i}" in tensors:
                    moments.setdefault(i, {})[key] = tensors[f"{name}.{key}.{i}"].clone()
        optimizer.adamw.load_state_dict({**optimizer.adamw.state_dict(), "state": moments})
        with torch.no_grad():
            for i, (weight, master) in enumerate(zip(optimizer.weights, optimizer.masters)):
                master.copy_(tensors[f"{name}.weight.{i}"])
                weight.copy_(master)
    return {"unmeasured": False, **note}             # runs of older versions do not say


def find_settings(model: str) -> dict:
    """The settings of the run that a directory is, or belongs to (RUN/best); {} if it is none."""
    directory = pathlib.Path(model)
    for place in (directory, directory.parent):
        if (place / "metrics.jsonl").exists():
            return read_json(place / "config.json")
    return {}


def find_agents(model: str, names: list[str]) -> list[str]:
    """What to load for each agent: the same model, or the agents in the directory of a run."""
    directory = pathlib.Path(model)
    held = []
    for name in dict.fromkeys(["high", "low", "solo", *names]):
        if (directory / name / "tokenizer.json").exists():
            held.append(name)
    if not held and (directory / "metrics.jsonl").exists():
        if (directory / "best").exists():
            raise UserError(f"{directory} has no agents, since it did not end: --model {directory / 'best'}, or --resume "
                            "it")
        raise UserError(f"{directory} has no agents: it was ended before it saved any (--resume goes on), or is a "
                        "published run")
    if not held:
        return [model] * len(names)
    if not set(names) <= set(held):
        raise UserError(f"{directory} holds {', '.join(held)}: choose the --process it was trained with")
    return [str(directory / name) for name in names]


def holds_adapters(model: str) -> bool:
    """Whether a directory is an adapter, or that of a run whose agents are."""
    directory = pathlib.Path(model)
    return any(directory.glob("adapter_config.json")) or any(directory.glob("*/adapter_config.json"))


def complete_from_run(args: argparse.Namespace, usual: dict) -> dict:
    """Fill in what no flag said, from the run that --model names if it is one -> that run's settings, or {}.

    usual: what the settings are without a flag and without a run. Roles are those of the run unless a flag asks for
    others; one that was typed counts, also if it says what is usual. UserError: the run's are its program's own, which
    no flag can change.
    """
    trained = find_settings(args.model)
    args.base = trained.get("model", args.model)             # what the run started from
    args.roles, args.own_roles = trained.get("roles"), trained.get("own_roles", False)
    for name, value in usual.items():
        if name not in args.typed:
            setattr(args, name, trained.get(name, value))
        elif args.roles and name != "max_new_tokens" and getattr(args, name) != trained.get(name):
            if args.own_roles:
                names = ", ".join(role["name"] for role in args.roles)
                raise UserError(f"--{name.replace('_', '-')}: {args.model} was trained with roles of its own ({names}), "
                                "which this flag does not change")
            args.roles = None
    if args.max_new_tokens is None:
        args.max_new_tokens = 512
        if args.base == "tiny":
            args.max_new_tokens = 64
    return trained


def continue_run(args: argparse.Namespace) -> argparse.Namespace:
    """The settings of the run that --resume names; beside it only --steps may be said, and what the run has anyway.

    UserError: the run can't go on.
    """
    run = pathlib.Path(args.resume)
    saved = read_json(run / "config.json")
    for name in sorted(args.typed - {"resume", "steps"}):
        if getattr(args, name) != saved.get(name):
            flag = name.replace("_", "-")
            raise UserError(f"--resume takes its settings from the run: beside it only --steps, not --{flag}")
    if not {"steps", "switch_every", "seed"} <= saved.keys():
        raise UserError(f"{run} holds no run of train.py: its config.json has other entries")
    if not list_settings(args).keys() <= saved.keys():
        raise UserError(f"{run} was made by another version of train.py, which alone can go on with it "
                        "(eval.py --model reads it)")
    done = count_steps(run / "metrics.jsonl")
    has_state = (run / STATE).exists()
    # A run that began has a lock, and one that has its curves had a state.
    if not has_state and ((run / "curves.png").exists() or not (run / LOCK).exists()):
        raise UserError(f"{run} has no state.safetensors, as published runs: it can't go on")
    steps = args.steps or saved["steps"]
    if steps < done and has_state:
        raise UserError(f"--steps {steps}: this run has done {done} already")
    hold_run(args.resume)
    if steps == done and has_state:
        print(f"{run} has done its {done} steps: for more of them add --steps", file=sys.stderr)
    if done and not has_state:
        print(f"{run} has no state.safetensors: none of its {done} steps was saved, so it starts over", file=sys.stderr)
    return argparse.Namespace(**{**saved, "resume": args.resume, "out": args.resume, "steps": steps,
                                 "typed": args.typed})


def list_settings(args: argparse.Namespace) -> dict:
    """What config.json keeps of them: all but which were typed."""
    settings = dict(vars(args))
    settings.pop("typed", None)
    return settings


def hold_run(directory: str) -> None:
    """Keep other processes out of a run until this one ends. Of torchrun's the first does it for all."""
    if os.environ.get("RANK", "0") == "0":
        hold_lock(pathlib.Path(directory) / LOCK, f"{directory}: another process is at work on this run; wait until it "
                                                  "ends, or end it")


def go_back(args: argparse.Namespace, step: int) -> tuple[float, dict]:
    """Drop what the logs say of the steps after this one, which will run again.

    -> the held-out accuracy of the best evaluation after the start, -1 before there is one; the metrics of `step`,
    {"step": 0} at the start.
    """
    best, last = -1.0, {"step": 0}
    log = pathlib.Path(args.resume or args.out) / "metrics.jsonl"    # args.out of torchrun's others is empty
    if step > 0:
        with naming(log, malformed=(ValueError, LookupError, TypeError)):
            for text in log.read_bytes().split(b"\n")[:-1]:          # the last may be half a line
                line = json.loads(text)
                if line["step"] <= step:
                    last = line
                if 0 < line["step"] <= step:
                    best = max(best, line.get("heldout_greedy", -1.0))
        if last["step"] != step:
            raise UserError(f"{log}: step {step} is missing, which was saved: the log was damaged")
    forget_after(pathlib.Path(args.out), step)
    return best, last


def complete_line(directory: pathlib.Path, metrics: dict) -> None:
    """Put a step's line at the end of metrics.jsonl, in place of the line that it has there."""
    forget_after(directory, metrics["step"] - 1, ("metrics.jsonl",))
    append_json(directory / "metrics.jsonl", [metrics])


def count_steps(log: pathlib.Path) -> int:
    """Steps in a run's log, 0 if it has none."""
    lines = []
    if log.exists():
        lines = log.read_bytes().split(b"\n")[:-1]           # the last may be half a line
    if not lines:
        return 0
    try:
        return json.loads(lines[-1])["step"]
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{log}: malformed; it is no log of train.py, or it was damaged") from None


def claim_directory(path: str) -> str:
    """Make the directory, or with -2, -3 ... the first of its name that does not exist yet -> its path."""
    for i in itertools.count(1):
        candidate = path
        if i > 1:
            candidate = f"{path}-{i}"
        try:
            os.makedirs(candidate)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{candidate}: cannot be made ({error.strerror}); name another place with --out") from None
        return candidate


def claim_evaluation(args: argparse.Namespace) -> pathlib.Path:
    """The directory of an evaluation, with its settings in it."""
    out = args.out
    if out is None:
        name = f"{pathlib.Path(args.model).name}-{args.process}-{pathlib.Path(args.data).stem}"
        out = claim_directory(f"out/eval-{name}")
    atomic_write(pathlib.Path(out) / "config.json", json.dumps({**list_settings(args), "out": out}, indent=1))
    return pathlib.Path(out)


def claim_run(args: argparse.Namespace) -> None:
    """The directory of a run, with its settings in it."""
    if args.out is None:
        args.out = claim_directory(f"out/{pathlib.Path(args.model).name}-{args.process}-s{args.seed}")
    if not args.resume:                              # else it is held already
        hold_run(args.out)
    atomic_write(pathlib.Path(args.out) / "config.json", json.dumps(list_settings(args), indent=1))


def refuse_used(out: str | None, why: str) -> None:
    """UserError when a directory that was asked for holds something."""
    if not out:
        return
    path = pathlib.Path(out)
    if path.is_file():
        raise UserError(f"{out} is a file, not a directory: name another --out")
    if path.exists() and (not path.is_dir() or set(os.listdir(path)) - {LOCK}):
        raise UserError(f"{out} {why}")


def refuse_used_run(args: argparse.Namespace) -> None:
    if args.resume or not args.out:
        return
    why = "holds other files, but no run: name another --out"
    run = pathlib.Path(args.out)
    if (run / "config.json").exists() or (run / "metrics.jsonl").exists():
        why = f"holds another run: name another --out, or continue it with --resume {args.out}"
    refuse_used(args.out, why)
