"""Figures of kind ``curves``: metrics against the share of the first denoiser."""

import dataclasses

from eval.metrics import METRICS
from eval.paper import plots
from eval.paper import reported as paper
from eval.paper.drawing import Drawing, relative_label, time_axis, value


def curves(drawing: Drawing) -> None:
    """Metrics against the share of the first denoiser."""
    figure, share = drawing.figure, "share of steps of the smaller denoiser"
    timed, time_label = time_axis(drawing.evidence)
    ours, reported = [], []
    for p, (title, paper_title) in enumerate(
        zip(drawing.panel_titles(), drawing.panel_titles(True), strict=True)
    ):
        for metric in figure["y"]:
            shown = timed if metric == "time" else metric
            label = time_label if metric == "time" else METRICS[metric].axis
            lines, papers = [], []
            for s, series in enumerate(figure["series"]):
                points = drawing.of(p, s)
                first = points[0][0]
                line = sorted(
                    (point.fractions[0], value(record, shown)) for point, record in points
                )
                lines.append(
                    plots.Curve(
                        drawing.text(series["label"], first), *zip(*line, strict=True), colour=s
                    )
                )
                path = series.get("reported", {}).get(metric)
                found = path and paper.curve(path.format(**first.paper), metric)
                if found:
                    papers.append(
                        plots.Curve(
                            drawing.text(series["label"], first, True), found.x, found.y,
                            colour=s, reported=True, error=found.error,
                        )
                    )  # fmt: skip
            if papers and drawing.same_data:
                if metric == "time":
                    lines, papers = relative(lines), relative(papers)
                    label = relative_label(timed)
                else:
                    label = f"{label} (filled: ours, open: reported)"
                lines += [dataclasses.replace(line, label="") for line in papers]
            log = "y" if metric in figure.get("log", []) else ""
            ours.append(plots.Panel(title, share, label, lines, log))
            if papers and not drawing.same_data:
                on = "ms per image (RTX 3090)" if metric == "time" else METRICS[metric].axis
                reported.append(
                    plots.Panel(
                        drawing.reported + paper_title, share, on, papers, log, companion=True
                    )
                )
    rows = [ours, reported] if reported else [ours]
    plots.panels(
        drawing.path,
        rows,
        drawing.title,
        drawing.caption_with(bool(reported)),
        outside_legend=len(figure["series"]) > 4,
    )


def relative(lines: list[plots.Curve]) -> list[plots.Curve]:
    """Curves divided by their largest value, for times of different devices."""
    return [
        dataclasses.replace(line, y=[y / max(line.y) for y in line.y], error=0) for line in lines
    ]
