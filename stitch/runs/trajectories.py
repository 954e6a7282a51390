"""Recorded trajectories: the states of a few images after every step, for Figures 3 and 11."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.files import write_atomically
from stitch.runs import distributed, provenance
from stitch.runs.records import content_hash
from stitch.runs.run import Run


def path_of(run: Run, runs: str | Path) -> Path:
    """The file of the trajectory of a run's first ``num_images`` images."""
    name = content_hash({"run": run.settings, "num_images": run.num_images})
    return Path(runs) / "trajectories" / f"{name}.npz"


def make(run: Run, runs: str | Path) -> Path:
    """Sample a run's first images again, on the main rank, and store every state."""
    path = path_of(run, runs)
    if distributed.is_main() and not path.is_file():
        states: list[torch.Tensor] = []
        with tqdm(desc=str(run.allocation), total=len(run.allocation.steps), unit="step") as bar:

            def keep(x: torch.Tensor, **_) -> None:
                states.append(x.float().cpu())
                bar.update()

            run.walk(range(run.num_images), keep)
        about = {"run": run.settings, "num_images": run.num_images}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            states=torch.stack(states).numpy(),
            timesteps=np.array(run.sampler.timesteps),
            run=np.array(json.dumps(about)),
            commit=np.array(provenance.commit()),
        )
        write_atomically(path, buffer.getvalue())
    distributed.barrier()
    return path


def load(run: Run, runs: str | Path) -> tuple[torch.Tensor, list[float]] | None:
    """(S, B, C, H, W) states after the S steps and the steps' timesteps; None if not recorded."""
    path = path_of(run, runs)
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        return torch.from_numpy(file["states"]), file["timesteps"].tolist()
