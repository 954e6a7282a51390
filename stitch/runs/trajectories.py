"""Recorded trajectories: the states of a few images after every step, for Figures 3 and 11."""

import io
import json
from pathlib import Path

import numpy as np
import torch

from eval.results import content_hash
from models.checkpoint import write_atomically
from scripts import job as jobs
from scripts import launch
from stitch import sample


def path_of(job: jobs.Job, runs: str | Path) -> Path:
    """Where the trajectory of a run's first ``num_images`` images is."""
    name = content_hash({"run": job.run, "num_images": job.num_images})
    return Path(runs) / "trajectories" / f"{name}.npz"


def make(job: jobs.Job, runs: str | Path) -> Path:
    """Sample a run's first images once more, by the first rank, and store every state."""
    path = path_of(job, runs)
    if launch.is_main() and not path.is_file():
        states: list[torch.Tensor] = []
        indices = range(job.num_images)
        sample(
            job.zoo,
            job.sampler,
            job.allocation,
            job.labels(indices),
            seed=job.run["seed"],
            indices=indices,
            guidance=job.guidance,
            alignment=job.alignment,
            callback=lambda x, **_: states.append(x.float().cpu()),
        )
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            states=torch.stack(states).numpy(),
            timesteps=np.array(job.sampler.timesteps),
            run=np.array(json.dumps({"run": job.run, "num_images": job.num_images})),
            commit=np.array(launch.commit()),
        )
        write_atomically(path, buffer.getvalue())
    launch.barrier()
    return path


def load(job: jobs.Job, runs: str | Path) -> tuple[torch.Tensor, list[float]] | None:
    """(S, B, C, H, W) states after the S steps and the steps' timesteps; None if not recorded."""
    path = path_of(job, runs)
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        return torch.from_numpy(file["states"]), file["timesteps"].tolist()
