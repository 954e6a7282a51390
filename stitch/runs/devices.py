"""The device and the precision of one process."""

import ctypes
import logging
import os
import sys

import torch

from models import bf16
from models.errors import InputError
from stitch.runs import distributed

log = logging.getLogger("devices")


def start(wanted: str = "auto") -> torch.device:
    """Prepare this process to compute, as a rank of torchrun or Slurm if it is one.

    Args:
        wanted: the type of the device, as torch names it; ``auto``: a GPU if there is one.

    Returns:
        The device of this process.

    Raises:
        InputError: if there is no such device, or fewer than processes on this machine.
    """
    distributed.join_submitit()
    _keep_memory()
    device = torch.device(_kind(wanted))
    if device.type != "cpu":
        local_rank, count = int(os.environ.get("LOCAL_RANK", 0)), torch.accelerator.device_count()
        if local_rank >= count:
            raise InputError(
                f"process {local_rank} of this machine has no GPU: there are {count}; start at "
                "most as many with --nproc-per-node"
            )
        device = torch.device(device.type, local_rank)
        torch.accelerator.set_device_index(device)
    distributed.join(device)
    return device


def _kind(wanted: str) -> str:
    """The type of device that ``wanted`` means here."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    here = [*([accelerator.type] if accelerator else []), "cpu"]
    if wanted not in ("auto", *here):
        raise InputError(
            f"device={wanted}, but torch {torch.__version__} finds only {' and '.join(here)} here; "
            f"use device={here[0]} or auto"
        )
    return here[0] if wanted == "auto" else wanted


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

    It is native on CUDA 8.0 and later, on Intel GPUs that say so, and on CPUs that multiply bf16
    (AVX512-BF16, AMX). Apple GPUs get float32: the first of them only emulate bf16, which torch
    does not tell, and float16 lacks the range. (None was at hand.)

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
    elif device.type == "xpu":
        native = torch.xpu.is_bf16_supported(including_emulation=False)
    elif device.type == "mps":
        native = False
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        if precision == "fp16":
            raise InputError("precision=fp16 is for GPUs; use precision=auto or fp32 on a CPU")
    if precision == "auto":
        return torch.bfloat16 if native else torch.float32
    return PRECISIONS[precision]


def warn_of_slow_products(dtype: torch.dtype, device: torch.device) -> None:
    """Warn of bf16 on a CPU without AVX512, for networks that are not a zoo's (``models.bf16``)."""
    slow = dtype == torch.bfloat16 and device.type == "cpu" and not bf16.ONEDNN
    if slow and distributed.is_main():
        log.warning(
            "precision=bf16: this CPU lacks the instructions for it, products take a hundred times "
            "as long as in float32; use precision=fp32 or auto"
        )


def name(device: torch.device) -> str:
    """The name of a process's device, for records and figures."""
    if device.type == "mps":
        return f"{torch.backends.mps.get_name()} GPU"
    if device.type != "cpu":
        return torch.get_device_module(device).get_device_name(device)
    model = "CPU"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        model = names[0] if names else model
    # Of virtual machines the name alone is that of a whole series of unlike CPUs.
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        model += " with AVX2"
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}"
