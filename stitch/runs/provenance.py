"""Which commit results are of; those that are shipped are of clean ones."""

import functools
import subprocess
from pathlib import Path

from models.errors import InputError
from models.zoo import ROOT

SHIPPED = ROOT / "docs"


def refuse_unclean(setting: str, path: str | Path) -> None:
    """Refuse to write results that are shipped when no commit has the code that makes them.

    Args:
        setting: that says where, for the error.
        path: what would be written, or its folder.

    Raises:
        InputError: if it is under docs/ and the code differs from its commit, or has none.
    """
    if not Path(path).resolve().is_relative_to(SHIPPED):
        return
    here = commit()
    if here == "unknown" or here.endswith("-dirty"):
        raise InputError(
            f"{setting}={path} is under docs/, whose results are of clean commits, and the code is "
            f"at {here}; commit the changes first, or write elsewhere"
        )


@functools.cache
def commit() -> str:
    """The commit of the code, with the mark ``-dirty`` if files differed from it at the first call.

    What lies under docs/ does not count: it comes out of the code and does not go into it, and
    writing one result there must not mark the next.
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
