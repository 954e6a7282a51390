"""Where the time of a network call goes, operator by operator."""

import re
import time
from collections import Counter

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from stitch.runs.matmul import synchronise

LISTED = 12


def kernel_names() -> None:
    """Have fused kernels that are compiled from now on show up by their names.

    A cache that has them from before is not asked: their names are part of its key.
    """
    from torch._inductor import config

    config.cpp.enable_kernel_profile = True


def operators(
    network: nn.Module, inputs: tuple[Tensor, ...], repetitions: int, device: torch.device
) -> list[dict]:
    """Operators by the share of a call that is spent in them, and what is left between them.

    Args:
        network: called once before, so that nothing is compiled any more.
    """
    kinds = {"cuda": ProfilerActivity.CUDA, "xpu": ProfilerActivity.XPU}  # of GPUs with a profiler
    on_gpu = device.type in kinds
    activities = [ProfilerActivity.CPU, *([kinds[device.type]] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        started = time.perf_counter()
        for _ in range(repetitions):
            network(*inputs)
        synchronise(device)
        total = 1e3 * (time.perf_counter() - started)
    milliseconds, calls = Counter(), Counter()
    for event in profiler.key_averages():
        taken = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if taken > 0:
            milliseconds[readable(event.key)] += taken / 1e3
            calls[readable(event.key)] += event.count
    rows = [(name, calls[name], taken) for name, taken in milliseconds.most_common(LISTED)]
    rest = sum(milliseconds.values()) - sum(taken for _, _, taken in rows)
    rows += [("other operators", None, rest), ("between", None, total - sum(milliseconds.values()))]
    return [
        {
            "operator": name,
            "calls": "" if count is None else count / repetitions,
            "ms": taken / repetitions,
            "share": taken / total,
        }
        for name, count, taken in rows
    ]


def readable(kernel: str) -> str:
    """The name of a fused kernel without the numbers that tell it from others of the kind."""
    fused = re.fullmatch(r"(?:graph_\d+_)?(?:kernel_)?cpp_fused_(.+?)(?:_\d+)?", kernel)
    return "fused " + fused[1].strip("_") if fused else kernel
