"""Timing to rely on: things in turn, medians and spread, and what they were measured on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from scripts import launch

BUSY = 0.5  # load average, beside what is measured, from which times are not to be relied on


def in_turn(
    tasks: Mapping[str, Callable[[], object]], repetitions: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every task, ``repetitions`` times; one of each in turn, after one to warm up.

    In turn, so that whatever slows the machine for a while slows all alike.
    """
    seconds = {name: [] for name in tasks}
    for repetition in range(-1, repetitions):
        for name, task in tasks.items():
            _, taken = timed(task, device)
            if repetition >= 0:
                seconds[name].append(taken)
    return seconds


def timed(task: Callable[[], object], device: torch.device) -> tuple[object, float]:
    """What ``task`` returns, and the seconds until the device has finished it."""
    synchronise(device)
    started = time.perf_counter()
    result = task()
    synchronise(device)
    return result, time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and fastest in milliseconds, and the spread: (slowest - fastest) / median."""
    median = statistics.median(seconds)
    return {
        "median_ms": 1000 * median,
        "fastest_ms": 1000 * min(seconds),
        "spread": (max(seconds) - min(seconds)) / median,
    }


def matmul(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], object], int]:
    """A square matrix product of the size that a device does fastest, and its operations."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    return lambda: a @ b, 2 * side**3


def machine(device: torch.device) -> dict:
    """What is measured on, and how busy it is with other things."""
    return {
        "device": launch.device_name(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": launch.commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
