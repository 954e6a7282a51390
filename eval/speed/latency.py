"""How long allocations take, and how much memory; and the cost tables of what they consist of.

Two conventions: a batch of 8 images as in the paper, and the time per image of a large batch.
Parameters, storage and peak memory (Table 8) beside them.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from eval.speed import timing
from stitch import SharedPrefix
from stitch.cost import CostTable, candidates
from stitch.runs import build, devices, memory, provenance, text2image
from stitch.runs.pipeline import Pipeline
from stitch.runs.run import Run
from stitch.runs.text2image import TextRun
from stitch.runs.warmup import prepare

PAPER_BATCH = 8


def allocations(config: DictConfig, zoo) -> list[Run]:
    """The runs to be measured: those that ``allocations`` lists, or every fraction."""
    wanted = config.allocations
    if wanted is None:
        names = config.allocation.denoisers or zoo.default_denoisers
        steps = len(build.create(build.unsampled(config), zoo).sampler.timesteps)
        wanted = [str(one) for one in candidates(names, config.resolution, steps)]
    return [build.create(with_allocation(config, text), zoo) for text in wanted]


def shares(config: DictConfig, pipeline: Pipeline) -> list[TextRun]:
    """The runs of a pipeline to be measured: every share of its first denoiser in ``shares``."""
    return [
        text2image.create(OmegaConf.merge(build.unsampled(config), {"shares": share}), pipeline)
        for share in config.shares
    ]


def with_allocation(config: DictConfig, runs: str) -> DictConfig:
    """``config`` with the allocation in run-length form, ``DiT-S*8+DiT-XL*12``."""
    allocation = {"rule": "runs", "runs": runs}
    return OmegaConf.merge(
        build.unsampled(config), {"allocation": None}, {"allocation": allocation}
    )


def setting(config: DictConfig, points: Sequence[Run | TextRun]) -> dict:
    """What all points of a measurement have in common, as plain data."""
    run = points[0]
    card = {place: v for one in points for place, v in one.settings.get("card", {}).items()}
    return {
        "zoo": run.zoo.name,
        "sampler": run.settings["sampler"],
        "guidance": run.settings["guidance"],
        "dtype": run.settings["dtype"],
        "decoder": run.zoo.decoder,
        "compile": config.compile,
        "batch_size": config.batch_size,
        "device": devices.name(run.zoo.device),
        **{
            name: value
            for name, value in run.settings.items()
            if name in ("quantisation", "cache", "size", "call", "class", "slot")
        },
        **({"card": card} if card else {}),
    }


def measure(config: DictConfig, points: Sequence[Run | TextRun]) -> dict:
    """Latencies of every run, as plain data.

    Repetitions are interleaved, a round over all points after the other, so that what else happens
    on the machine hits all alike. Medians, with the fastest and the slowest beside them.

    Args:
        config: ``configs/latency.yaml``, composed: the setting, ``batch_size`` (the large one),
            ``repetitions`` after ``warm_up`` rounds, ``memory``.
        points: what to measure, such as ``allocations(config, zoo)``.
    """
    sizes = dict.fromkeys([PAPER_BATCH, config.batch_size])
    peaks = {}
    if config.memory and isinstance(points[0], Run):
        # First, while this process has little memory itself.
        networks = {frozenset(run.networks): run for run in reversed(points)}
        for key, run in tqdm(networks.items(), desc="memory", unit="process", leave=False):
            peaks[key] = peak_memory(with_allocation(config, str(run.allocation)))
    sized = {
        (number, size): run.one_batch(size) for number, run in enumerate(points) for size in sizes
    }
    for run in sized.values():
        prepare(run)
    tasks = {key: lambda r=run: r.images(range(r.batch_size)) for key, run in sized.items()}
    device = points[0].zoo.device
    seconds = timing.in_turn(tasks, config.repetitions, device, config.warm_up)
    return {
        **setting(config, points),
        "repetitions": config.repetitions,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "commit": provenance.commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "points": [
            {
                "allocation": str(run.allocation),
                **run.cost(),
                **_spread("ms_per_8_images", seconds[number, PAPER_BATCH], 1),
                **_spread("ms_per_image", seconds[number, config.batch_size], config.batch_size),
                **size_of(run),
                **peaks.get(frozenset(run.networks), {}),
            }
            for number, run in enumerate(points)
        ],
    }


def _spread(name: str, seconds: list[float], images: int) -> dict[str, float]:
    milliseconds = sorted(1000 * value / images for value in seconds)
    return {
        name: round(statistics.median(milliseconds), 4),
        f"{name}_fastest": round(milliseconds[0], 4),
        f"{name}_slowest": round(milliseconds[-1], 4),
    }


def size_of(run: Run) -> dict[str, int]:
    """Parameters of a run's denoisers, and bytes of the files they come from."""
    names = dict.fromkeys(run.networks)
    return {
        "params": sum(p.numel() for n in names for p in run.zoo.skeleton(n).parameters()),
        "storage_bytes": sum(run.zoo.checkpoint(n).stat().st_size for n in names),
    }


def peak_memory(config: DictConfig) -> dict[str, float]:
    """Peak memory of a process that does nothing but sample 8 images, MB of 10^6 bytes."""
    return memory.alone(_peak_memory, OmegaConf.to_container(config))


def _peak_memory(config: dict) -> dict[str, float]:
    settings = OmegaConf.create(config)
    device = devices.start(settings.device)
    run = build.create(settings, build.load_zoo(settings, device)).one_batch(PAPER_BATCH)
    run.images(range(PAPER_BATCH))
    return memory.peak_mb(device)


@torch.no_grad()
def measure_costs(config: DictConfig, points: Sequence[Run], batch: int) -> CostTable:
    """The cost table of the steps that ``points`` are made of, measured at one batch size.

    Args:
        config: has ``repetitions``.
        points: runs that differ in their allocations only.
    """
    points = [run.one_batch(batch) for run in points]
    for run in points:
        prepare(run)
    indices, examples = range(batch), {}  # calls of a step -> a run, number of the step
    for run in points:
        for number, step in enumerate(run.calls):
            examples.setdefault(step, (run, number))
    cheapest = min(points, key=lambda run: run.cost()["macs_per_image"])
    device = cheapest.zoo.device
    x = torch.randn(batch, *cheapest.zoo.specs[cheapest.networks[0]].latent_shape).to(device)
    uncached, prefix = dataclasses.replace(cheapest, cache=None), SharedPrefix()
    # From the second walk on every prediction is known: what is left is all but the denoisers.
    tasks = {(): lambda: uncached.images(indices, [prefix])}
    for step, (run, number) in examples.items():
        denoise = run.denoise(indices)
        if step != run.evaluations[number]:
            # The first forecast of its kind: what precedes it are the evaluations to warm up.
            for before in range(number - run.cache.warmup, number):
                denoise(x, before)
        tasks[step] = lambda d=denoise, n=number: d(x, n)
    seconds = timing.in_turn(tasks, config.repetitions, device)
    medians = {step: statistics.median(values) for step, values in seconds.items()}
    facts = {
        "device": devices.name(cheapest.zoo.device),
        "repetitions": config.repetitions,
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return CostTable(batch, {k: v for k, v in medians.items() if k}, medians[()], facts)


def table(result: dict) -> list[str]:
    """A measurement as lines of text; the speed-up is against the slowest allocation."""
    points = result["points"]
    peaks = [point.get("peak_allocated_mb", point.get("peak_rss_mb")) for point in points]
    slowest = max(point["ms_per_8_images"] for point in points)
    width = max(len(point["allocation"]) for point in points)
    head = f"{'allocation':{width}} {'ms / 8 images':>14} {'fastest - slowest':>20} "
    head += f"{'speed-up':>9} {'ms / image':>11} {'M params':>9} {'MB stored':>10}"
    lines = [f"{head} {'peak MB':>8}" if any(peaks) else head]
    for point, peak in zip(points, peaks, strict=True):
        spread = f"{point['ms_per_8_images_fastest']:.1f} - {point['ms_per_8_images_slowest']:.1f}"
        lines.append(
            f"{point['allocation']:{width}} {point['ms_per_8_images']:14.1f} {spread:>20} "
            f"{slowest / point['ms_per_8_images']:8.2f}x {point['ms_per_image']:11.2f} "
            f"{point['params'] / 1e6:9.2f} {point['storage_bytes'] / 1e6:10.2f}"
            f"{f' {peak:8.0f}' if peak else ''}"
        )
    lines.append(
        f"batch {result['batch_size']} for ms / image, {result['dtype']}"
        f"{', compiled' if result['compile'] else ''}, {result['device']}, "
        f"median of {result['repetitions']}, load {result['load']:.1f}"
    )
    return lines
