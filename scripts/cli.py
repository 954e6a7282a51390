"""How every command reports a mistake of its user: one clear line, exit code 2."""

import functools
import sys
from collections.abc import Callable


class UserError(ValueError):
    """A setting cannot be used; the message names it, its value and the fix."""


def user_errors(main: Callable) -> Callable:
    """Decorate a command so that bad input ends it with one line and exit code 2."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (ValueError, FileNotFoundError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapped
