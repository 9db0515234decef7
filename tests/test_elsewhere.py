"""On Windows and macOS, as far as that shows here: programs import, parse and train without what those systems lack."""
import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Run by another process. To the files of this project, and to no library, it looks as if they were on Windows, with
# what macOS lacks missing as well.
PRETENCE = r'''
import builtins
import os
import runpy
import signal
import sys
import types

ROOT = sys.argv[1]
MODULES = set("fcntl grp posix pty pwd resource spwd syslog termios tty crypt nis".split())
OS = set("""
    fork forkpty sysconf sysconf_names confstr getuid geteuid getgid getegid getgroups getpgid getpgrp getsid setsid
    setuid setgid setpgid killpg nice uname getloadavg getpriority setpriority mkfifo mknod chown fchown lchown chroot
    statvfs fstatvfs pread pwrite preadv pwritev readv writev sendfile openpty ttyname tcgetpgrp ctermid wait wait3
    wait4 waitid WNOHANG WEXITSTATUS WIFEXITED posix_fadvise posix_fallocate posix_spawn sched_getaffinity
    sched_setaffinity sched_yield memfd_create pidfd_open eventfd splice copy_file_range getrandom register_at_fork
    O_NONBLOCK O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_SYNC initgroups lockf fdatasync sync""".split())
SIGNALS = set("""
    SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGPIPE SIGQUIT SIGWINCH SIGVTALRM SIGPROF
    alarm setitimer getitimer pause pthread_kill pthread_sigmask sigwait sigpending siginterrupt""".split())


class Without(types.ModuleType):
    """A module that lacks some of its names."""
    def __init__(self, whole, lacking, **changed):
        super().__init__(whole.__name__)
        self.__dict__.update({name: value for name, value in vars(whole).items() if name not in lacking}, **changed)


locked = []
msvcrt = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK = 2
msvcrt.locking = lambda *asked: locked.append(asked)
seen = {"os": Without(os, OS, name="nt"), "signal": Without(signal, SIGNALS), "msvcrt": msvcrt}
whole_import = builtins.__import__


def import_there(name, globals=None, locals=None, fromlist=(), level=0):
    if str((globals or {}).get("__file__", "")).startswith(ROOT):
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r} on this system")
        if name in seen:
            return seen[name]
    return whole_import(name, globals, locals, fromlist, level)


builtins.__import__ = import_there
sys.path.insert(0, ROOT)
out, programs = sys.argv[2], sys.argv[3:]
import train
train.main(["--steps", "1", "--questions", "2", "--eval-questions", "4", "--device", "cpu", "--out", out])
assert locked, "no lock was asked for"
train.main(["--model", "llama-1b", "--fit"])
for program in programs:
    sys.argv = [program, "--help"]
    try:
        runpy.run_module(program, run_name="__main__")
    except SystemExit as end:
        assert not end.code or program == "data.examples.tensorboard", program             # it may not be installed
    print("PARSED", program, flush=True)
for check in ("import fcntl", "import os; os.fork", "from signal import SIGKILL", "import resource"):
    try:
        exec(compile(check, "x", "exec"), {"__file__": ROOT + "/x.py", "__builtins__": builtins})
    except (ImportError, AttributeError):
        continue
    raise SystemExit(f"the pretence does not see: {check}")
'''


def find_programs():
    """Names of all modules that can be run, those of tests excepted, and the child that reads its job from stdin."""
    found = []
    for path in [*ROOT.glob("*.py"), *(ROOT / "data").rglob("*.py")]:
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8"):
            found.append(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"))
    return sorted(set(found) - {"data.course.child"})        # data.course imports it


@pytest.mark.skipif("REMA_SLOW" not in os.environ, reason="15 seconds: set REMA_SLOW=1")
def test_programs_run_without_what_windows_and_macos_lack(tmp_path):
    programs = find_programs()
    assert {"train", "eval", "rollout", "data.tiny.make_tiny"} <= set(programs)
    done = subprocess.run([sys.executable, "-c", PRETENCE, str(ROOT), str(tmp_path / "run"), *programs], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("PARSED") == len(programs)


def test_no_syntax_is_newer_than_python_3_10():
    """`x[a, *b]` and `except*` came with 3.11; what came later does not parse where the tests run with 3.11."""
    for path in [*ROOT.glob("*.py"), *(ROOT / "data").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            assert type(node).__name__ != "TryStar", (path, node.lineno)
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
                starred = any(isinstance(part, ast.Starred) for part in node.slice.elts)
                assert not starred or ast.get_source_segment(text, node.slice).startswith("("), (path, node.lineno)
