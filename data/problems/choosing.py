"""What --data names: generated problems, a benchmark, or a file of one's own; and what is held out of it."""
import random

from data import UserError
from data.problems.benchmarks import load
from data.problems.generate import KINDS, generate


def load_data(name: str, split: str, count: int | None, data_dir: str | None = None) -> list[dict]:
    """Rows {"id", "problem", "answer", ...} of generated problems, a benchmark, or a JSON-lines file.

    split: "train" or "heldout", for generated problems; a file is used as it is. count None: all rows (of
    generated ones 1,000). UserError for a name that is not known and for a malformed file.
    """
    if name not in KINDS:
        return load(name, data_dir)[:count]
    if count is None:
        count = 1000
    try:
        return generate(count, seed=0, split=split, kind=name)
    except ValueError as error:
        raise UserError(f"--data {name}: {error}") from None


def split_data(data: str, eval_data: str | None, eval_questions: int | None, data_dir: str | None) -> tuple:
    """-> (training rows, held-out rows): generated splits, two files, or a shuffled tenth of one file held out.

    UserError if one part has judge tasks and the other has not.
    """
    count = None
    if data in KINDS:                        # they have a split of their own
        count = 2000
        if not eval_data:
            eval_data = data
    rows = load_data(data, "train", count, data_dir)
    if eval_data:
        held = load_data(eval_data, "heldout", eval_questions, data_dir)
    else:
        random.Random("held out").shuffle(rows)
        tenth = max(1, len(rows) // 10)
        held = rows[:tenth][:eval_questions]
        rows = rows[tenth:]

    if len({bool(row.get("judge")) for row in rows + held}) > 1:
        raise UserError("training and held-out problems must all be judge tasks, or none of them")
    return rows, held
