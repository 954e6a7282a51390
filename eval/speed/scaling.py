"""Images a second of one process and of several, as ``scripts.sample`` makes them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from models.errors import InputError
from models.zoo import ROOT
from stitch.runs.shards import open_folder

# Settings of the bench that scripts.sample does not have.
_OURS = {
    "bench", "denoisers", "variants", "fractions", "peers", "processes", "repetitions", "results",
    "features", "metrics", "num_images", "samples",
}  # fmt: skip


def scaling(config: DictConfig, device: torch.device) -> list[dict]:
    """Samples ``num_images`` with every number of processes, as often as there are repetitions.

    Raises:
        InputError: if there are fewer shards than processes, or a run fails.
    """
    shards = config.num_images // config.shard_size
    if shards < max(config.processes):
        raise InputError(
            f"num_images={config.num_images} are {shards} shards of {config.shard_size}, too few "
            f"for processes={list(config.processes)}; lower shard_size and batch_size"
        )
    rates = {number: [] for number in config.processes}
    for _ in range(config.repetitions):
        for number, found in rates.items():
            found.append(images_per_second(config, number))
    rows = []
    for number, found in rates.items():
        median = sorted(found)[len(found) // 2]
        rows.append(
            {
                "processes": number,
                "images_per_s": median,
                "spread": (max(found) - min(found)) / median,
                "speed_up": median / sorted(rates[config.processes[0]])[len(found) // 2],
                "hours_for_50k": 50_000 / median / 3600,
            }
        )
    return rows


def images_per_second(config: DictConfig, processes: int) -> float:
    """Of ``processes`` processes together, without their start; from the times of the shards."""
    settings = [
        setting
        for setting in HydraConfig.get().overrides.task
        if setting.lstrip("+").split("=")[0].split(".")[0] not in _OURS
    ]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m"]
        if processes > 1:
            command += ["torch.distributed.run", "--standalone"]
            command += [f"--nproc-per-node={processes}", "-m"]
        command += ["scripts.sample", *settings, f"precision={config.precision}"]
        command += [f"samples={folder}/samples", f"num_images={config.num_images}"]
        threads = max(1, (os.cpu_count() or 1) // max(config.processes))
        result = subprocess.run(
            command,
            cwd=ROOT,
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise InputError(f"{processes} processes failed: {result.stderr.strip()[-300:]}")
        timings = open_folder(Path(folder) / "samples").timings()
    return processes * sum(t["images"] for t in timings) / sum(t["seconds"] for t in timings)
