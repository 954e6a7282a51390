"""Metrics by torch-fidelity and by ours, of the same features: time and memory."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from eval.metrics import frechet_distance, inception_score, moments, precision_recall
from eval.speed import timing
from models.errors import InputError
from stitch.runs import memory

Task = tuple[str, str]  # library, metric
CPU = torch.device("cpu")


def rows(
    sizes: Sequence[Sequence[int]],
    repetitions: int,
    metrics: Sequence[str] | None,
    device: torch.device,
) -> list[dict]:
    """Both libraries' times and memory of the host, for features of every size in turn.

    Args:
        sizes: (samples, references, width) each.
        metrics: those to compare, as their rows are called; None: all.
        device: where the features of precision and recall are; the others are computed on CPUs.

    Raises:
        InputError: for a size that is not three whole numbers, 10 or more, and for an unknown
            metric.
    """
    known = list(dict.fromkeys(what for _, what in tasks((10, 10, 10))))
    unknown = [metric for metric in metrics or () if metric not in known]
    if unknown:
        raise InputError(f"metrics={unknown} is unknown; known: {known}")
    for size in sizes:
        if (
            not isinstance(size, Sequence)
            or len(size) != 3
            or not all(isinstance(n, int) and n >= 10 for n in size)
        ):
            raise InputError(
                f"features={list(sizes)} must list [samples, references, width], whole numbers "
                "of 10 or more, such as [[10000, 10000, 2048]]"
            )
    chosen = metrics or known
    return [row for size in sizes for row in _rows(tuple(size), repetitions, chosen, device)]


def _rows(
    size: tuple[int, int, int], repetitions: int, metrics: Collection[str], device: torch.device
) -> list[dict]:
    work = {task: run for task, run in tasks(size, device).items() if task[1] in metrics}
    peaks = {task: memory.alone(_peak_mb, task, size, device) for task in work}
    seconds = timing.in_turn(work, repetitions, device)
    return [
        {
            "library": library,
            "what": what,
            "samples": size[0],
            "references": size[1],
            "width": size[2],
            **timing.summary(times),
            "peak_mb": peaks[library, what],
        }
        for (library, what), times in seconds.items()
    ]


def tasks(
    size: tuple[int, int, int], device: torch.device = CPU
) -> dict[Task, Callable[[], object]]:
    """(library, metric) -> what computes it of random features of that size."""
    samples, references, width = size
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(samples, width, generator=generator)
    b = torch.randn(references, width, generator=generator)
    logits = torch.randn(samples, 1000, generator=generator)

    there = [features.to(device) for features in (a, b)]
    our_moments = [moments(features) for features in (a, b)]
    their_moments = [fid_features_to_statistics(features) for features in (a, b)]

    def their_fid_of_features() -> object:
        both = [fid_features_to_statistics(features) for features in (a, b)]
        return fid_statistics_to_metric(*both, verbose=False)

    return {
        ("ours", "FID of moments"): lambda: frechet_distance(*our_moments),
        ("torch-fidelity", "FID of moments"): lambda: fid_statistics_to_metric(
            *their_moments, verbose=False
        ),
        ("ours", "FID of features"): lambda: frechet_distance(a, b),
        ("torch-fidelity", "FID of features"): their_fid_of_features,
        ("ours", "Inception Score"): lambda: inception_score(logits.double().softmax(1)),
        ("torch-fidelity", "Inception Score"): lambda: isc_features_to_metric(
            logits, splits=-(-samples // 5000), shuffle=False
        ),
        ("ours", "precision and recall"): lambda: precision_recall(*there),
        ("torch-fidelity", "precision and recall"): lambda: prc_features_to_metric(
            *there, prc_neighborhood=3, save_cpu_ram=True, verbose=False
        ),
    }


def _peak_mb(task: Task, size: tuple[int, int, int], device: torch.device) -> float:
    """Memory of the host that a task needs beside the features, MB of 10^6 bytes."""
    tasks((10, 10, 10), device)[task]()  # what a first call loads is not counted
    work = tasks(size, device)[task]
    memory.forget_peak()
    before = memory.peak_mb(CPU)["peak_rss_mb"]
    work()
    return memory.peak_mb(CPU)["peak_rss_mb"] - before
