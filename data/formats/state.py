"""The state of a run, for --resume."""
import json

import torch

from data.formats.safetensors import read_tensors, write_tensors


def save_state(path, learners, step, best, failures):
    """All that --resume needs: weights and moments of every learner, bit for bit, and where the run was.

    Draws come from (seed, step, question), so generators have no state.
    """
    tensors = {}
    for role, learner in learners.items():
        tensors.update({f"{role}.weight.{i}": master.detach() for i, master in enumerate(learner.masters)})
        for i, moments in learner.optimizer.state_dict()["state"].items():
            tensors.update({f"{role}.{name}.{i}": value for name, value in moments.items()})
    note = json.dumps({"step": step, "best": best, "failures": failures,
                       "updates": {role: one.updates for role, one in learners.items()}})
    tensors["note"] = torch.frombuffer(bytearray(note.encode()), dtype=torch.uint8)
    write_tensors(tensors, path)


def load_state(path, learners):
    """-> (step, best held-out accuracy, bad gradients in a row); weights and moments go into the learners."""
    tensors = read_tensors(path)
    note = json.loads(bytes(tensors["note"].tolist()))
    for role, learner in learners.items():
        learner.updates = note["updates"][role]
        state = {i: {key: tensors[f"{role}.{key}.{i}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
                 for i in range(len(learner.masters)) if f"{role}.step.{i}" in tensors}
        learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": state})
        with torch.no_grad():
            for i, (weight, master) in enumerate(zip(learner.weights, learner.masters)):
                master.copy_(tensors[f"{role}.weight.{i}"])
                weight.copy_(master)
    return note["step"], note["best"], note["failures"]
