"""Figures of kind ``pareto``: metrics against time, and the frontier of every series."""

import dataclasses

from eval.metrics import METRICS
from eval.paper import plots
from eval.paper import reported as paper
from eval.paper.drawing import Drawing, relative_label, time_axis, value
from eval.paper.points import PARTS
from stitch import pareto_frontier


def pareto(drawing: Drawing) -> None:
    """Metrics against time: a frontier through every cloud of allocations, single denoisers."""
    figure = drawing.figure
    timed, time_label = time_axis(drawing.evidence)
    titles, papers = drawing.panel_titles(), drawing.panel_titles(True)
    rows: list[list[plots.Panel]] = []
    companions: list[plots.Panel] = []
    for metric in figure["y"]:
        row = []
        for p, panel in enumerate(figure.get("panels", [{}])):
            drawn: list[plots.Curve] = []
            for s, series in enumerate(figure["series"]):
                drawn += _cloud(drawing, drawing.of(p, s), series, s, metric, timed)
            axis = time_label
            path = panel.get("reported") or figure["series"][0].get("reported")
            if path:
                found = paper.cloud(path, metric)
                theirs = _frontier(found.x, found.y, metric, "reported", 3, found.error)
                if drawing.same_data:
                    drawn = _relative_time(drawn) + _relative_time(theirs)
                    axis = relative_label(timed)
                else:
                    companions.append(
                        plots.Panel(
                            drawing.reported + papers[p], "ms per image (RTX 3090)",
                            METRICS[metric].axis, theirs, companion=True,
                        )
                    )  # fmt: skip
            log = "y" if metric in figure.get("log", []) else ""
            row.append(plots.Panel(titles[p], axis, METRICS[metric].axis, drawn, log=log))
        rows.append(row)
    if len(rows[0]) == 1:
        rows = [[panel for row in rows for panel in row]]
    if companions:
        rows.append(companions)
    plots.panels(drawing.path, rows, drawing.title, drawing.caption_with(bool(companions)))


def _cloud(drawing: Drawing, points, series: dict, index: int, metric: str, timed: str):
    """One series of a Pareto plot."""
    times = [value(record, timed) for _, record in points]
    values = [value(record, metric) for _, record in points]
    label = drawing.text(series["label"], points[0][0])
    if series.get("frontier"):
        return _frontier(times, values, metric, label, index, faint=index)
    if len(points[0][0].fractions) == 1:
        line = sorted(zip(times, values, strict=True))
        return [plots.Curve(label, *zip(*line, strict=True), colour=index)]
    drawn = _frontier(times, values, metric, "Pareto frontier", 0)
    singles = [(point, t, v) for (point, _), t, v in zip(points, times, values, strict=True)
               if len(point.run.allocation.denoisers) == 1]  # fmt: skip
    for point, t, v in singles:
        name = point.run.allocation.denoisers[0]
        part = next(part for part in PARTS if drawing.names.get(part) == name)
        drawn.append(plots.Curve(name, [t], [v], "star", 4 - PARTS.index(part)))
    return drawn


def _frontier(times, values, metric: str, label: str, colour: int, error=0.0, faint=plots.FAINT):
    sign = -1 if METRICS[metric].better == "higher" else 1
    best = pareto_frontier(times, [sign * v for v in values])
    return [
        plots.Curve("", times, values, "faint", faint, colour == 3),
        plots.Curve(
            label, [times[i] for i in best], [values[i] for i in best], "line", colour,
            colour == 3, error,
        ),
    ]  # fmt: skip


def _relative_time(drawn: list[plots.Curve]) -> list[plots.Curve]:
    slowest = max(max(curve.x) for curve in drawn)
    return [dataclasses.replace(curve, x=[x / slowest for x in curve.x]) for curve in drawn]
