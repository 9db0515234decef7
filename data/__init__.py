"""What comes in and what goes out: no method, no learning. README.md in here says what lies where."""


class UserError(Exception):
    """A mistake that a user can mend: the message is one line that says what is wrong and what to do.

    The programs print it without a traceback and exit with status 2.
    """
