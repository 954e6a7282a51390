"""The device and the precision of one process."""

import ctypes
import os
import sys

import torch

from models.errors import InputError
from stitch.runs import distributed


def start() -> torch.device:
    """Prepare this process to compute, as a rank of torchrun or Slurm if it is one.

    Returns:
        The device of this process.

    Raises:
        InputError: if there are more processes than GPUs on this machine.
    """
    distributed.join_submitit()
    _keep_memory()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {local_rank} of this machine has no GPU: there are "
                f"{torch.cuda.device_count()}; start at most as many with --nproc-per-node"
            )
        torch.cuda.set_device(device)
    distributed.join("nccl" if device.type == "cuda" else "gloo")
    return device


def _keep_memory() -> None:
    """Let glibc keep freed memory for the next tensors instead of giving it back.

    By default it maps every large tensor anew, and the kernel clears it page by page, which took
    6 % of a compiled DiT-S/2's time and 25 % of decoding the fashion zoo's latents. It changes
    nothing outside Linux.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
            libc.mallopt(mmap_max, 0)
            libc.mallopt(trim_threshold, 2**31 - 1)


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type of the networks: a name in ``PRECISIONS``, or ``auto``: bf16 where it is native.

    It is native on CUDA 8.0 and later and on CPUs that multiply bf16 (AVX512-BF16, AMX); other CPUs
    run bf16 slowly.

    Raises:
        InputError: for an unknown name, or a type that the device cannot multiply.
    """
    if precision not in ("auto", *PRECISIONS):
        raise InputError(
            f"precision={precision} is unknown; known: {', '.join(['auto', *PRECISIONS])}"
        )
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        native = capability >= (8, 0)
        if precision == "bf16" and not native:
            raise InputError(
                f"precision=bf16 needs a GPU of CUDA capability 8.0, {name(device)} has "
                f"{'.'.join(map(str, capability))}; use precision=fp16 or fp32"
            )
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        if precision == "fp16":
            raise InputError("precision=fp16 is for GPUs; use precision=bf16 or fp32 on a CPU")
    if precision == "auto":
        return torch.bfloat16 if native else torch.float32
    return PRECISIONS[precision]


def name(device: torch.device) -> str:
    """The name of a process's device, for records and figures."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = "CPU"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        model = names[0] if names else model
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}"
