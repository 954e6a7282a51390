"""What a sweep or a search found, on a terminal: a table, and the frontier in plain characters."""

import math
from collections.abc import Mapping, Sequence

from eval.estimate import setting_text
from eval.metrics import METRICS
from stitch import pareto_frontier
from stitch.runs.run import Run

WIDTH, HEIGHT = 66, 14  # of a frontier's ground, in characters; with the axis it fits 80 columns
BEST, OTHER = "*", "."


def summary(records: Mapping[Run, dict]) -> list[str]:
    """Tables of runs and their frontiers as lines of text, one for each number of images.

    Args:
        records: of every run that has one.
    """
    apart: dict[int, list[dict]] = {}
    for run, record in records.items():
        row = {
            "allocation": str(run.allocation),
            **record["metrics"],
            "gmacs_per_image": run.cost()["macs_per_image"] / 1e9,
            "ms_per_image": record["cost"].get("ms_per_image"),
            "device": (record["cost"].get("device"), record["cost"].get("batch_size")),
            "run": run.id,
            "setting": setting_text(run),
        }
        apart.setdefault(run.num_images, []).append(row)
    lines = []
    for rows in apart.values():
        lines += ["", *listing(rows, ("run", "setting"))]
        quality = next((one for one in METRICS if all(one in row for row in rows)), None)
        if quality is not None and len(rows) > 2:
            lines += ["", *frontier_of(rows, quality)]
    return lines[1:]


def frontier_of(rows: Sequence[Mapping], quality: str) -> list[str]:
    """The frontier of a table's rows: a metric against time if all were timed on one device, else
    against multiply-accumulates."""
    timed = len({row["device"] for row in rows}) == 1 and rows[0]["ms_per_image"] is not None
    cost, label = ("ms_per_image", "ms") if timed else ("gmacs_per_image", "GMACs")
    metric = METRICS[quality]
    points = [(row[cost], row[quality]) for row in rows]
    return frontier(points, f"{label} per image", metric.label, metric.better)


def listing(rows: Sequence[Mapping], last: Sequence[str] = ()) -> list[str]:
    """The numbers of some points as lines of text, the head first.

    Args:
        rows: each with ``allocation``, metrics, ``gmacs_per_image``, ``ms_per_image`` (or None),
            and ``device`` unless all were timed on one.
        last: names of further columns, of text.
    """
    width = max(len(row["allocation"]) for row in rows)
    metrics = [metric for metric in METRICS.values() if all(metric.name in row for row in rows)]
    names = "".join(f" {metric.label:>9}" for metric in metrics)
    further = "".join(f" {name:{len(rows[0][name])}}" for name in last)
    lines = [f"{'allocation':{width}}{names} {'GMACs':>9} {'ms/image':>9}{further}".rstrip()]
    for row in rows:
        milliseconds = row["ms_per_image"]
        values = "".join(f" {row[one.name]:9.{max(3, one.digits)}f}" for one in metrics)
        lines.append(
            f"{row['allocation']:{width}}{values} {row['gmacs_per_image']:9.4g} "
            f"{'-' if milliseconds is None else format(milliseconds, '.2f'):>9}"
            f"{''.join(f' {row[name]}' for name in last)}"
        )
    timed_on = {row.get("device") for row in rows if row["ms_per_image"] is not None}
    if len(timed_on) > 1:
        lines.append(f"the times are of {len(timed_on)} devices or batch sizes and do not compare")
    return lines


def frontier(
    points: Sequence[tuple[float, float]], cost: str, quality: str, better: str = "lower"
) -> list[str]:
    """Points of (cost, quality) as lines of plain characters, at most 80 wide.

    Those that no other point beats are stars, the others dots. An axis is logarithmic if its ends
    differ by a factor above 2.5.

    Args:
        cost, quality: names of the axes.
        better: ``lower`` or ``higher``: which quality is better.
    """
    xs, ys = zip(*points, strict=True)
    best = pareto_frontier(xs, ys if better == "lower" else [-y for y in ys])
    columns, rows = _places(xs, WIDTH), _places(ys, HEIGHT)
    ground = [[" "] * WIDTH for _ in range(HEIGHT)]
    for index in [*range(len(points)), *best]:  # stars above dots
        mark = BEST if index in best else OTHER
        ground[HEIGHT - 1 - rows[index]][columns[index]] = mark
    ends = {0: f"{max(ys):.3g}", HEIGHT - 1: f"{min(ys):.3g}"}
    margin = max(map(len, ends.values()))
    lines = [f"{quality} ({better} is better; {BEST} no other beats)"]
    lines += [
        f"{ends.get(number, ''):>{margin}} |{''.join(row)}".rstrip()
        for number, row in enumerate(ground)
    ]
    low, high = f"{min(xs):.3g}", f"{max(xs):.3g}"
    between = cost.center(WIDTH - len(low) - len(high))
    return [*lines, f"{'':{margin}} +{'-' * WIDTH}", f"{'':{margin}}  {low}{between}{high}"]


def _places(values: Sequence[float], size: int) -> list[int]:
    """Which of ``size`` places along an axis each value is at."""
    low, high = min(values), max(values)
    log = low > 0 and high / low > 2.5
    on_axis = [math.log(value) if log else value for value in values]
    start, extent = min(on_axis), max(on_axis) - min(on_axis)
    return [round((value - start) / extent * (size - 1)) if extent else 0 for value in on_axis]
