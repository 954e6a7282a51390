"""Measure how long allocations take: ``python -m scripts.latency zoo=fashion sampler.steps=20``.

Two conventions: a batch of 8 images as in the paper, and the time per image of a large batch.
Parameters, storage and peak memory (Table 8) beside them. Written to ``RUNS/latency``.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import dataclasses
import json
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from eval.results import content_hash
from models.checkpoint import write_atomically
from samplers.noise import random_embedding
from scripts import job as jobs
from scripts import launch, memory
from scripts.cli import command
from scripts.provenance import refuse_unclean
from scripts.sample import prepare, sample_batch
from stitch import SharedPrefix, Trajectory
from stitch.cost import CostTable, candidates

log = logging.getLogger("latency")

PAPER_BATCH = 8


@command("latency")
def main(config: DictConfig) -> None:
    refuse_unclean("runs", config.runs)
    device = launch.start()
    points = allocations(config, jobs.load_zoo(config, device))
    measured = {
        **setting(config, points[0]),
        "allocations": [str(job.allocation) for job in points],
    }
    path = Path(config.runs) / "latency" / f"{content_hash(measured)}.json"
    result = measure(config, points)
    write_atomically(path, (json.dumps(result, indent=2) + "\n").encode())
    for line in table(result):
        log.info("%s", line)
    log.info("%s", path)


def allocations(config: DictConfig, zoo) -> list[jobs.Job]:
    """The runs to be measured: those that ``allocations`` lists, or every fraction."""
    wanted = config.allocations
    if wanted is None:
        names = config.allocation.denoisers or zoo.default_denoisers
        steps = len(jobs.create(unsampled(config), zoo).sampler.timesteps)
        wanted = [str(one) for one in candidates(names, config.resolution, steps)]
    return [jobs.create(with_allocation(config, text), zoo) for text in wanted]


def with_allocation(config: DictConfig, runs: str) -> DictConfig:
    """``config`` with the allocation in run-length form, ``DiT-S*8+DiT-XL*12``."""
    allocation = {"rule": "runs", "runs": runs}
    return OmegaConf.merge(unsampled(config), {"allocation": None}, {"allocation": allocation})


def unsampled(config: DictConfig) -> DictConfig:
    """``config`` for what stores no samples, and does not mind how those that are there were."""
    settings = OmegaConf.to_container(config, resolve=True)
    return OmegaConf.create({**settings, "samples": str(Path(config.runs) / "unsampled")})


def setting(config: DictConfig, job: jobs.Job) -> dict:
    """What all points of a measurement have in common, as plain data."""
    return {
        "zoo": job.zoo.name,
        "sampler": job.run["sampler"],
        "guidance": job.run["guidance"],
        "dtype": job.run["dtype"],
        "quantisation": job.run["quantisation"],
        "decoder": job.zoo.decoder,
        "compile": config.compile,
        "batch_size": config.batch_size,
        "device": launch.device_name(job.zoo.device),
    }


def measure(config: DictConfig, points: Sequence[jobs.Job]) -> dict:
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
    if config.memory:  # first, while this process has little memory itself
        for job in points:
            key = frozenset(job.networks)
            if key not in peaks:
                peaks[key] = peak_memory(with_allocation(config, str(job.allocation)))
    sized = {
        (number, size): dataclasses.replace(job, batch_size=size)
        for number, job in enumerate(points)
        for size in sizes
    }
    for job in sized.values():
        prepare(job)
    seconds: dict[tuple[int, int], list[float]] = {}
    rounds = [i >= config.warm_up for i in range(config.warm_up + config.repetitions)]
    for counts in tqdm(rounds, desc=f"{len(points)} allocations", unit="round"):
        for key, job in sized.items():
            taken = timed(lambda job=job: sample_batch(job, range(job.batch_size)))
            if counts:
                seconds.setdefault(key, []).append(taken)
    return {
        **setting(config, points[0]),
        "repetitions": config.repetitions,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "commit": launch.commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "points": [
            {
                "allocation": str(job.allocation),
                **job.cost(),
                **_spread("ms_per_8_images", seconds[number, PAPER_BATCH], 1),
                **_spread("ms_per_image", seconds[number, config.batch_size], config.batch_size),
                **size_of(job),
                **peaks.get(frozenset(job.networks), {}),
            }
            for number, job in enumerate(points)
        ],
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes; it ends with its result on the host or is waited for."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _spread(name: str, seconds: list[float], images: int) -> dict[str, float]:
    milliseconds = sorted(1000 * value / images for value in seconds)
    return {
        name: round(statistics.median(milliseconds), 4),
        f"{name}_fastest": round(milliseconds[0], 4),
        f"{name}_slowest": round(milliseconds[-1], 4),
    }


def size_of(job: jobs.Job) -> dict[str, int]:
    """Parameters of a run's denoisers, and bytes of the files they come from."""
    names = dict.fromkeys(job.networks)
    return {
        "params": sum(p.numel() for n in names for p in job.zoo.skeleton(n).parameters()),
        "storage_bytes": sum(job.zoo.checkpoint(n).stat().st_size for n in names),
    }


