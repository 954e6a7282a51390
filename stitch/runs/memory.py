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

    Attention scores are counted, although fused attention does not store them: more may fit.

    Args:
        kept: how many results of its expensive part a cache keeps.
    """
    return free_bytes(zoo.device) // activation_bytes(zoo.skeleton(name).to(dtype), kept)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    pages = "SC_AVPHYS_PAGES"
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as file:
            available = [line for line in file if line.startswith("MemAvailable")]
        if available:
            return 1024 * int(available[0].split()[1])
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") if pages in os.sysconf_names else 2**63


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

    ``peak_rss_mb`` on the host and, on a GPU, ``peak_allocated_mb``.
    """
    peak = {"peak_rss_mb": _peak_rss_mb()}
    if device.type == "cuda":
        peak["peak_allocated_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return peak


def _peak_rss_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage includes the process that it was forked from
        line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
