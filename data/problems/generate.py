"""Problems without a download, which never run out.

    generate(3, kind="arithmetic")   expressions such as 3+4*(2+5), which `tiny` was warm-started on
    generate(3, kind="words")        short stories, for real models

Training and held-out problems never meet: a problem is held out when the checksum of its text is divisible by
four, whatever the seed.
"""
import random
import zlib

from data.problems.arithmetic import draw_expression
from data.problems.words import draw_story

KINDS = ("arithmetic", "words")
LEVELS = (1, 2, 3)                               # arithmetic: level + 1 operations; words: level steps
TRIES = 5_000                                    # draws before we say that there is no other problem


def generate(n: int, seed=0, split="train", level: int | None = None, kind="arithmetic") -> list[dict]:
    """`n` rows {"id", "problem", "answer", "level"} of one split, with levels in turn unless `level` is given.

    The same arguments give the same rows on every machine. Held-out rows are all different; training rows are
    independent draws. ValueError for an unknown split, level or kind, or too few held-out problems.
    """
    if split not in ("train", "heldout") or kind not in KINDS or level not in (None, *LEVELS):
        raise ValueError(f"generate: no split {split!r}, level {level!r} or kind {kind!r}")
    rng = random.Random(f"{kind} {split} {seed}")
    rows = []
    seen = set()                                 # held-out problems so far
    tries = 0                                    # since the last row
    while len(rows) < n:
        row_level = level or LEVELS[len(rows) % len(LEVELS)]
        if kind == "arithmetic":
            problem, answer = draw_expression(rng, row_level)
        else:
            problem, answer = draw_story(rng, row_level)
        if held_out(problem) != (split == "heldout") or problem in seen:
            tries += 1
            if tries == TRIES:
                raise ValueError(f"generate: there are no {n} different held-out problems at level {row_level}")
            continue
        tries = 0
        if split == "heldout":
            seen.add(problem)
        rows.append({"id": f"{kind}-{zlib.crc32(problem.encode()):08x}", "problem": problem, "answer": str(answer),
                     "level": row_level})
    return rows


def held_out(problem: str) -> bool:
    """Whether a problem is in the held-out quarter. A checksum: Python's own `hash` changes from run to run."""
    return zlib.crc32(problem.encode()) % 4 == 0
