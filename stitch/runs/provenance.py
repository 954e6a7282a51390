"""Results are shipped from clean commits."""

from pathlib import Path

from models.errors import InputError
from models.zoo import ROOT
from scripts import launch

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
    commit = launch.commit()
    if commit == "unknown" or commit.endswith("-dirty"):
        raise InputError(
            f"{setting}={path} is under docs/, whose results are of clean commits, and the code is "
            f"at {commit}; commit the changes first, or write elsewhere"
        )
