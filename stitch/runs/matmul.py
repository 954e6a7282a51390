"""The rate of matrix products that a device sustains: what networks are measured against."""

import functools
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import linear

from models.bf16 import emulated
from models.cost import macs

SUSTAINED = 0.1  # seconds for which a rate has to be held


def timed(task: Callable[[], object], device: torch.device) -> tuple[object, float]:
    """What ``task`` returns, and the seconds until the device has finished it."""
    synchronise(device)
    started = time.perf_counter()
    result = task()
    synchronise(device)
    return result, time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def products(dtype: torch.dtype, device: torch.device) -> list[tuple[Callable[[], object], int]]:
    """Square matrix products of sizes that devices do fast, and the operations of each.

    Where a zoo's networks multiply in float32 instead of bf16, so do these.
    """
    if emulated(torch.empty(0, dtype=dtype, device=device)):
        dtype = torch.float32
    sides = (4096, 8192, 16384) if device.type != "cpu" else (1024, 2048, 3072)
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


@functools.cache
def rate(dtype: torch.dtype, device: torch.device) -> float:
    """The rate on a device, measured once, in a second or a few."""
    return sustained_rate(products(dtype, device), 1, device)


def training_peak(denoiser: nn.Module, dtype: torch.dtype, device: torch.device) -> float:
    """Images per second that a training of ``denoiser`` would see at the rate of matrix products.

    An image takes three times the products of a forward, as backward takes twice as many.
    """
    return rate(dtype, device) / (3 * 2 * macs(denoiser))
