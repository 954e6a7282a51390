"""Runs that are sampled together: one that fails is left where it is, the others go on."""

import errno
import json
import shutil
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from stitch.runs.grouped import groups, sample_together
from stitch.runs.shards import ShardFolder
from tests import ROOT
from tests.stitch.runs.ranks import context
from tests.stitch.runs.test_generate import create

PATIENCE = 60  # seconds in which ranks that do not hang have ended


def group_of(folder: Path, *overrides):
    """Runs of DiT-S alone and with DiT-XL, by their allocations."""
    made = [create(folder, f"allocation.small={share}", *overrides) for share in (1, 0.34)]
    (group,) = groups(made)
    return group, {str(run.allocation): run for run in group}


def rank_of_two(folder: Path, rank: int) -> None:
    """The second rank cannot write to the folder of one run."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2,
        timeout=timedelta(seconds=PATIENCE // 2),
    )  # fmt: skip
    group, runs = group_of(folder)
    mark = ShardFolder.mark

    def marked(samples: ShardFolder, num_images: int) -> None:
        if rank == 1 and samples is runs["DiT-S*1+DiT-XL*2"].samples:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        mark(samples, num_images)

    ShardFolder.mark = marked
    failures, _ = sample_together(group)
    (folder / f"failures-{rank}.json").write_text(json.dumps(failures))
    dist.destroy_process_group()


def test_a_run_that_fails_on_one_rank_fails_on_all_and_the_others_go_on(tmp_path):
    ranks = [context.Process(target=rank_of_two, args=(tmp_path, rank)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(PATIENCE)
    hanging = [process for process in ranks if process.exitcode is None]
    for process in hanging:
        process.kill()
    assert not hanging and [process.exitcode for process in ranks] == [0, 0]
    _, runs = group_of(tmp_path)
    failed, other = runs["DiT-S*1+DiT-XL*2"], runs["DiT-S*3"]
    for rank in (0, 1):
        failures = json.loads((tmp_path / f"failures-{rank}.json").read_text())
        assert failures == {failed.id: f"OSError: [Errno {errno.EDQUOT}] Disk quota exceeded"}
    assert other.samples.lacking(8) == [] and failed.samples.lacking(8) == [0]


def test_a_run_whose_weights_cannot_be_loaded_fails_and_the_others_go_on(tmp_path):
    folder = shutil.copytree(ROOT / "checkpoints" / "fashion", tmp_path / "checkpoints")
    group, runs = group_of(tmp_path, f"zoo.checkpoints={folder}")
    file = folder / "DiT-XL.safetensors"
    file.write_bytes(file.read_bytes()[:1000])  # after the run was planned
    failures, _ = sample_together(group)
    failed, other = runs["DiT-S*1+DiT-XL*2"], runs["DiT-S*3"]
    assert failures.keys() == {failed.id} and "DiT-XL.safetensors" in failures[failed.id]
    assert other.samples.lacking(8) == [] and failed.samples.lacking(8) == [0]
