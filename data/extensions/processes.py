"""Several processes (torchrun) that notice when one of them ends: then all end, and each says why.

Every process counts up a number in the store through which they have found each other, once a second, and looks at
the others' numbers. Whoever ends by a mistake leaves a line there. So nobody waits for the dead, neither within a sum
of gradients (which gloo notices itself, NCCL after ten minutes) nor in front of one.
"""
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time

import torch.distributed as dist

from data.formats.roles import advise
from data.views import program

PATIENCE = 20               # seconds without a sign of life; a regular expression may keep a process busy for some
PAUSE = 1


class OtherStderr:
    """stderr of another process than the first: the rank in front of each line, and no bars."""
    encoding = "utf-8"

    def __init__(self, rank: int, stream):
        self.rank = rank
        self.stream = stream
        self.begun = False               # in the middle of a line

    def write(self, text: str) -> int:
        if text.startswith("\r"):        # a bar, which writes over its own line
            return len(text)
        for line in text.splitlines(keepends=True):
            if not self.begun and line.strip():
                self.stream.write(f"rank {self.rank}: ")
            if self.begun or line.strip():
                self.stream.write(line)
            self.begun = line.strip() != "" and not line.endswith("\n")
        self.stream.flush()
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.stream.fileno()


class Watch:
    """Looks after the other processes, in a thread of its own. args: of the run, whose args.out may come later."""

    def __init__(self, args):
        self.args = args
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        server = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
                               wait_for_workers=False)
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store = dist.PrefixStore(f"rema {restarts}", server)
        self.seen = {}                   # rank -> its number, and when it was new
        self.finished = False            # this process has all its work behind it
        self.ending = False              # and needs nobody any more
        threading.Thread(target=self.look_after_the_others, daemon=True).start()

    def look_after_the_others(self) -> None:
        while not self.ending:
            try:
                self.store.add(f"alive {self.rank}", 1)
                why = self.find_failure()
            except Exception:
                if self.finished:        # then the first process has ended as it should
                    return
                why = "the first process cannot be reached"
            if why and not self.ending:
                self.leave(why)
            time.sleep(PAUSE)

    def find_failure(self) -> str:
        """Why the others can't go on, or "" if they can."""
        if self.store.check(["failed"]):
            return self.store.get("failed").decode()
        now = time.monotonic()
        for rank in range(self.world):
            number = self.store.add(f"alive {rank}", 0)
            if rank not in self.seen or self.seen[rank][0] != number:
                self.seen[rank] = number, now
            if now - self.seen[rank][1] > PATIENCE and not self.store.check([f"done {rank}"]):
                return f"rank {rank} has given no sign of life for {PATIENCE} s: was it killed?"
        return ""

    def leave(self, why: str) -> None:
        """End at once, whatever the main thread is waiting for."""
        kept = ""
        if self.rank == 0 and self.args.out:
            kept = f"; the run is kept, to go on: {advise(self.args)}"
        print(f"\ntrain.py: ends, since {why}{kept}", file=sys.stderr, flush=True)
        os._exit(1)

    def tell(self, text: str, status: int, error: Exception | None) -> None:
        """This process ends by a mistake: say so, here and to the others. One that was torn from them says by whom."""
        if error is not None and is_torn(error):
            self.leave(self.wait_for_cause(error))
        self.ending = True
        print(f"\n{text}", file=sys.stderr, flush=True)
        try:
            last = text.splitlines()[-1]
            self.store.compare_set("failed", "", f"rank {self.rank} failed ({last[:300]})")
            if self.rank == 0:           # likewise
                time.sleep(3 * PAUSE)
        except dist.DistError:
            pass
        os._exit(status)                 # no more talk with the others, which may never end

    def wait_for_cause(self, error: Exception) -> str:
        """What another process has said about its end; else what the connection said."""
        for _ in range(3):
            try:
                if self.store.check(["failed"]):
                    return self.store.get("failed").decode()
            except dist.DistError:
                return "the first process has ended"
            time.sleep(PAUSE)
        return f"another process has ended ({str(error).splitlines()[0][-120:]})"

    def finish(self) -> None:
        """At the end of the work: wait for the others, one of which may hold the store."""
        self.finished = True
        try:
            self.store.set(f"done {self.rank}", "")
            while not self.all_are_done():
                time.sleep(0.1)
        except dist.DistError:
            pass
        self.ending = True
        if self.rank == 0:               # the store may live in this process: the others have to read it
            time.sleep(PAUSE)

    def all_are_done(self) -> bool:
        try:
            return self.store.check([f"done {rank}" for rank in range(self.world)])
        except dist.DistError:
            return True


def is_torn(error: Exception) -> bool:
    """Whether an error says that the connection to another process broke."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "closed by peer" in text or "reset by peer" in text


def join(args) -> Watch:
    """Called once the processes have found each other: only the first one shows and keeps what it does."""
    watch = Watch(args)
    if watch.rank > 0:
        args.out = tempfile.mkdtemp()
        sys.stdout = open(os.devnull, "w")
        sys.stderr = OtherStderr(watch.rank, sys.stderr)
    program.ON_FAILURE.append(watch.tell)
    with contextlib.suppress(ValueError):            # not the main thread: then whoever started it deals with signals
        signal.signal(signal.SIGTERM, lambda *_: watch.leave("it was told to (SIGTERM), as by torchrun when another "
                                                             "process fails"))
    return watch
