"""Which images of a run a grid shows."""

import numpy as np

from stitch.runs.run import Run

MOST = 10  # classes side by side


def needed(figure: dict, run: Run) -> int:
    """How many of a run's first images a grid needs."""
    return min(figure.get("shown", run.num_images), run.num_images)


def images(figure: dict, run: Run) -> tuple[np.ndarray, list[int]]:
    """The images of a run that a grid shows, (n, H, W, C) uint8, and their classes.

    Those are its first ``shown`` ones, or with ``across: classes`` of these the first of every
    class.
    """
    parts = list(run.samples.batches(needed(figure, run)))
    found, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    if figure["across"] == "classes":
        chosen = first_of_classes(labels)
        found, labels = found[chosen], labels[chosen]
    return found, labels.tolist()


def first_of_classes(labels: np.ndarray) -> np.ndarray:
    """Where each class comes first in (n,) labels, ascending, of ``MOST`` classes at most."""
    _, first = np.unique(labels, return_index=True)
    return np.sort(first)[:MOST]
