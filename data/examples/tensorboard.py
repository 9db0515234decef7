"""Runs in TensorBoard: reads metrics.jsonl, so it does for a run that has ended, that goes on, or that is published.

    python -m data.examples.tensorboard out/tiny-rema-s0 out/tiny-rema-s1
    tensorboard --logdir out/tensorboard
"""
import pathlib
import sys

from data import UserError
from data.views.curves import read_metrics
from data.views.program import run_program


def program(argv: list[str] | None) -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed: pip install tensorboard") from None
    if not argv or "-h" in argv or "--help" in argv:
        return print(__doc__)
    for run in argv:
        lines = read_metrics(run)
        out = f"out/tensorboard/{pathlib.Path(run).resolve().name}"
        with SummaryWriter(out) as writer:
            for line in lines:
                for name, value in line.items():
                    if name != "step" and isinstance(value, (int, float)):
                        writer.add_scalar(name, value, line["step"])
        print(f"{out}: {len(lines)} steps")


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "tensorboard")


if __name__ == "__main__":
    main(sys.argv[1:])