def peak_memory(config: DictConfig) -> dict[str, float]:
    """Peak memory of a process that does nothing but sample 8 images, MB of 10^6 bytes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_memory, OmegaConf.to_container(config)).result()


def _peak_memory(config: dict) -> dict[str, float]:
    settings = OmegaConf.create(config)
    device = launch.start()
    sample_batch(jobs.create(settings, jobs.load_zoo(settings, device)), range(PAPER_BATCH))
    peak = {"peak_rss_mb": memory.peak_rss_mb()}
    if device.type == "cuda":
        peak["peak_allocated_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return peak


def measure_costs(config: DictConfig, points: Sequence[jobs.Job], batch: int) -> CostTable:
    """The cost table of the steps that ``points`` are made of, measured at one batch size.

    Args:
        config: has ``repetitions``.
        points: runs that differ in their allocations only.
    """
    for job in points:
        prepare(job)
    examples = {}  # the denoisers of a step -> a trajectory and the number of such a step
    for job in points:
        trajectory = _trajectory(job, batch)
        for number, step in enumerate(trajectory.evaluations):
            examples.setdefault(step, (trajectory, number))
    cheapest = min(points, key=lambda job: job.cost()["macs_per_image"])
    x = torch.randn(batch, *cheapest.zoo.specs[cheapest.networks[0]].latent_shape)
    x = x.to(cheapest.zoo.device)
    prefix = SharedPrefix()
    # The second time, every prediction is known: what is left is all but the denoisers.
    work = {(): lambda: sample_batch(cheapest, range(batch), prefix)}
    for step, (trajectory, number) in examples.items():
        work[step] = torch.no_grad()(lambda t=trajectory, n=number: t(x, n))
    seconds = {step: [] for step in work}
    for number in range(config.repetitions + 1):
        for step, function in work.items():
            taken = timed(function)
            if number > 0:  # the first round warms up
                seconds[step].append(taken)
    medians = {step: statistics.median(values) for step, values in seconds.items()}
    facts = {
        "device": launch.device_name(cheapest.zoo.device),
        "repetitions": config.repetitions,
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return CostTable(batch, {k: v for k, v in medians.items() if k}, medians[()], facts)


def _trajectory(job: jobs.Job, batch: int) -> Trajectory:
    labels = torch.tensor(job.labels(range(batch)), device=job.zoo.device)
    return Trajectory(
        job.zoo.denoisers,
        job.allocation,
        job.sampler.timesteps,
        labels,
        job.guidance,
        job.sampler.schedule,
        job.alignment == "log-snr",
        lambda width: random_embedding(0, range(batch), width).to(labels.device),
    )


def table(result: dict) -> list[str]:
    """A measurement as lines of text; the speed-up is against the slowest allocation."""
    points = result["points"]
    slowest = max(point["ms_per_8_images"] for point in points)
    width = max(len(point["allocation"]) for point in points)
    head = f"{'allocation':{width}} {'ms / 8 images':>14} {'fastest - slowest':>20} "
    lines = [
        f"{head}{'speed-up':>9} {'ms / image':>11} {'M params':>9} {'MB stored':>10} {'peak MB':>8}"
    ]
    for point in points:
        spread = f"{point['ms_per_8_images_fastest']:.1f} - {point['ms_per_8_images_slowest']:.1f}"
        peak = point.get("peak_allocated_mb", point.get("peak_rss_mb", float("nan")))
        lines.append(
            f"{point['allocation']:{width}} {point['ms_per_8_images']:14.1f} {spread:>20} "
            f"{slowest / point['ms_per_8_images']:8.2f}x {point['ms_per_image']:11.2f} "
            f"{point['params'] / 1e6:9.2f} {point['storage_bytes'] / 1e6:10.2f} {peak:8.0f}"
        )
    lines.append(
        f"batch {result['batch_size']} for ms / image, {result['dtype']}"
        f"{', compiled' if result['compile'] else ''}, {result['device']}, "
        f"median of {result['repetitions']}, load {result['load']:.1f}"
    )
    return lines


if __name__ == "__main__":
    main()
