"""Timesteps from a file: ``sampler.spacing=FILE``."""

from pathlib import Path
from typing import Any

from models.errors import InputError
from models.files import read_json
from samplers.spacing import GRIDS, VISITS

SUFFIXES = (".json", ".txt")


def names_file(spacing: Any) -> bool:
    """Whether a value of ``sampler.spacing`` is the name of a file; a known spacing is not."""
    if not isinstance(spacing, str) or spacing in (*VISITS, *GRIDS):
        return False
    return spacing.endswith(SUFFIXES) or Path(spacing).is_file()


def read(path: str | Path) -> list:
    """The timesteps in a file: JSON, or text with numbers apart by spaces, commas or lines.

    JSON may be the list alone, or what ``scripts.timesteps`` writes. Whether the numbers fit a
    sampler is not checked here.

    Raises:
        InputError: if the file is not there, or is not of these forms.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"sampler.spacing={path} is not a file here; give a file that exists, the name of a "
            "spacing, or a list of timesteps"
        )
    if path.suffix != ".json":
        return [_number(word, path) for word in _text(path).replace(",", " ").split()]
    content = read_json(path)
    if isinstance(content, dict):
        if "timesteps" not in content:
            raise InputError(f"sampler.spacing={path} has no entry timesteps with a list of them")
        content = content["timesteps"]
    if not isinstance(content, list):
        raise InputError(f"sampler.spacing={path} must hold a list of timesteps")
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise InputError(
            f"sampler.spacing={path} is not text; it must hold timesteps, one a line"
        ) from error


def _number(word: str, path: Path) -> int | float:
    try:
        return float(word) if not word.lstrip("+-").isdecimal() else int(word)
    except ValueError as error:
        raise InputError(f"sampler.spacing={path}: {word[:50]!r} is not a number") from error
