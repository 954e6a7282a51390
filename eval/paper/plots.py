"""Pictures: curves, Pareto frontiers, image grids. Knows numbers and images, not their making."""

import contextlib
import itertools
import logging
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# The processes that a notebook starts inherit its backend and may not have it: matplotlib could not
# be imported then. Pictures are drawn to files here, which takes no backend.
backend = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib
    from matplotlib import ticker
    from matplotlib.figure import Figure
finally:
    if backend is not None:
        os.environ["MPLBACKEND"] = backend
if backend is not None:
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = backend  # of whoever uses pyplot in this process

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every glyph of every PDF

# Okabe and Ito's colours, told apart by colour-blind readers too; markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
FAINT = "#999999"
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text stays text
}
_WIDTH, _HEIGHT = 2.75, 2.3  # of one panel, inches


@dataclass(frozen=True)
class Curve:
    """Points of one panel.

    Attributes:
        label: in the legend; empty: not named there.
        x, y: values.
        style: ``line`` (points joined), ``bare`` (a line without points), ``faint`` (dominated
            points), ``star``.
        colour: index into ``COLOURS``, or a name.
        reported: not ours: open markers on a dashed line.
        error: of y, drawn as bars.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "line"
    colour: int | str = 0
    reported: bool = False
    error: float = 0.0


@dataclass(frozen=True)
class Panel:
    """Curves on common axes.

    Attributes:
        log: the axes that are logarithmic: "", "y" or "xy".
        companion: another data set's numbers, on a grey ground.
    """

    title: str
    x: str
    y: str
    curves: list[Curve] = field(default_factory=list)
    log: str = ""
    companion: bool = False


def shade(share: float) -> str:
    """A colour between dark (0) and bright (1), for lines in an order."""
    return matplotlib.colors.to_hex(matplotlib.colormaps["viridis"](0.9 * share))


def panels(
    path: Path,
    rows: Sequence[Sequence[Panel]],
    title: str,
    caption: str,
    reverse_x: bool = False,
    outside_legend: bool = False,
) -> None:
    """Draw rows of panels to ``path`` (.png) and, as vectors, beside it (.pdf).

    Args:
        reverse_x: let x fall from left to right, as timesteps do along a trajectory.
        outside_legend: put the legend to the right of the row.
    """
    columns = max(len(row) for row in rows)
    size = (max(_WIDTH * columns, 3.4), _HEIGHT * len(rows) + 0.5)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(size, layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for row, places in zip(rows, axes, strict=True):
            for panel, place in itertools.zip_longest(row, places):
                if panel is None:
                    place.axis("off")
                else:
                    _draw(place, panel)
            # One legend a row: its panels share their curves.
            named = [handles for place in places if (handles := place.get_legend_handles_labels())]
            unique = dict(zip(named[0][1], named[0][0], strict=True))
            outside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if outside_legend else {}
            if unique:
                home = places[len(row) - 1] if outside_legend else places[0]
                home.legend(unique.values(), unique.keys(), **outside)
            if reverse_x:
                places[0].invert_xaxis()
        figure.suptitle(textwrap.fill(title, 18 * columns + 20), fontsize=9)
        _save(figure, path, caption)


def _draw(axes, panel: Panel) -> None:
    for curve in panel.curves:
        index = curve.colour if isinstance(curve.colour, int) else 0
        colour = COLOURS[index % len(COLOURS)] if isinstance(curve.colour, int) else curve.colour
        marker = MARKERS[index % len(MARKERS)]
        face = {"markerfacecolor": "white"} if curve.reported else {}
        line = "--" if curve.reported else "-"
        label = curve.label or None
        if curve.style == "faint":
            axes.scatter(
                curve.x, curve.y, s=9, color=colour, alpha=0.45, label=label, linewidths=0,
            )  # fmt: skip
        elif curve.style == "star":
            axes.plot(curve.x, curve.y, "*", markersize=10, color=colour, label=label,
                      markeredgecolor="white", markeredgewidth=0.5, zorder=4)  # fmt: skip
        elif curve.style == "bare":
            axes.plot(curve.x, curve.y, "-", linewidth=1.2, color=colour, label=label)
        else:
            axes.errorbar(
                curve.x, curve.y, yerr=curve.error or None, fmt=marker + line, color=colour,
                label=label, markersize=3.5, linewidth=1.2, capsize=1.5, elinewidth=0.8, **face,
            )  # fmt: skip
    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
    for name in panel.log:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(ticker.NullFormatter())
    if panel.companion:
        axes.set_facecolor("#f2f2f2")


def image_grid(
    path: Path,
    rows: Sequence[np.ndarray],
    labels: Sequence[str],
    title: str,
    y: str,
    caption: str,
    columns: Sequence[str] = (),
    cell: float = 0.5,
) -> None:
    """Rows of (n, H, W, C) uint8 images, each with a label at its left; names of columns above.

    Args:
        cell: size of an image, inches.
    """
    count = len(rows[0])
    canvas = np.concatenate([np.concatenate(list(images), axis=1) for images in rows])
    height, width = rows[0].shape[1:3]
    longest = max((len(line) for text in columns for line in text.split("\n")), default=0)
    slanted = {"rotation": 40, "ha": "left"} if longest > 12 * cell else {}
    beside = 0.7 + 0.08 * max(len(line) for text in labels for line in text.split("\n"))
    above = 0.6 if slanted else 0
    size = (max(cell * count + beside, 3.4), cell * len(rows) + 0.9 + above)
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(size, layout="constrained")
        axes = figure.subplots()
        axes.imshow(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas, cmap="gray")
        axes.set(title=title, ylabel=y)
        axes.set_yticks([height * (i + 0.5) for i in range(len(rows))], labels)
        axes.xaxis.tick_top()
        axes.set_xticks([width * (i + 0.5) for i in range(len(columns))], columns, **slanted)
        axes.tick_params(length=0)
        _save(figure, path, caption)


def _save(figure, path: Path, caption: str) -> None:
    figure.supxlabel(caption, fontsize=5.5, color="#555555", wrap=True)
    figure.savefig(path.with_suffix(".png"))
    # Without the date, so that the same numbers give the same file.
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
