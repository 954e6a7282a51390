"""Runs with a cache: their names, their costs, and the images of every batch, rank and restart."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from models.errors import InputError
from stitch import Allocation, SharedPrefix
from stitch.runs import build
from stitch.runs.generate import sample_missing
from stitch.runs.grouped import groups
from stitch.runs.records import ResultStore
from stitch.runs.shards import folder_digest, open_folder
from tests import ROOT
from tests.commands import compose, refusal

SMALL = [
    "allocation.denoisers=[DiT-S,DiT-B]", "sampler.steps=8", "num_images=12", "batch_size=2",
    "shard_size=4", "cache=forecast",
]  # fmt: skip


def create(*overrides):
    config = compose("sample", *overrides)
    return build.create(config, build.load_zoo(config, torch.device("cpu")))


def test_a_cache_is_in_the_run_and_no_cache_is_not():
    cached = create("cache=forecast", "cache.interval=4")
    assert cached.settings["cache"] == {"interval": 4, "order": 1, "warmup": 2}
    assert create("cache=deep").settings["cache"] == {"interval": 3, "order": 0, "warmup": 1}
    uncached = create()
    assert "cache" not in uncached.settings
    assert create("cache=forecast", "cache.interval=1").id == uncached.id
    others = [create("cache=deep"), create("cache=forecast", "cache.interval=4", "cache.order=2")]
    assert len({run.id for run in (cached, uncached, *others)}) == 4
    assert len({run.timing_key for run in (cached, uncached, *others)}) == 4
    assert len({run.prefix_key for run in (cached, uncached, *others)}) == 4


def test_a_shipped_record_is_found_by_the_run_that_it_was_made_of():
    store = ResultStore(ROOT / "docs" / "fashion" / "records")
    path = store.folder / "00399281c1955d68.json"
    record = json.loads(path.read_text())
    run = create(
        "allocation=runs", "allocation.runs=DiT-S*6+DiT-B*14", "sampler.steps=20",
        "guidance.scale=2", "precision=bf16", "num_images=2000",
    )  # fmt: skip
    assert run.settings == record["run"]
    assert store.path(run.settings, record["protocol"]) == path
    assert run.cost().items() <= record["cost"].items()


@pytest.mark.parametrize(
    "overrides, full, forecast",
    [
        # Of ten steps those numbered 0, 1, 4, 7.
        (["allocation.small=0"], {"DiT-B": 8}, {"DiT-B": 12}),
        (["allocation.small=0", "guidance.scale=1"], {"DiT-B": 4}, {"DiT-B": 6}),
        # 0, 1; 3, 4, 7.
        (["allocation.small=0.3"], {"DiT-S": 4, "DiT-B": 6}, {"DiT-S": 2, "DiT-B": 8}),
        # 0, 1; 3, 4; 6, 7, and of the guide 3, 4 of three.
        (
            ["allocation.small=0", "guidance=autoguidance", "guidance.steps=[3,6]"],
            {"DiT-B": 6, "DiT-S": 2},
            {"DiT-B": 4, "DiT-S": 1},
        ),
    ],
)
def test_the_cost_counts_evaluations_and_forecasts_by_themselves(overrides, full, forecast):
    run = create(*SMALL, "sampler.steps=10", *overrides)
    macs = sum(count * run.zoo.macs(name) for name, count in full.items())
    macs += sum(count * run.zoo.reuse_macs(name) for name, count in forecast.items())
    nfe, forecasts = sum(full.values()), sum(forecast.values())
    assert run.cost() == {"nfe": nfe, "macs_per_image": macs, "forecasts": forecasts}
    assert {name: run.networks.count(name) for name in run.networks} == full


def test_runs_with_a_cache_are_sampled_alone():
    shares = [f"allocation.small={share}" for share in (0, 0.5, 1)]
    runs = [
        create(*SMALL, share, cache)
        for cache in ("cache=forecast", "cache=none")
        for share in shares
    ]
    assert sorted(map(len, groups(runs))) == [1, 1, 1, 3]


def test_a_batch_does_not_depend_on_what_was_made_before_it():
    run = create(*SMALL, "allocation.small=0.25")
    first, _ = run.images(range(2, 4))
    run.images(range(2))
    again, _ = run.images(range(2, 4))
    fresh, _ = create(*SMALL, "allocation.small=0.25").images(range(2, 4))
    assert np.array_equal(first, again) and np.array_equal(first, fresh)
    uncached, _ = create(*SMALL, "allocation.small=0.25", "cache=none").images(range(2, 4))
    assert not np.array_equal(first, uncached)
    with pytest.raises(InputError, match="cannot be combined with a cache"):
        run.images(range(2), [SharedPrefix()])


@pytest.mark.usefixtures("one_thread")
def test_two_processes_and_a_restart_make_the_images_of_one(tmp_path):
    run = create(*SMALL, f"samples={tmp_path / 'one'}")
    sample_missing(run)
    expected = folder_digest(run.samples, 12)
    run.samples.shard_path(1).unlink()
    assert sample_missing(run) == 4
    assert folder_digest(run.samples, 12) == expected
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    result = subprocess.run(
        [sys.executable, "-m", *launcher, "scripts.sample", *SMALL, f"samples={tmp_path / 'two'}"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert folder_digest(open_folder(tmp_path / "two"), 12) == expected


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["cache=forecast", "cache.interval=0"], "cache.interval=0 must be a whole number, 1 or"),
        (["cache=forecast", "cache.order=0"], "cache.order=0 must be a whole number, 1 or more"),
        (["cache=forecast", "cache.warmup=0"], "cache.warmup=0 must be a whole number, 1 or more"),
        (["cache=forecast", "cache.interval=51"], "cache.interval=51 must be at most the 50 steps"),
        (["cache=forecast", "cache.order=51"], "cache.order=51 must be at most the 50 steps"),
        (["cache=forecast", "cache.warmup=51"], "cache.warmup=51 must be at most the 50 steps"),
        (["cache=deep", "cache.order=1"], "'cache.order'. known: interval"),
        (["cache=fora"], "Available options in 'cache': deep forecast none"),
        (["cache=3"], "cache=3: cache is a group of settings; choose one of deep, forecast, none"),
    ],
)
def test_a_cache_that_does_not_fit_is_one_line(overrides, message, tmp_path):
    assert message in refusal("sample", *overrides, f"runs={tmp_path}")
    assert not list(tmp_path.iterdir())


def test_the_cache_is_told_the_denoisers_that_are_called():
    run = create(*SMALL, "allocation.small=0.5")
    assert run.allocation == Allocation.parse("DiT-S*4+DiT-B*4")
    guided = {name: (name, name) for name in ("DiT-S", "DiT-B")}
    reused = {name: (f"forecast of {name}",) * 2 for name in guided}
    small, large = ([guided[n], guided[n], reused[n], reused[n]] for n in guided)
    assert run.calls == small + large
