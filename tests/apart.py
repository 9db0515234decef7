"""Calls in processes of their own, as a user's programs are. They are forked from one that has imported torch, where the
system can do that, since this import alone takes seconds."""
import multiprocessing
import os

METHOD = "spawn"
if "forkserver" in multiprocessing.get_all_start_methods():
    METHOD = "forkserver"
CONTEXT = multiprocessing.get_context(METHOD)
CONTEXT.set_forkserver_preload(["torch._dynamo", "matplotlib.pyplot"])         # an optimizer imports the first


def start(function, *given, told=os.devnull, **environment) -> multiprocessing.Process:
    """A process that calls a module's function. exitcode: 1 for an exception, else SystemExit's or 0.

    told: the file that takes what it prints; tracebacks go where the tests' own do, unless told is named.
    """
    process = CONTEXT.Process(target=run, args=(function, given, str(told), environment))
    process.start()
    return process


def run(function, given, told, environment):
    file = os.open(told, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    if told != os.devnull:
        os.dup2(file, 2)
    os.environ.update(environment)
    function(*given)


def execute(source):
    """The text of a program."""
    exec(source, {"__name__": "__main__"})
