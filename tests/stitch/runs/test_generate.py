"""Batches of a run, one after the other or the next one launched ahead: the same images."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from models import load_zoo
from stitch import transfer
from stitch.runs import build, generate
from stitch.runs.generate import batches
from stitch.runs.grouped import Sharing, groups
from stitch.runs.records import ResultStore
from stitch.runs.shards import open_folder
from tests.commands import compose

CPU = torch.device("cpu")
FEW = ["sampler.steps=3", "batch_size=2", "shard_size=8", "num_images=8"]


def create(folder, *overrides):
    config = compose("sample", *FEW, f"runs={folder}", *overrides)
    return build.create(config, build.load_zoo(config, CPU))


@pytest.fixture
def as_a_gpu(monkeypatch):
    """Batches are launched ahead, as on a GPU."""
    gpu = torch.device("cuda")
    monkeypatch.setattr(generate, "ahead", lambda launched, _: transfer.ahead(launched, gpu))


def images_of(made) -> tuple[list[range], np.ndarray, list[int]]:
    ranges, images, labels = zip(*made, strict=True)
    return list(ranges), np.concatenate(images), [label for part in labels for label in part]


def test_launching_ahead_changes_nothing_to_the_bit(tmp_path, request):
    run = create(tmp_path)
    expected = images_of(batches(run, range(1, 7)))
    request.getfixturevalue("as_a_gpu")
    found = images_of(batches(run, range(1, 7)))
    assert expected[0] == found[0] == [range(1, 2), range(2, 4), range(4, 6), range(6, 7)]
    assert np.array_equal(expected[1], found[1]) and expected[2] == found[2]


def test_shared_beginnings_are_counted_alike_when_batches_are_launched_ahead(tmp_path, request):
    runs = [create(tmp_path, f"allocation.small={share}") for share in (0.34, 0.67, 1)]
    (group,) = groups(runs)

    def shared():
        sharing = Sharing(group)
        sharing.begin()
        images = [images_of(sharing.batches(run, range(8)))[1] for run in group]
        return images, sharing.counts()

    expected, counts = shared()
    request.getfixturevalue("as_a_gpu")
    found, counts_ahead = shared()
    assert all(map(np.array_equal, expected, found))
    assert counts == counts_ahead and counts["saved"] > 0
    assert counts["made"] + counts["saved"] == 8 * sum(len(run.networks) for run in group)


def test_a_run_that_is_guided_from_a_noise_level_on_is_sampled_and_recorded(tmp_path):
    interval = "guidance.log_snr=[-inf,0]"
    assert generate.sample_missing(create(tmp_path, interval)) == 8
    run = create(tmp_path, interval)  # its folder is there
    assert generate.sample_missing(run) == 0
    store = ResultStore(tmp_path / "records")
    store.add({"run": run.settings, "protocol": {}, "metrics": {}, "cost": run.cost()})
    assert store.get(run.settings, {})["run"] == open_folder(run.samples.path).run == run.settings


def test_what_is_not_finite_is_found_when_its_batch_is_waited_for(tmp_path, as_a_gpu):
    run = create(tmp_path, "allocation.small=1")
    zoo = load_zoo("fashion")
    denoiser = zoo.denoisers["DiT-S"]
    healthy, calls = denoiser.forward, []

    @functools.wraps(healthy)
    def forward(x, *arguments):
        calls.append(len(x))
        output = healthy(x, *arguments)
        return output * math.nan if 3 < len(calls) <= 6 or len(calls) > 9 else output

    # The second of three batches, and so it is when it is walked again, to name the step.
    denoiser.forward = forward
    made = batches(dataclasses.replace(run, zoo=zoo), range(6))
    assert next(made)[0] == range(2)
    assert len(calls) == 6  # the second batch was launched before the first was handed over
    with pytest.raises(FloatingPointError, match=r"DiT-S at step 0 .* for images \[2, 3\]"):
        next(made)


@pytest.mark.parametrize("images, batch, rows", [(3, 8, [3]), (5, 2, [2, 2, 2])])
def test_a_compiled_run_computes_full_batches_and_none_larger_than_itself(
    tmp_path, images, batch, rows
):
    sizes = [f"num_images={images}", f"batch_size={batch}"]
    run = create(tmp_path, "allocation.small=1", "guidance.scale=1", *sizes)
    zoo, seen = load_zoo("fashion"), []
    network = zoo.denoisers["DiT-S"]
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    expected = images_of(batches(run, range(images)))
    compiled = dataclasses.replace(run, zoo=zoo, compile=True)
    found = images_of(batches(compiled, range(images)))
    assert seen[::3] == rows  # of the first step of every batch
    assert np.abs(found[1].astype(int) - expected[1]).max() <= 1  # rounding
    assert found[2] == expected[2]
