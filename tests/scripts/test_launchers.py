"""Points of a sweep as Slurm jobs, jobs of this machine, or processes."""

import json
import os
import subprocess
import sys

import hydra
import pytest
from omegaconf import OmegaConf
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from scripts.cli import CONFIGS
from tests import ROOT


def launcher(*overrides) -> dict:
    with hydra.initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        config = hydra.compose("sweep", [*overrides], return_hydra_config=True)
    return OmegaConf.to_container(config.hydra.launcher, resolve=False)


@pytest.mark.parametrize(
    "name, target",
    [
        ("slurm", "submitit_launcher.SlurmLauncher"),
        ("local", "submitit_launcher.LocalLauncher"),
        ("joblib", "joblib_launcher.JoblibLauncher"),
    ],
)
def test_every_launcher_composes(name, target):
    assert launcher(f"launcher={name}")["_target_"].endswith(target)


def test_a_slurm_job_has_the_nodes_and_tasks_asked_for_and_goes_back_into_the_queue(tmp_path):
    with hydra.initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        config = hydra.compose(
            "sweep",
            ["launcher=slurm", "hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=4"],
            return_hydra_config=True,
        )
    config.hydra.job.name = "sweep"
    settings = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    equivalents = SlurmExecutor._equivalence_dict()
    own = {"_target_", "submitit_folder", "max_num_timeout"}
    parameters = {
        equivalents.get(name, name): value
        for name, value in settings.items()
        if name not in own and value is not None
    }
    parameters.pop("mem_gb", None)
    script = _make_sbatch_string(command="true", folder=tmp_path, **parameters)
    lines = script.splitlines()
    for option in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "requeue", "time=1440"):
        assert f"#SBATCH --{option}" in lines
    assert any("--signal=USR2@120" in line for line in lines)


def test_a_point_runs_as_a_job_of_two_ranks(tmp_path):
    overrides = [
        "-m", "launcher=local", "hydra.launcher.tasks_per_node=2", f"runs={tmp_path}",
        "sampler.steps=2", "num_images=20", "batch_size=5", "shard_size=5", "allocation.small=1",
    ]  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-m", "scripts.sweep", *overrides],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (record,) = (tmp_path / "records").glob("*.json")
    assert json.loads(record.read_text())["protocol"]["num_images"] == 20
    logs = "".join(path.read_text() for path in tmp_path.glob("slurm/*/*_log.out"))
    assert "global_rank=0(2)" in logs and "global_rank=1(2)" in logs
    # One rank alone says what was made.
    assert logs.count("ms/image") == 1
