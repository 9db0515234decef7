"""What is not the method: tokenizers, checkpoints, problems, plots."""


class UserError(Exception):
    """A mistake that a user can mend: the message is one line that says what is wrong and what to do.

    The programs print it without a traceback and exit with status 2.
    """
