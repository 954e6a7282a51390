"""The one module that knows of processes and devices: torchrun, ranks, gloo and nccl.

Every helper is a no-op or returns 0 / 1 in a single process.
"""

import atexit
import logging
import os
import subprocess
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def start() -> torch.device:
    """Join torchrun's process group if there is one; return this process's device.

    nccl on GPUs, gloo on CPUs. Ranks may wait long for one another: shards differ in length.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=24))
        atexit.register(dist.destroy_process_group)
        if not is_main():
            logging.disable(logging.INFO)  # one rank's messages are enough
    return device


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def from_main(function: Callable[[], T]) -> T:
    """What ``function`` gives the main rank, for all; the others do not call it."""
    if not dist.is_initialized():
        return function()
    value = [function() if is_main() else None]
    dist.broadcast_object_list(value, src=0)
    return value[0]


def gather(rows: Tensor, counts: Sequence[int]) -> Tensor | None:
    """The rows of all ranks in the order of ranks, for the main one; None for the others.

    Args:
        rows: (counts[rank], ...) on the CPU.
        counts: how many each rank has, the main one at least one.
    """
    if not dist.is_initialized():
        return rows
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    if not is_main():
        if len(rows):
            dist.send(rows.to(device), 0)
        return None
    parts = [rows]
    for source, count in enumerate(counts):
        if source > 0 and count > 0:
            part = torch.empty((count, *rows.shape[1:]), dtype=rows.dtype, device=device)
            dist.recv(part, source)
            parts.append(part.cpu())
    return torch.cat(parts)


def dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type of the networks: ``fp32``, ``bf16``, or ``auto``, bf16 where hardware multiplies it.

    Raises:
        ValueError: for another name.
    """
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0)
        else:
            native = torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    names = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision not in names:
        raise ValueError(f"precision={precision} is unknown; known: auto, {', '.join(names)}")
    return names[precision]


def device_name(device: torch.device) -> str:
    """What one process computes on, for records and figures."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = "CPU"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        model = names[0] if names else model
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}"


def commit() -> str:
    """The commit of the code, with a mark if files differ from it."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
