"""The commit that results come from; shipped results come from clean commits."""

import functools
import subprocess
from pathlib import Path

from models.errors import InputError
from models.zoo import ROOT

SHIPPED = ROOT / "docs"


def refuse_unclean(setting: str, path: str | Path) -> None:
    """Refuse to write shipped results from code that is not committed.

    Args:
        setting: the setting that gives ``path``, for the error.
        path: the file to be written, or its folder.

    Raises:
        InputError: if it is under docs/ and the code differs from its commit, or has none.
    """
    if not Path(path).resolve().is_relative_to(SHIPPED):
        return
    here = commit()
    if here == "unknown" or here.endswith("-dirty"):
        raise InputError(
            f"{setting}={path} is under docs/, whose results come from clean commits, but the code "
            f"is at {here}; commit the changes first, or write elsewhere"
        )


@functools.cache
def commit() -> str:
    """The commit of the code, marked ``-dirty`` if files differed from it at the first call.

    Files under docs/ do not count: they are outputs of the code, and writing one result there must
    not mark the next.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        differing = git("status", "--porcelain", "--", ".", ":(exclude)docs")
        return git("describe", "--always", "--abbrev=12") + ("-dirty" if differing else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
