"""The one module that knows of other processes: torchrun, ranks, gloo and nccl.

Every helper is a no-op or returns 0 / 1 in a single process.
"""

import atexit
import gc
import logging
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn  # imported later, its functions' defaults would hold the group for good
from torch import Tensor

T = TypeVar("T")


def join(device: torch.device) -> None:
    """Join the process group of torchrun, or of a Slurm job, if there is one.

    Time-outs are long, as the points of a sweep differ in length.

    Args:
        device: of this process. Its type decides what carries messages: ``nccl``, ``xccl`` or, on
            CPUs and Apple GPUs, ``gloo``.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        return
    store, rank_, size = next(dist.rendezvous("env://"))
    # torchrun's restarts share one store: ranks must not find their predecessors' addresses.
    attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}-of-{size}"
    store = dist.PrefixStore(attempt, store)
    dist.init_process_group(
        dist.get_default_backend_for_device(device),
        store=store,
        rank=rank_,
        world_size=size,
        timeout=timedelta(hours=24),
    )
    atexit.register(_leave)
    if not is_main():
        logging.disable(logging.INFO)  # one rank's messages are enough


def _leave() -> None:
    """Leave the process group while Python still runs.

    Threads of gloo that are left when Python ends can abort it. They live as long as what holds the
    group, such as a DistributedDataParallel in a reference cycle.
    """
    gc.collect()
    dist.destroy_process_group()


def join_submitit() -> None:
    """Turn the tasks of a hydra-submitit-launcher job into ranks, as torchrun would start them."""
    if "SUBMITIT_EXECUTOR" not in os.environ or "RANK" in os.environ:
        return
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if JobEnvironment().num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


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
    """The main rank's result of ``function``, on all ranks; the others do not call it."""
    if not dist.is_initialized():
        return function()
    value = [function() if is_main() else None]
    dist.broadcast_object_list(value, src=0)
    return value[0]


def from_all(value: T) -> list[T]:
    """The values of all ranks, in rank order, on all ranks."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def gather(rows: Tensor, counts: Sequence[int]) -> Tensor | None:
    """The rows of all ranks in rank order, on the main rank; None on the others.

    Args:
        rows: (counts[rank], ...) on the CPU.
        counts: the number of rows of each rank; the main rank has at least one.
    """
    if not dist.is_initialized():
        return rows
    on_host = dist.get_backend() == "gloo"
    device = "cpu" if on_host else torch.accelerator.current_accelerator()
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
