"""The one module that knows of processes and devices: torchrun, ranks, gloo and nccl.

Every helper is a no-op or returns 0 / 1 in a single process.
"""

import atexit
import contextlib
import ctypes
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from models.errors import InputError

T = TypeVar("T")

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again


def start() -> torch.device:
    """Join the process group of torchrun, or of a Slurm job, if there is one.

    nccl on GPUs, gloo on CPUs. Ranks may wait long for one another: points of a sweep differ.

    Returns:
        The device of this process.

    Raises:
        InputError: if there are more processes than GPUs on this machine.
    """
    _join_submitit()
    _keep_memory()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {local_rank} of this machine has no GPU, there are "
                f"{torch.cuda.device_count()}; start at most as many with --nproc-per-node"
            )
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        store, rank_, size = next(dist.rendezvous("env://"))
        # torchrun's restarts share one store: ranks must not find addresses of those before them.
        attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}-of-{size}"
        store = dist.PrefixStore(attempt, store)
        dist.init_process_group(
            backend, store=store, rank=rank_, world_size=size, timeout=timedelta(hours=24)
        )
        atexit.register(dist.destroy_process_group)
        if not is_main():
            logging.disable(logging.INFO)  # one rank's messages are enough
    return device


def _keep_memory() -> None:
    """Let glibc keep freed memory for the next tensors instead of giving it back.

    By default it maps every large tensor anew, and the kernel clears it page by page, which took
    6 % of a compiled DiT-S/2's time and 25 % of decoding the fashion zoo's latents. Elsewhere than
    on Linux nothing is changed.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
            libc.mallopt(mmap_max, 0)
            libc.mallopt(trim_threshold, 2**31 - 1)


def _join_submitit() -> None:
    """Make the tasks of a job of hydra-submitit-launcher the ranks that torchrun would start."""
    if "SUBMITIT_EXECUTOR" not in os.environ or "RANK" in os.environ:
        return
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if JobEnvironment().num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """A block that SIGTERM (torchrun, Slurm) and SIGINT ask to end instead of ending it.

    It gets a function that tells whether one has come; a second one acts at once. After the block
    the process exits with ``EXIT_INTERRUPTED``. SIGUSR2 belongs to whoever handles it, as submitit
    does to put a preempted job back into the queue: it gets the signal when the block has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals are the main thread's
        return
    received = []

    def note(number: int, _) -> None:
        signal.signal(number, before[number])
        received.append(signal.Signals(number))

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if callable(signal.getsignal(signal.SIGUSR2)):
        before[signal.SIGUSR2] = signal.getsignal(signal.SIGUSR2)
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        print(
            f"rank {rank()}: {received[0].name} received, finished batches are stored; "
            "the same command goes on",
            file=sys.stderr,
        )
        if signal.SIGUSR2 in received:
            signal.raise_signal(signal.SIGUSR2)
            sys.exit(0)  # another task puts the job back; Slurm may end it if this one fails
        sys.exit(EXIT_INTERRUPTED)


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


def from_all(value: T) -> list[T]:
    """The values of all ranks, in their order, for all."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


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


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type of the networks: a name in ``PRECISIONS``, or ``auto``: bf16 where it is native.

    Native are CUDA 8.0 and later, and CPUs that multiply bf16 (AVX512-BF16, AMX); other CPUs run
    bf16 slowly.

    Raises:
        InputError: for another name, or a type that the device cannot multiply.
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
                f"precision=bf16 needs a GPU of CUDA capability 8.0, {device_name(device)} has "
                f"{'.'.join(map(str, capability))}; use precision=fp16 or fp32"
            )
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        if precision == "fp16":
            raise InputError("precision=fp16 is for GPUs; use precision=bf16 or fp32 on a CPU")
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


@functools.cache
def commit() -> str:
    """The commit of the code, with the mark ``-dirty`` if files differed from it at the first call.

    What lies under docs/ does not count: it comes out of the code and does not go into it, and
    writing one result there must not mark the next.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        differing = git("status", "--porcelain", "--", ".", ":(exclude)docs")
        return git("describe", "--always", "--abbrev=12") + ("-dirty" if differing else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
