"""Kinds of figures: from points and what was recorded of them to panels, tables and grids."""

import dataclasses
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.markdown import markdown
from eval.metrics import METRICS
from eval.paper import plots, shown, tables
from eval.paper import reported as paper
from eval.paper.measured import together
from eval.paper.points import PARTS, Point
from models.errors import InputError
from stitch import pareto_frontier
from stitch.analysis import cosine_similarity, log_amplitude_spectrum


@dataclass(frozen=True)
class Drawing:
    """What a kind needs to draw one figure.

    Attributes:
        figure: its YAML.
        names: part -> denoiser.
        points, evidence: its runs, and what is known of each: a record, a trajectory, or nothing.
        path: of the picture, ``.png``; a table goes to ``.md``.
        runs: folder of samples and trajectories.
        ours: whether the numbers are of the paper's data set, so that curves may share axes.
        caption: how the numbers were made.
    """

    figure: dict
    names: dict[str, str]
    points: list[Point]
    evidence: list
    path: Path
    runs: Path
    same_data: bool
    caption: str

    def text(self, template: str, point: Point, of_paper: bool = False) -> str:
        """A label of the YAML, filled in with the point's settings, ours or the paper's."""
        run, paper_says = point.run, point.paper
        setting = {
            "steps": run.settings["sampler"]["steps"],
            "guidance": f"{run.settings['guidance']['scale']:g}",
            "images": f"{run.num_images:,}",
        }
        if of_paper:
            setting = {
                "steps": paper_says["steps"],
                "guidance": f"{paper_says.get('guidance', 1):g}",
                "images": f"{paper_says.get('images', 0):,}",
            }
        fraction = f"{point.fractions[0]:g}"
        return template.format(**setting, **self.names, fraction=fraction)

    @property
    def data(self) -> str:
        """The paper's data set for such a figure."""
        return "COCO 256" if "pipeline" in self.names else "ImageNet 256"

    @property
    def reported(self) -> str:
        """The title of panels of what the paper reports."""
        return f"reported, {self.data}  "

    def of(self, panel: int, series: int) -> list[tuple[Point, dict]]:
        """The points of one series in one panel, with their records."""
        return [
            (point, record)
            for point, record in zip(self.points, self.evidence, strict=True)
            if (point.panel, point.series) == (panel, series)
        ]

    def panel_titles(self, of_paper: bool = False) -> list[str]:
        titles = []
        for p, panel in enumerate(self.figure.get("panels", [{}])):
            first = next(point for point in self.points if point.panel == p)
            titles.append(self.text(panel.get("title", ""), first, of_paper))
        return titles


def value(record: dict, metric: str) -> float:
    """A metric of a record; ``time`` is in milliseconds per image."""
    if metric == "time":
        return record["timing"]["ms_per_image"]
    if metric == "gmacs":
        return record["cost"]["macs_per_image"] / 1e9
    return record["metrics"][metric]


def time_axis(records: Sequence[dict]) -> tuple[str, str]:
    """(metric, axis label) of time, or of MACs if not all was timed on one device in one batch."""
    timings = [record["timing"] for record in records]
    if not all(timings) or not together(timings):
        return "gmacs", "GMACs per image"
    return "time", f"ms per image\n({short_device(timings[0]['device'])})"


def relative_label(timed: str) -> str:
    """Of an axis that our ``timed`` and the reported time share."""
    if timed == "time":
        return "time relative to the slowest"
    return "relative to the largest\n(ours: GMACs, reported: time)"


def short_device(device: str) -> str:
    for word in ("NVIDIA ", " 80GB HBM3", "(R)", "(TM)", " Processor"):
        device = device.replace(word, "")
    return device


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
        _title(drawing),
        _with_companion(drawing, bool(reported)),
        outside_legend=len(figure["series"]) > 4,
    )


def relative(lines: list[plots.Curve]) -> list[plots.Curve]:
    """Curves divided by their largest value, for times of different devices."""
    return [
        dataclasses.replace(line, y=[y / max(line.y) for y in line.y], error=0) for line in lines
    ]


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
    plots.panels(drawing.path, rows, _title(drawing), _with_companion(drawing, bool(companions)))


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
        drawing.path, rows, labels, drawing.text(figure["title"], first), y, drawing.caption,
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


def similarity(drawing: Drawing) -> None:
    """Cosine similarity of the latents of two denoisers after every step."""
    lines = []
    for s, series in enumerate(drawing.figure["series"]):
        (first, (one, timesteps)), (_, (other, _)) = drawing.of(0, s)
        mean = cosine_similarity(one, other).mean(1).tolist()
        label = drawing.text(series["label"], first)
        lines.append(plots.Curve(label, timesteps, mean, "bare", s))
    panel = plots.Panel("", "timestep of the step (noise: 999)", "cosine similarity", lines)
    plots.panels(drawing.path, [[panel]], _title(drawing), drawing.caption, reverse_x=True)


def spectrum(drawing: Drawing) -> None:
    """Log amplitude of the latents by frequency, a line for every step."""
    ((_, (states, timesteps)),) = drawing.of(0, 0)
    spectra = log_amplitude_spectrum(states).tolist()
    count = len(spectra[0])
    frequencies = [2 * k / states.shape[-1] for k in range(count)]
    lines = [
        plots.Curve(f"t = {t:g}", frequencies, values, "bare", plots.shade(i / (len(spectra) - 1)))
        for i, (t, values) in enumerate(zip(timesteps, spectra, strict=True))
    ]
    panel = plots.Panel("", "frequency / π", "mean log amplitude", lines)
    plots.panels(drawing.path, [[panel]], _title(drawing), drawing.caption, outside_legend=True)


def table(drawing: Drawing) -> None:
    """Rows of numbers, ours beside the paper's, as Markdown."""
    columns, rows = tables.build(drawing)
    text = markdown(columns, rows)
    drawing.path.with_suffix(".md").write_text(
        f"**{_title(drawing)}**\n\n{text}\n\n{drawing.caption}\n"
    )


def _title(drawing: Drawing) -> str:
    return drawing.text(drawing.figure["title"], drawing.points[0])


def _with_companion(drawing: Drawing, companion: bool) -> str:
    note = f"; grey ground: as the paper reports on {drawing.data}, another scale of FID"
    return drawing.caption + note if companion else drawing.caption


# kind -> what draws it; a kind draws from records, samples or trajectories.
KINDS: dict[str, Callable[[Drawing], None]] = {
    "curves": curves,
    "pareto": pareto,
    "grid": grid,
    "similarity": similarity,
    "spectrum": spectrum,
    "table": table,
}


def check_kinds(figures: dict[str, dict]) -> None:
    """Raise InputError if a figure is of an unknown kind."""
    for name, figure in figures.items():
        if figure["kind"] not in KINDS:
            raise InputError(
                f"figure.{name}.kind={figure['kind']} is unknown; known: {', '.join(KINDS)}"
            )
