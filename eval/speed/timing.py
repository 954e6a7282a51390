"""Timing to rely on: things in turn, medians and spread, and what they were measured on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch.nn.functional import linear
from tqdm import tqdm

from models.errors import InputError
from stitch.runs import devices, provenance

SUSTAINED = 0.1  # seconds for which a rate has to be held
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


def products(dtype: torch.dtype, device: torch.device) -> list[tuple[Callable[[], object], int]]:
    """Square matrix products of sizes that devices do fast, and the operations of each."""
    sides = (4096, 8192, 16384) if device.type == "cuda" else (1024, 2048, 3072)
    pairs = [torch.randn(2, side, side, device=device).to(dtype) for side in sides]
    return [(lambda a=a, b=b: linear(a, b), 2 * len(a) ** 3) for a, b in pairs]


def sustained_rate(
    products: Sequence[tuple[Callable[[], object], int]], repetitions: int, device: torch.device
) -> float:
    """The most operations per second that one of ``products`` sustains.

    That is the best of all of them and of all repetitions, each going on for ``SUSTAINED`` seconds:
    once is not enough, the first products on some machines take several times as long.

    Args:
        products: see there.
    """
    best = 0.0
    for product, operations in products:
        product()
        for _ in range(repetitions):
            count, seconds = 0, 0.0
            while seconds < SUSTAINED:
                seconds += timed(product, device)[1]
                count += 1
            best = max(best, count * operations / seconds)
    return best


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
