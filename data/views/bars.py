"""Signs of life: a bar that ticks every second in a terminal, a plain line now and then in a file.

What is quick shows neither: a bar appears after a second, a plain line after two. Only a terminal that can go back in
its line (not TERM=dumb) has bars, and they are at most 99 columns wide: some begin a new line after the last column.
"""
import contextlib
import os
import shutil
import sys
import threading
import types

from tqdm import tqdm

WIDTH = 100                 # columns that nothing that is shown exceeds
PAUSE = 1.0                 # seconds between two ticks
FIRST, SILENCE = 2.0, 30.0  # seconds before the first plain line, and between two


def can_draw() -> bool:
    """Whether bars are drawn: stderr is a terminal, and one that can go back in its line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def count_columns() -> int:
    """How wide a bar may be."""
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns) - 1


def say(text: str) -> None:
    """To the terminal, above the bars; to stderr when stdout is a file, which gets only results."""
    stream = sys.stderr
    if sys.stdout.isatty() or getattr(sys.stdout, "name", "") == os.devnull:   # another process than the first
        stream = sys.stdout
    tqdm.write(text, file=stream)


class Progress:
    """How far a piece of work is; in a `with`. `tick` is called again and again, from a thread of its own.

    So there are signs of life also where the work itself says nothing for a while.
    """

    def __init__(self, first: float, pause: float):
        self.first, self.pause = first, pause
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.tick_on, daemon=True)
        self.thread.start()

    def tick_on(self) -> None:
        wait = self.first
        while not self.ended.wait(wait):
            self.tick()
            wait = self.pause

    def tick(self) -> None:
        pass

    def describe(self, text: str) -> None:
        """How it goes."""

    def close(self) -> None:
        self.ended.set()
        self.thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Bar(Progress):
    """In a terminal. It leaves nothing behind. total None: nobody knows how much there is to do."""

    def __init__(self, text: str, total: int | None, unit: str, done: int, scale: bool):
        form = None
        if unit == "":
            form = "{desc} ... {elapsed}"
        self.tqdm = tqdm(desc=text, total=total, unit=unit, initial=done, unit_scale=scale, leave=False,
                         ncols=count_columns(), delay=PAUSE, file=sys.stderr, bar_format=form)
        super().__init__(PAUSE, PAUSE)

    def tick(self) -> None:
        self.tqdm.refresh()

    def update(self, n: int = 1) -> None:
        self.tqdm.update(n)

    def restart(self) -> None:
        self.tqdm.reset()

    def describe(self, text: str) -> None:
        self.tqdm.set_postfix_str(text)

    def close(self) -> None:
        super().close()
        self.tqdm.delay = 0              # or tqdm thinks that it was never shown, and leaves it there
        self.tqdm.close()


class PlainBar(Progress):
    """In a file: a line after two seconds, then one every thirty."""

    def __init__(self, text: str, total: int | None, unit: str, done: int):
        self.text, self.total, self.unit, self.done = text, total, unit, done
        super().__init__(FIRST, SILENCE)

    def tick(self) -> None:
        line = self.text
        if self.done:
            line += f": {self.done:,}"
            if self.total is not None:
                line += f" of {self.total:,}"
            line += f" {self.unit}s"
        say(line)

    def update(self, n: int = 1) -> None:
        self.done += n

    def restart(self) -> None:
        self.done = 0


# Where nobody asked how far it is. Its update, int, does nothing with a number, and is no more code to read.
NO_BAR = types.SimpleNamespace(update=int)


def open_bar(text: str, total: int | None, unit: str = "turn", done: int = 0, scale: bool = False) -> Progress:
    """The Progress of a piece of work that is called text. scale: 1,200,000 is shown as 1.20M."""
    if can_draw():
        return Bar(text, total, unit, done, scale)
    return PlainBar(text, total, unit, done)


def wait_for(text: str) -> Progress:
    """Around what has no steps that could be counted: with wait_for("loading tiny"): ..."""
    return open_bar(text, None, "")


def count_steps(done: int, steps: int):
    """The numbers of the steps to do, done + 1 to steps, with a bar. In a file each step has its line anyway."""
    with contextlib.ExitStack() as stack:
        bar = None
        if can_draw():
            bar = stack.enter_context(open_bar("train", steps, "step", done))
        for step in range(done + 1, steps + 1):
            yield step
            if bar is not None:
                bar.update()
