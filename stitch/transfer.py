"""Copies between host and device, made while the host goes on."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# Devices that copy from and to pinned memory by themselves. Apple's (mps) is not one: what torch
# copies there without blocking may be read after it was freed (pytorch issues 139550 and 189690).
_ASYNCHRONOUS = ("cuda", "xpu")


def is_asynchronous(device: torch.device) -> bool:
    """Whether copies to and from ``device`` need not be waited for."""
    return device.type in _ASYNCHRONOUS


def onto(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``, there as soon as the device needs it."""
    if is_asynchronous(device):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Arriving:
    """A tensor on its way from a device to the host.

    Args:
        tensor: on the device, maybe not computed yet. It may be changed or freed afterwards by what
            the same stream does later.
    """

    def __init__(self, tensor: Tensor):
        self._event = None
        if is_asynchronous(tensor.device):
            self._host = tensor.to("cpu", non_blocking=True)  # pinned
            self._event = torch.Event(tensor.device)
            self._event.record()
        else:
            self._host = tensor.cpu()

    def wait(self) -> Tensor:
        """The tensor on the host, when it has arrived; out of pinned memory, which is scarce."""
        if self._event is None:
            return self._host
        self._event.synchronize()
        return self._host.clone()


def ahead(launched: Iterable[T], device: torch.device) -> Iterator[T]:
    """What is ``launched`` on a device, each handed over when the next one is launched, too.

    So the device has work while the host waits for the results of the one before. A device that
    makes the host wait for its copies gains nothing by that: nothing is launched ahead there.
    """
    if not is_asynchronous(device):
        yield from launched
        return
    waiting: list[T] = []
    for one in launched:
        yield from waiting
        waiting = [one]
    yield from waiting
