"""The state of a run, for --resume: weights and moments of every agent, bit for bit, and where the run was.

Draws follow from (seed, step, question), so generators have no state.
"""
import json
import pathlib

import torch

from data.formats.safetensors import read_tensors, write_tensors


def save_state(path: pathlib.Path, agents: list, note: dict) -> None:
    """agents: each with a name and a train.Optimizer. note: what else is to be kept, as JSON."""
    tensors, updates = {}, {}
    for agent in agents:
        optimizer = agent.optimizer
        updates[agent.name] = optimizer.updates
        for i, master in enumerate(optimizer.masters):
            tensors[f"{agent.name}.weight.{i}"] = master.detach()
        for i, moments in optimizer.adamw.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"{agent.name}.{name}.{i}"] = value
    text = json.dumps({**note, "updates": updates}).encode()
    tensors["note"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    write_tensors(tensors, path)


def load_state(path: pathlib.Path, agents: list) -> dict:
    """Put weights and moments back into the agents -> the note."""
    tensors = read_tensors(path)
    note = json.loads(bytes(tensors["note"].tolist()))
    for agent in agents:
        optimizer, name = agent.optimizer, agent.name
        optimizer.updates = note["updates"][name]
        moments = {}
        for i in range(len(optimizer.masters)):
            if f"{name}.step.{i}" in tensors:
                moments[i] = {key: tensors[f"{name}.{key}.{i}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.adamw.load_state_dict({**optimizer.adamw.state_dict(), "state": moments})
        with torch.no_grad():
            for i, (weight, master) in enumerate(zip(optimizer.weights, optimizer.masters)):
                master.copy_(tensors[f"{name}.weight.{i}"])
                weight.copy_(master)
    return note
