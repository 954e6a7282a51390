"""Figures of kind ``grid``: images of runs beside one another."""

import textwrap

import numpy as np

from eval.metrics import METRICS
from eval.paper import plots, shown
from eval.paper import reported as paper
from eval.paper.drawing import Drawing, time_axis, value
from eval.paper.points import Point


def grid(drawing: Drawing) -> None:
    """Images of every series; a row each, or with ``across: fraction`` a column a share.

    With ``beside``, metrics and time of their runs stand beside the rows. With ``across: prompts``
    every prompt has a row and every share a column, with its time if that is to stand ``beside``.
    """
    figure, first = drawing.figure, drawing.points[0]
    found = [shown.images(figure, point.run) for point in drawing.points]
    if figure["across"] == "fraction":
        rows, labels, columns = [], [], []
        for s, series in enumerate(figure["series"]):
            mine = [i for i, point in enumerate(drawing.points) if point.series == s]
            rows.append(np.concatenate([found[i][0] for i in mine]))
            labels.append(drawing.text(series["label"], drawing.points[mine[0]]))
            columns = [f"{drawing.points[i].fractions[0]:g}" for i in mine]
        y = ""
    elif figure["across"] == "prompts":
        rows = [np.stack(row) for row in zip(*(images for images, _ in found), strict=True)]
        labels = [textwrap.fill(first.run.prompts[label], 24) for label in found[0][1]]
        columns = [
            _column(drawing, *one) for one in zip(drawing.points, drawing.evidence, strict=True)
        ]
        y = ""
    else:
        rows = [images for images, _ in found]
        columns = [first.run.zoo.classes.name(label) for label in found[0][1]]
        templates = [series["label"] for series in figure["series"]]
        labels = [drawing.text(templates[point.series], point) for point in drawing.points]
        if "beside" in figure:
            labels = [
                f"{label}:  {text}" for label, text in zip(labels, _beside(drawing), strict=True)
            ]
        y = f"share of {drawing.names['small']}" if "{fraction}" in templates[0] else ""
    plots.image_grid(
        drawing.path, rows, labels, drawing.title, y, drawing.caption,
        columns, figure.get("cell", 0.5),
    )  # fmt: skip


def _column(drawing: Drawing, point: Point, samples: dict) -> str:
    """What stands above the images of a share: our time of one, and the paper's."""
    series = drawing.figure["series"][point.series]
    lines = [drawing.text(series["label"], point)]
    measured = samples["timing"].get("ms_per_image")
    if "time" in drawing.figure.get("beside", []) and measured is not None:
        lines.append(f"{measured:.0f} ms" if measured < 1e4 else f"{measured / 1e3:.1f} s")
    path = series.get("reported", {}).get("time")
    if path and drawing.same_data:
        known = paper.at_share(path, point.fractions[0])
        lines += [f"paper: {known:.0f} ms"] if known else []
    return "\n".join(lines)


def _beside(drawing: Drawing) -> list[str]:
    """Metrics and time of every point of a grid, as text."""
    timed, _ = time_axis(drawing.evidence)
    texts = []
    for record in drawing.evidence:
        words = []
        for metric in drawing.figure["beside"]:
            if metric == "time":
                unit = "ms" if timed == "time" else "GMACs"
                words.append(f"{value(record, timed):.1f} {unit}")
            else:
                one = METRICS[metric]
                words.append(f"{one.label} {value(record, metric):.{max(one.digits - 1, 2)}f}")
        texts.append("  ".join(words))
    return texts
