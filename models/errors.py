"""Mistakes of users, reported so that they can be fixed."""


class InputError(ValueError):
    """A setting, a file or an argument cannot be used.

    The message names it, its value and the fix. Commands print it as one line and exit with 2;
    anything else that is raised is a bug and keeps its traceback.
    """


def is_mistake(error: Exception) -> bool:
    """Whether an error is due to input, the system, weights or precision, not to a bug.

    An ``OSError`` without a number comes from a library, not from the system.
    """
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, InputError | FloatingPointError)
