"""What the paper reports, read from ``configs/paper/facts.yaml``."""

import functools
from dataclasses import dataclass

import yaml

from eval.metrics import METRICS
from models.errors import InputError
from models.zoo import ROOT

FACTS = ROOT / "configs" / "paper" / "facts.yaml"
_TIME = "time_s", 125  # the column of times in tables of three models, and s for 8 -> ms for 1


@dataclass(frozen=True)
class Reported:
    """A reported curve.

    Attributes:
        x: share of the steps of the small denoiser, or milliseconds per image.
        y: values.
        error: of reading them off a plot; 0 if they are printed.
    """

    x: list[float]
    y: list[float]
    error: float = 0.0


@functools.cache
def facts() -> dict:
    return yaml.safe_load(FACTS.read_text())


def look_up(path: str):
    """The entry at a path such as ``tables.T1.y.FID``.

    Raises:
        InputError: naming the part of the path that does not exist.
    """
    entry = facts()
    for part in path.split("."):
        if not isinstance(entry, dict) or part not in entry:
            raise InputError(f"{FACTS.name} has no {path}: {part} is unknown")
        entry = entry[part]
    return entry


def curve(path: str, metric: str) -> Reported | None:
    """The curve at ``path`` over the share of the small denoiser; None if it is unknown."""
    entry, parents = look_up(path), path.split(".")
    if entry == "unknown":
        return None
    error = _error(look_up(".".join(parents[:-1])).get("error", 0)) if len(parents) > 3 else 0
    if isinstance(entry, dict):
        entry, error = entry["values"], entry.get("error", 0)
    factor = milliseconds(path) if metric == "time" else 1
    shares = look_up(".".join([*parents[:2], "x"]))["fraction_small"]
    return Reported(shares, [factor * value for value in entry], error)


def milliseconds(path: str) -> float:
    """What a reported time at ``path`` is multiplied with to be milliseconds for one image."""
    if path.endswith("_ms"):
        return 1
    setup = look_up(".".join(path.split(".")[:2])).get("setup", {})
    return 1000 if setup.get("time_for") == "1 image" else _TIME[1]


def at_share(path: str, share: float) -> float | None:
    """The reported milliseconds for one image at a share of the small denoiser, if known."""
    entry, parents = look_up(path), path.split(".")
    about = look_up(".".join(parents[:2]))
    shares = about.get("x", {}).get("fraction_small") or about["setup"]["fractions"]
    if not isinstance(entry, list) or share not in shares:
        return None
    return entry[shares.index(share)] * milliseconds(path)


def cloud(path: str, metric: str) -> Reported:
    """A table of configurations: ``metric`` over time, in the table's order."""
    table = look_up(path)
    columns = {name: i for i, name in enumerate(table["columns"])}
    name = METRICS[metric].label
    time, factor = _TIME
    error = look_up(path.rsplit(".", 1)[0]).get("error", {})
    return Reported(
        [factor * row[columns[time]] for row in table["rows"]],
        [row[columns[name]] for row in table["rows"]],
        _error(error.get(name, 0)),
    )


def hardware(path: str) -> str:
    """On what the paper measured the times of an entry such as ``figures.F1.y.time_s``."""
    setup = look_up(".".join(path.split(".")[:2]))["setup"]
    return setup.get("hardware", facts()["defaults"]["class_conditional_dit"]["time_cost"])


def _error(entry) -> float:
    """The largest error that an entry names."""
    values = entry.values() if isinstance(entry, dict) else [entry]
    return max([value for value in values if isinstance(value, int | float)], default=0.0)
