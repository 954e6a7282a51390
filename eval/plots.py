"""Pictures: lines, Pareto frontiers and image grids. Knows numbers and images, not their making."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "savefig.dpi": 160,
}


def lines(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    x: str,
    y: str,
    caption: str,
) -> None:
    """Curves of (x, y) points, one for each label."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
        for (label, points), colour in zip(series.items(), COLOURS, strict=False):
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label, markersize=4)
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        _save(figure, path, caption)


def frontiers(
    path: Path,
    table: Sequence[Mapping],
    frontiers: Mapping[str, Sequence[int]],
    title: str,
    caption: str,
) -> None:
    """FID and Inception Score against time; frontier as a line, the other points faint.

    Args:
        table: rows with ``fid``, ``is``, ``ms_per_image`` and ``allocation``.
        frontiers: metric -> indices of its frontier's rows, by ascending time.
    """
    singles = {
        row["allocation"].split("*")[0]: row for row in table if "+" not in row["allocation"]
    }
    with plt.rc_context(_STYLE):
        figure, both = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
        for axes, (metric, frontier) in zip(both, frontiers.items(), strict=True):
            axes.scatter(
                [row["ms_per_image"] for row in table],
                [row[metric] for row in table],
                s=14, color="#999999", alpha=0.6, label="allocations",
            )  # fmt: skip
            axes.plot(
                [table[i]["ms_per_image"] for i in frontier],
                [table[i][metric] for i in frontier],
                "o-", color=COLOURS[0], markersize=4, label="Pareto frontier",
            )  # fmt: skip
            for (name, row), colour in zip(singles.items(), COLOURS[1:], strict=False):
                axes.plot(
                    row["ms_per_image"], row[metric], "*", markersize=12, color=colour, label=name
                )
            axes.set(xlabel="milliseconds per image", ylabel={"fid": "FID", "is": "IS"}[metric])
        both[0].legend(frameon=False)
        figure.suptitle(title)
        _save(figure, path, caption)


def image_grid(
    path: Path, rows: Sequence[np.ndarray], labels: Sequence[str], title: str, y: str, caption: str
) -> None:
    """Rows of (n, H, W, C) uint8 images, each with a label at its left."""
    count = len(rows[0])
    canvas = np.concatenate([np.concatenate(list(images), axis=1) for images in rows])
    height = rows[0].shape[1]
    with plt.rc_context({**_STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(
            figsize=(0.62 * count + 1, 0.62 * len(rows) + 0.9), layout="constrained"
        )
        axes.imshow(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas, cmap="gray")
        axes.set(title=title, ylabel=y, xticks=[])
        axes.set_yticks([height * (i + 0.5) for i in range(len(rows))], labels)
        axes.tick_params(length=0)
        _save(figure, path, caption)


def _save(figure, path: Path, caption: str) -> None:
    figure.supxlabel(caption, fontsize=6, color="#555555", wrap=True)
    figure.savefig(path)
    plt.close(figure)
