"""Training: resuming, several processes, and what a finished network leaves behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from tests import ROOT
from tests.idx import write_stripes

# One thread: sums are then added in one order, which bit-exact resuming needs.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
OVERRIDES = [
    "zoo=fashion",
    "zoo.denoisers.DiT-S.width=16",
    "zoo.denoisers.DiT-S.depth=1",
    "zoo.first_stage.block_out_channels=[8,8,8]",
    "zoo.classifier.widths=[4,4,4]",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of a small data set."""
    return write_stripes(tmp_path_factory.mktemp("idx"))


def command(data, runs, recipe, *overrides, processes=None):
    launcher = [sys.executable, "-m"]
    if processes:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [
        *launcher, "scripts.train", *OVERRIDES, f"train=fashion/{recipe}", f"data.root={data}",
        f"runs={runs}", f"export={exported(runs)}", *overrides,
    ]  # fmt: skip


def exported(runs):
    return runs / "exported"


def run(*arguments, **options):
    return subprocess.run(
        command(*arguments, **options), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )


def train(*arguments, **options):
    result = run(*arguments, **options)
    assert result.returncode == 0, result.stderr
    return result


def weights(runs, name):
    return load_file(exported(runs) / f"{name}.safetensors")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Runs folder with a first stage and a DiT-S trained without interruption."""
    runs = tmp_path_factory.mktemp("runs")
    train(data, runs, "first-stage", "train.images=32", "train.batch_size=8")
    train(data, runs, "DiT-S", "train.images=960", "train.batch_size=16")
    return runs


def test_a_provenance_record_lies_beside_the_weights(trained):
    record = json.loads((exported(trained) / "DiT-S.json").read_text())
    assert record["images_seen"] == 60 * 16
    assert record["recipe"]["images"] == 60 * 16
    assert record.keys() >= {"sha256", "network", "data_sha256", "first_stage_sha256"}
    (part,) = record["parts"]
    assert part["images"] == 960
    assert part.keys() >= {"device", "recipe.batch_size", "seconds", "torch", "commit"}
    assert 0 < record["results"]["mse"] < 2


def test_a_finished_network_is_not_trained_again(data, trained):
    result = train(data, trained, "DiT-S", "train.images=960", "train.batch_size=16")
    assert "is finished" in result.stdout


def test_a_network_of_another_recipe_is_not_overwritten(data, trained):
    before = weights(trained, "DiT-S")
    result = run(data, trained, "DiT-S", "train.images=960", "train.seed=1")
    assert result.returncode == 2
    assert "recipe.seed is 0 there and 1 here" in result.stderr
    after = weights(trained, "DiT-S")
    assert all(before[name].equal(after[name]) for name in before)


def with_first_stage(trained, runs):
    """A fresh runs folder that holds the trained first stage."""
    export = exported(runs)
    export.mkdir(parents=True)
    for suffix in ("safetensors", "json"):
        name = f"first-stage.{suffix}"
        shutil.copy(exported(trained) / name, export / name)
    return runs


def test_a_preview_learns_the_latents_and_images_of_the_first_stage(data, trained, tmp_path):
    runs = with_first_stage(trained, tmp_path)
    train(data, runs, "preview", "train.images=320", "train.batch_size=16", "train.warmup_steps=1")
    before, after = (
        json.loads((exported(runs) / f"{name}.json").read_text())
        for name in ("first-stage", "preview")
    )
    assert after["images_seen"] == 320
    # The first stage saw 32 images and is poor; 20 steps of the preview already beat it.
    assert after["results"]["test_psnr_db"] > before["results"]["test_psnr_db"]


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -9), (signal.SIGTERM, 75)])
def test_training_that_was_killed_continues_bit_exactly(number, code, data, trained, tmp_path):
    runs = with_first_stage(trained, tmp_path)
    arguments = (
        data, runs, "DiT-S", "train.images=960", "train.batch_size=16", "checkpoint_seconds=0",
    )  # fmt: skip
    state = runs / "train" / "fashion" / "DiT-S" / "last.pt"
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait() == code
    assert not (exported(runs) / "DiT-S.json").exists()

    result = train(*arguments)
    assert "continuing at" in result.stdout
    whole, resumed = weights(trained, "DiT-S"), weights(runs, "DiT-S")
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_two_processes_train_what_one_does_up_to_rounding(data, trained, tmp_path):
    """The two compute their halves of every batch in pieces of 3 images."""
    runs = [with_first_stage(trained, tmp_path / name) for name in ("one", "two")]
    for folder, processes, pieces in zip(runs, (None, 2), ("null", 3), strict=True):
        arguments = ("DiT-S", "train.images=80", "train.batch_size=16", "train.warmup_steps=1")
        train(data, folder, *arguments, f"micro_batch={pieces}", processes=processes)
    one, two = (weights(folder, "DiT-S") for folder in runs)
    # Stored as float16: one unit in the last place of a weight near 0.5 is 0.0005.
    assert one.keys() == two.keys()
    assert all((one[name] - two[name]).abs().max() < 1e-3 for name in one)


def test_missing_data_is_an_error_that_names_the_ways_to_get_it(tmp_path):
    result = run(tmp_path / "nothing", tmp_path, "classifier")
    assert result.returncode == 2
    assert "data.root=FOLDER" in result.stderr
    assert "data.download=true" in result.stderr
