"""batch_size=auto: chosen once, noted in the folder, and kept whatever would be chosen later."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import models
from models.cost import _LiveBytes, activation_bytes
from stitch.runs import batch_size, build, memory
from stitch.runs.batch_size import largest_divisor
from stitch.runs.shards import ShardError, ShardFolder
from tests.commands import compose, refusal, run
from tests.stitch.runs.test_shards import RUN

CPU = torch.device("cpu")


@pytest.fixture
def fits(monkeypatch):
    """How many images fit; to be set with ``fits.images``."""
    found = SimpleNamespace(images=100, asked=[])

    def fitting(zoo, probe):
        found.asked.append(probe)
        return found.images

    monkeypatch.setattr(batch_size, "fitting", fitting)
    return found


def create(folder, *overrides, probe=True):
    words = ["batch_size=auto", "shard_size=60", f"runs={folder}", *overrides]
    config = compose("sample", *words)
    return build.create(config, build.load_zoo(config, CPU), probe=probe)


def noted(run) -> int | None:
    return json.loads((run.samples.path / "run.json").read_text()).get("batch_size")


@pytest.mark.parametrize(
    "of, most, divisor",
    [(500, 10**6, 500), (500, 499, 250), (500, 99, 50), (512, 100, 64), (7, 6, 1), (60, 0, 1),
     (60, -5, 1)],
)  # fmt: skip
def test_it_is_the_largest_divisor_of_the_shard_that_fits(of, most, divisor):
    assert largest_divisor(of, most) == divisor


def test_it_is_noted_at_the_first_start_and_kept(tmp_path, fits):
    fits.images = 25
    run = create(tmp_path)
    assert run.batch_size == 20 and not run.samples.path.exists()
    run.samples.mark(100)
    assert noted(run) == 20
    fits.images = 60  # another card
    again = create(tmp_path)
    assert again.batch_size == 20 and fits.asked == [True]  # it was not asked again
    again.samples.mark(200)
    assert noted(again) == 20


def test_a_size_that_is_given_is_taken_and_leaves_the_note(tmp_path, fits):
    create(tmp_path).samples.mark(10)
    run = create(tmp_path, "batch_size=15")
    assert run.batch_size == 15
    run.samples.mark(500)
    assert noted(run) == 60 and run.samples.count() == 500
    assert create(tmp_path).batch_size == 60


def test_a_folder_that_was_begun_with_a_size_that_was_given_gets_a_note(tmp_path, fits):
    given = create(tmp_path, "batch_size=15")
    given.samples.mark(10)
    assert noted(given) is None
    create(tmp_path).samples.mark(10)
    assert noted(given) == 60


def test_of_two_that_choose_differently_at_once_the_second_has_to_start_again(tmp_path):
    first, second = (ShardFolder(tmp_path, RUN, 12, size) for size in (4, 6))
    first.mark(12)
    with pytest.raises(ShardError, match="batch_size=4 just now, this process chose 6; start it"):
        second.mark(12)


def test_a_plan_measures_nothing(tmp_path, fits):
    assert create(tmp_path, probe=False).batch_size == 60
    assert fits.asked == [False]


def test_runs_that_differ_in_their_allocation_are_of_one_size(tmp_path, fits):
    runs = [create(tmp_path, f"allocation.small={share}") for share in (0, 0.5, 1)]
    assert len({run.prefix_key for run in runs}) == 1


def small_zoo():
    """A zoo whose largest denoiser is DiT-S; not the one that other tests have asked."""
    zoo = models.load_zoo("fashion")
    zoo.specs = {"DiT-S": zoo.specs["DiT-S"]}
    return zoo


@pytest.mark.parametrize("megabytes, images", [(8000, batch_size.ON_CPU), (10, None)])
def test_a_cpu_computes_what_fits_but_no_more_than_is_fast(monkeypatch, megabytes, images):
    monkeypatch.setattr(memory, "free_bytes", lambda device: megabytes * 10**6)
    zoo = small_zoo()
    fit = batch_size.fitting(zoo, True)
    assert fit == images if images else 0 < fit < batch_size.ON_CPU
    skeleton = zoo.skeleton("DiT-S")
    weights = sum(parameter.nbytes for parameter in skeleton.parameters())
    assert weights + 2 * fit * activation_bytes(skeleton) < megabytes * 10**6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # processes that share the memory
    each = weights + 2 * batch_size.fitting(small_zoo(), True) * activation_bytes(skeleton)
    assert 4 * each < megabytes * 10**6


def test_a_probe_measures_how_memory_grows_with_every_image(monkeypatch):
    def peak_during(function, device):
        with _LiveBytes() as live:
            function()
        return live.peak + 12345  # what does not grow

    monkeypatch.setattr(memory, "counts_peaks", lambda device: True)
    monkeypatch.setattr(memory, "peak_during", peak_during)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**9)
    zoo = small_zoo()
    counted = batch_size._probed(zoo, "DiT-S")
    # Guidance doubles the rows. Attention on a CPU does not store the scores that are estimated.
    assert 0.5 < counted / (2 * activation_bytes(zoo.skeleton("DiT-S"))) < 1.1
    assert batch_size.fitting(zoo, True) == batch_size.ON_CPU
    monkeypatch.setattr(batch_size, "ON_CPU", 10**9)
    measured, estimated = batch_size.fitting(small_zoo(), True), batch_size.fitting(zoo, False)
    assert measured == pytest.approx(
        estimated * 2 * activation_bytes(zoo.skeleton("DiT-S")) / counted, rel=0.01
    )


def test_sampling_goes_on_in_the_noted_size(tmp_path, monkeypatch):
    words = ["sampler.steps=2", "shard_size=4", "labels=[0]", f"samples={tmp_path}/samples"]
    seen = []
    monkeypatch.setattr(batch_size, "fitting", lambda zoo, probe: 2)
    assert run("sample", *words, "batch_size=auto", "num_images=6")[0] == 0
    monkeypatch.setattr(batch_size, "fitting", lambda zoo, probe: seen.append(zoo))
    assert run("sample", *words, "batch_size=auto", "num_images=8")[0] == 0
    assert seen == []
    folder = ShardFolder(tmp_path / "samples", read_run(tmp_path / "samples"), 4)
    assert {timing["batch_size"] for timing in folder.timings()} == {2}
    assert np.concatenate([images for images, _ in folder.batches(8)]).shape == (8, 28, 28, 1)


def read_run(path) -> dict:
    return json.loads((path / "run.json").read_text())["run"]


@pytest.mark.parametrize("command", ["bench", "latency", "plan", "timesteps"])
def test_what_measures_speed_wants_a_number(command):
    budget = ["budget=1s"] if command == "plan" else []
    assert "batch_size=auto must be a whole number" in refusal(command, "batch_size=auto", *budget)
