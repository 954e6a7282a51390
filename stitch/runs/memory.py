"""Free memory, the batch size that fits it, and peak memory."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

import models
from models.cost import activation_bytes

T = TypeVar("T")


def fitting(zoo: models.Zoo, name: str, dtype: torch.dtype, kept: int = 0) -> int:
    """A batch size of a denoiser that certainly fits into the free memory.

    Attention scores are counted, although fused attention does not store them, and so are weights
    that may be there already: more may fit.

    Args:
        kept: how many results of its expensive part a cache keeps.
    """
    skeleton = zoo.skeleton(name).to(dtype)
    weights = sum(parameter.nbytes for parameter in skeleton.parameters())
    return max(0, free_bytes(zoo.device) - weights) // activation_bytes(skeleton, kept)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device."""
    # By the device's own module: in torch 2.11, torch.accelerator cannot ask Apple GPUs.
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if device.type != "cpu":
        return torch.get_device_module(device).mem_get_info(device)[0]
    pages = "SC_AVPHYS_PAGES"
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as file:
            available = [line for line in file if line.startswith("MemAvailable")]
        if available:
            return 1024 * int(available[0].split()[1])
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") if pages in os.sysconf_names else 2**63


def counts_peaks(device: torch.device) -> bool:
    """Whether torch knows the peak of what it has allocated on a device."""
    module = torch.get_device_module(device)
    return device.type != "cpu" and hasattr(module, "max_memory_allocated")


def peak_during(function: Callable[[], object], device: torch.device) -> int:
    """Peak of the bytes allocated on a device that ``counts_peaks``, while ``function`` runs."""
    torch.get_device_module(device).reset_peak_memory_stats(device)
    function()
    return torch.get_device_module(device).max_memory_allocated(device)


def release(device: torch.device) -> None:
    """Give back to the device what torch holds of its memory without using it."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def alone(function: Callable[..., T], *arguments) -> T:
    """What ``function`` returns in a process of its own, whose memory nothing else has used."""
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches the child as well: it ends without a traceback, the parent reports.
    quiet = (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(1, context, signal.signal, quiet) as pool:
        return pool.submit(function, *arguments).result()


def forget_peak() -> None:
    """Reset ``peak_mb`` to what this process has now; Linux only."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def peak_mb(device: torch.device) -> dict[str, float]:
    """Peak memory of this process so far, in MB of 10^6 bytes.

    ``peak_rss_mb`` on the host and, on a GPU that counts it, ``peak_allocated_mb``.
    """
    peak = {"peak_rss_mb": _peak_rss_mb()}
    if counts_peaks(device):
        module = torch.get_device_module(device)
        peak["peak_allocated_mb"] = module.max_memory_allocated(device) / 1e6
    return peak


def _peak_rss_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage includes the process that it was forked from
        line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
