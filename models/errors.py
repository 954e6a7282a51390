"""What a user did wrong, said so that it can be mended."""


class InputError(ValueError):
    """A setting, a file or an argument cannot be used.

    The message names it, its value and the fix. Commands print it as one line and exit with 2;
    anything else that is raised is a bug and keeps its traceback.
    """


def is_mistake(error: Exception) -> bool:
    """Whether an error is no bug: of input, the system, weights or precision.

    An ``OSError`` without a number is a library's own and no answer of the system.
    """
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, InputError | FloatingPointError)
