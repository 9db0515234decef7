"""Calls in processes of their own, as a user's programs are.

Where the system can do that, they are forked from one that has imported torch, since this import alone takes seconds.
They have the environment of that one: what a test changes in its own has to be handed to `start`.
"""
import multiprocessing
import os

METHOD = "spawn"
if "forkserver" in multiprocessing.get_all_start_methods():
    METHOD = "forkserver"
CONTEXT = multiprocessing.get_context(METHOD)
CONTEXT.set_forkserver_preload(["torch._dynamo", "matplotlib.pyplot"])         # an optimizer imports the first


def start(function, *given, told=os.devnull, **environment) -> multiprocessing.Process:
    """A process that calls a function that stands in a module; it ends with the tests at the latest.

    exitcode: 1 for an exception, else SystemExit's or 0. told: the file that takes what it prints; tracebacks go where
    the tests' own do, unless told is named.
    """
    process = CONTEXT.Process(target=run, args=(function, given, str(told), environment), daemon=True)
    process.start()
    return process


def run(function, given, told, environment):
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    if told != os.devnull:
        os.dup2(file, 2)
    os.environ.update(environment)
    function(*given)


def execute(source):
    """Run the text of a program."""
    exec(source, {"__name__": "__main__"})
