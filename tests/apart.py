"""Calls in processes of their own, as a user's programs are. They are forked from one that has imported the scripts,
where the system can do that, since torch's import alone takes seconds."""
import multiprocessing
import os

METHOD = "spawn"
if "forkserver" in multiprocessing.get_all_start_methods():
    METHOD = "forkserver"
CONTEXT = multiprocessing.get_context(METHOD)
CONTEXT.set_forkserver_preload(["train"])


def start(function, *given, **environment) -> multiprocessing.Process:
    """A process that calls a module's function and is silent. exitcode: 1 for an exception, else SystemExit's or 0."""
    process = CONTEXT.Process(target=run, args=(function, given, environment))
    process.start()
    return process


def run(function, given, environment):
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.environ.update(environment)
    function(*given)
