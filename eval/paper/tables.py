"""Tables of the paper as Markdown: our numbers beside the reported ones."""

import json
from collections.abc import Collection
from pathlib import Path

from eval.metrics import METRICS
from eval.paper import reported
from models.errors import InputError
from models.weights import record_path
from stitch.runs.run import timing_key

# Columns beside those of metrics (``eval.metrics.METRICS``).
HEADERS = {
    "fraction": "share",
    "label": "",
    "time": "ms per image",
    "params": "parameters, M",
    "macs": "GMACs per evaluation",
    "iterations": "iterations",
    "storage": "storage, MB",
    "memory": "peak memory, MB",
    "latency": "s for 8 images",
    "gmacs": "GMACs per image",
}
# Columns of what networks are, and the units that tables say them in.
OF_NETWORKS = {"params": 1e6, "macs": 1e9, "storage": 1e6, "iterations": 1}
DIGITS = {"time": 2, "params": 2, "macs": 4, "storage": 2, "memory": 0, "latency": 3, "gmacs": 3}


def heading(column: str) -> str:
    """What a column is called in a table."""
    return METRICS[column].label if column in METRICS else HEADERS[column]


def decimals(column: str) -> int | None:
    """How many decimals a column shows; None for as many as there are."""
    return METRICS[column].digits if column in METRICS else DIGITS.get(column)


def build(drawing) -> tuple[list[str], list[list]]:
    """(headers, rows) of a figure of kind ``table``; an unknown number is None."""
    columns = drawing.figure["columns"]
    reported = [
        column
        for column in columns
        if any(column in series.get("reported", {}) for series in drawing.figure["series"])
    ]
    rows = []
    for point, record in zip(drawing.points, drawing.evidence, strict=True):
        series = drawing.figure["series"][point.series]
        label = drawing.text(series["label"], point)
        ours = [_ours(column, point, record, label) for column in columns]
        rows.append(ours + [_reported(series, column, point, label) for column in reported])
    headers = [heading(column) for column in columns]
    headers += [f"paper: {heading(column)}" for column in reported]
    digits = [decimals(column) for column in columns] + [None] * len(reported)
    return headers, [
        [_format(cell, places) for cell, places in zip(row, digits, strict=True)] for row in rows
    ]


def latencies(runs: Path, wanted: Collection[str] = ()) -> dict[str, dict]:
    """What ``scripts.latency`` measured, by ``Run.timing_key``, of every file it wrote.

    Each with the files that its times and its memory are from, ``timing_source`` and
    ``memory_source``.

    Args:
        wanted: keys that are to be compared with one another.
    """
    found = {}
    files = sorted((runs / "latency").glob("*.json"))
    measured = [(json.loads(file.read_text()), str(file)) for file in files]

    def rank(one: tuple[dict, str]) -> tuple:
        # Those win that have most of what is to be compared, of these the compiled ones, then
        # those measured in turn with the most others, which compare best.
        content, _ = one
        keys = {timing_key(content, point["allocation"]) for point in content["points"]}
        return len(keys & {*wanted}), content["compile"], len(keys), content["time"]

    for content, file in sorted(measured, key=rank):
        device = content["device"] + (", compiled" if content["compile"] else "")
        setting = {"device": device, "batch_size": content["batch_size"], "timing_source": file}
        for entry in content["points"]:
            key = timing_key(content, entry["allocation"])
            earlier = found.get(key, {})
            # Memory, which is seldom measured, stays when the time is measured again.
            known = earlier if earlier.get("device") == device else {}
            found[key] = {**known, **setting, **entry}
            if "peak_rss_mb" in entry:
                found[key]["memory_source"] = file
    return found


def of_networks(column: str, point) -> int | None:
    """What a point's networks are: parameters, MACs, bytes, iterations of the first's training."""
    zoo, names = point.run.zoo, point.run.allocation.denoisers
    if column == "params":
        return sum(p.numel() for n in names for p in zoo.skeleton(n).parameters())
    if column == "macs":
        return sum(zoo.macs(name) for name in names)
    if column == "storage":
        return sum(zoo.checkpoint(name).stat().st_size for name in names)
    file = record_path(zoo.checkpoint(names[0]))
    if not file.is_file():
        return None  # published without
    parts = json.loads(file.read_text()).get("parts", [])
    return sum(part["images"] // part["recipe.batch_size"] for part in parts) or None


def _ours(column: str, point, record: dict, label: str):
    if column == "fraction":
        return f"{point.fractions[0]:g}"
    if column == "label":
        return label
    if column in OF_NETWORKS:
        value, unit = of_networks(column, point), OF_NETWORKS[column]
        return value if unit == 1 else value / unit
    if column == "memory":
        return record.get("peak_allocated_mb", record.get("peak_rss_mb"))
    if column == "latency":
        return record["ms_per_8_images"] / 1e3
    if column == "time":
        return record["timing"].get("ms_per_image")
    if column == "gmacs":
        return record["cost"]["macs_per_image"] / 1e9
    if column not in record["metrics"]:
        known = ", ".join([*HEADERS, *METRICS])
        raise InputError(f"figure.columns: {column} is unknown; known: {known}")
    return record["metrics"][column]


def _reported(series: dict, column: str, point, label: str):
    path = series.get("reported", {}).get(column)
    if path is None:
        return None
    entry = reported.look_up(path.format(label=label))
    if isinstance(entry, list):
        shares = reported.look_up(".".join([*path.split(".")[:2], "x"]))["fraction_small"]
        entry = entry[shares.index(round(point.fractions[0], 6))] if (
            round(point.fractions[0], 6) in shares
        ) else None  # fmt: skip
    if column == "time" and isinstance(entry, int | float):
        return f"{entry * reported.milliseconds(path):.4g}"
    return entry


def _format(cell, digits: int | None) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, str) or digits is None:
        return str(cell)
    return f"{cell:.{digits}f}"
