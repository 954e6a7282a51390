"""The one module that knows of processes and devices: torchrun, ranks, gloo and nccl.

Every helper is a no-op or returns 0 / 1 in a single process.
"""

import atexit
import logging
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist


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


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type of the networks: a name in ``PRECISIONS``, or ``auto``: bf16 where it is native.

    Native are CUDA 8.0 and later, and CPUs that multiply bf16 (AVX512-BF16, AMX); other CPUs run
    bf16 slowly.

    Raises:
        ValueError: for another name, or a type that the device cannot multiply.
    """
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(
            f"precision={precision} is unknown; known: {', '.join(['auto', *PRECISIONS])}"
        )
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        native = capability >= (8, 0)
        if precision == "bf16" and not native:
            raise ValueError(
                f"precision=bf16 needs a GPU of CUDA capability 8.0, {device_name(device)} has "
                f"{'.'.join(map(str, capability))}; use precision=fp16 or fp32"
            )
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        if precision == "fp16":
            raise ValueError("precision=fp16 is for GPUs; use precision=bf16 or fp32 on a CPU")
    if precision == "auto":
        return torch.bfloat16 if native else torch.float32
    return PRECISIONS[precision]


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
