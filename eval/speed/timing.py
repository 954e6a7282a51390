"""Timing to rely on: things in turn, medians and spread, and what they were measured on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping

import torch
from tqdm import tqdm

from models.errors import InputError
from stitch.runs import devices, provenance
from stitch.runs.matmul import synchronise, timed

WOBBLE = 0.1  # spread from which times are not to be relied on
BUSY = 0.5  # load average, beside what is measured, from which times are not to be relied on


def in_turn(
    tasks: Mapping[Hashable, Callable[[], object]],
    repetitions: int,
    device: torch.device,
    warm_up: int = 1,
) -> dict[Hashable, list[float]]:
    """Seconds of every task, ``repetitions`` times; one of each in turn, after some to warm up.

    In turn, so that whatever slows the machine for a while slows all alike.
    """
    seconds = {name: [] for name in tasks}
    rounds = tqdm(
        range(-warm_up, repetitions), desc=f"{len(tasks)} tasks", unit="round", leave=False
    )
    for repetition in rounds:
        for name, task in tasks.items():
            _, taken = timed(task, device)
            if repetition >= 0:
                seconds[name].append(taken)
    return seconds


class Stopwatch:
    """The seconds that a device spends in some blocks of code.

    An accelerator is asked by events that it passes, for which the host does not wait: measured is
    what is done when nobody measures.
    """

    def __init__(self, device: torch.device):
        self.device, self._marks = device, []

    def __enter__(self) -> None:
        self._marks.append([self._mark()])

    def __exit__(self, *error) -> None:
        self._marks[-1].append(self._mark())

    def _mark(self) -> float | torch.Event:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self.device, enable_timing=True)
        event.record()
        return event

    def seconds(self) -> float:
        """Of all blocks so far; waits until the device has finished them."""
        if self.device.type == "cpu":
            return sum(end - start for start, end in self._marks)
        synchronise(self.device)
        return sum(start.elapsed_time(end) for start, end in self._marks) / 1000


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and fastest in milliseconds, and the spread: (slowest - fastest) / median."""
    median = statistics.median(seconds)
    return {
        "median_ms": 1000 * median,
        "fastest_ms": 1000 * min(seconds),
        "spread": (max(seconds) - min(seconds)) / median,
    }


def share(what: str, reached: float, rate: float) -> float:
    """``reached`` operations per second as a share of the ``rate`` of matrix products.

    Raises:
        InputError: for more than all of it: something slowed the products and not the networks.
    """
    if reached > rate:
        raise InputError(
            f"{what} reached {reached / 1e9:,.0f} GFLOP/s, matrix products before and after it "
            f"only {rate / 1e9:,.0f}: this machine is not idle; measure again when it is, or with "
            "more repetitions"
        )
    return reached / rate


def machine(device: torch.device) -> dict:
    """What is measured on, and how busy it is with other things."""
    return {
        "device": devices.name(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": provenance.commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
