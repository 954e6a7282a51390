"""Other weights of a zoo's denoisers: fine-tuned on an interval or on all timesteps, or younger."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file

from models import CheckpointError
from models.errors import InputError
from stitch.runs import build
from tests import commands
from tests.idx import write_stripes

SIZES = [
    "zoo=fashion",
    "zoo.first_stage.block_out_channels=[8,8,8]",
    "zoo.first_stage.file=first-stage",
    *(f"zoo.denoisers.{name}.width=12" for name in ("DiT-S", "DiT-B", "DiT-XL")),
    *(f"zoo.denoisers.{name}.depth=1" for name in ("DiT-S", "DiT-B")),
    "zoo.denoisers.DiT-XL.depth=2",
    "~zoo.stitched",  # between blocks that these do not have
]
FAST = ("++train.warmup_steps=1", "++train.ema_width=0.1")  # so that one step shows in fp16
THIRDS = "train.interval=allocation:DiT-S*50+DiT-B*30+DiT-XL*20"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_stripes(tmp_path_factory.mktemp("idx"))


def arguments(data, folder, *overrides):
    return [
        *SIZES, f"data.root={data}", f"runs={folder}", f"export={folder}", "train.batch_size=16",
        *overrides,
    ]  # fmt: skip


def train(data, folder, *overrides):
    code, _, errors = commands.run("train", *arguments(data, folder, *overrides))
    assert code == 0, errors


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A folder with a first stage, and denoisers after 32 images."""
    folder = tmp_path_factory.mktemp("trained")
    names = "[first-stage,DiT-S,DiT-B,DiT-XL]"
    train(data, folder, f"train.denoisers={names}", "train.images=32")
    return folder


@pytest.fixture(scope="module")
def tuned(data, trained, tmp_path_factory):
    """The same, with the later denoisers of an allocation fine-tuned on their own timesteps."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    chosen = ("train.denoisers=[DiT-B,DiT-XL]", "train.images=16", "train.init=checkpoint", *FAST)
    train(data, folder, THIRDS, *chosen)
    return folder


def weights(folder, name):
    return load_file(folder / f"{name}.safetensors")


def record(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_one_command_fine_tunes_the_denoisers_of_an_allocation_on_their_own_timesteps(
    trained, tuned
):
    for name, interval in (("DiT-B", [200, 500]), ("DiT-XL", [0, 200])):
        made = record(tuned, f"{name}@{interval[0]}-{interval[1] - 1}")
        assert made["recipe"]["interval"] == interval
        assert made["recipe"]["start_from"] == name
        assert made["start_from_sha256"] == record(trained, name)["sha256"]
        assert made["images_seen"] == 16
        assert record(tuned, name) == record(trained, name)
    assert not list(tuned.glob("DiT-S@*"))


def test_it_begins_at_the_weights_that_it_is_tuned_from(tuned):
    """One step of AdamW moves every weight by about the learning rate at most."""
    before, after = weights(tuned, "DiT-XL"), weights(tuned, "DiT-XL@0-199")
    moved = max((before[name] - after[name]).abs().max().item() for name in before)
    assert 0 < moved < 2e-3


def test_without_an_interval_all_timesteps_are_trained_on(data, tuned):
    train(data, tuned, "train=fashion/DiT-XL", "train.init=checkpoint", "train.images=16")
    made = record(tuned, "DiT-XL@all")
    assert "interval" not in made["recipe"]
    assert made["results"] != record(tuned, "DiT-XL@0-199")["results"]


def test_what_was_tuned_goes_on_and_another_recipe_is_refused(data, tuned):
    chosen = ("train=fashion/DiT-B", "train.interval=[200,500]", *FAST, "train.init=checkpoint")
    train(data, tuned, *chosen, "train.images=32")
    assert record(tuned, "DiT-B@200-499")["images_seen"] == 32
    line = commands.refusal("train", *arguments(data, tuned, *chosen, "train.label_dropout=0.2"))
    assert "recipe.label_dropout is 0.1 there and 0.2 here" in line
    line = commands.refusal("train", *arguments(data, tuned, *chosen[:-1]))
    assert "recipe.start_from is DiT-B there and None here" in line


def a_run(folder, allocation, steps=10, planning=False):
    """A run with the weights of a folder."""
    config = commands.compose(
        "sample", *SIZES, f"zoo.checkpoints={folder}", f"runs={folder}", "allocation=runs",
        f"allocation.runs={allocation}", f"sampler.steps={steps}", "num_images=1",
    )  # fmt: skip
    return build.create(config, build.load_zoo(config, torch.device("cpu")), planning)


def test_a_zoo_knows_what_lies_in_its_folder_by_name(tuned):
    run = a_run(tuned, "DiT-S*5+DiT-B@200-499*3+DiT-XL@0-199*2")
    assert {"DiT-B@200-499", "DiT-XL@0-199"} < set(run.zoo.denoisers)
    assert run.zoo.default_denoisers == ["DiT-S", "DiT-B", "DiT-XL"]
    assert run.zoo.macs("DiT-XL@0-199") == run.zoo.macs("DiT-XL")
    assert run.settings["weights"]["DiT-XL@0-199"] == record(tuned, "DiT-XL@0-199")["sha256"]
    images, _ = run.images(range(1))
    assert images.shape == (1, 28, 28, 1)
    # Time is that of the architecture.
    assert run.timing_key == a_run(tuned, "DiT-S*5+DiT-B*3+DiT-XL*2").timing_key
    assert run.id != a_run(tuned, "DiT-S*5+DiT-B*3+DiT-XL*2").id


@pytest.mark.parametrize("steps", [10, 20, 100, 250])
def test_a_run_warns_of_a_denoiser_outside_its_interval_only(steps, tuned, caplog):
    caplog.set_level(logging.WARNING)
    counts = [round(share * steps) for share in (0.5, 0.3, 0.2)]
    names = ("DiT-S", "DiT-B@200-499", "DiT-XL@0-199")
    pairs = [f"{name}*{count}" for name, count in zip(names, counts, strict=True)]
    a_run(tuned, "+".join(pairs), steps)
    assert caplog.text == ""
    a_run(tuned, f"DiT-S*{counts[0]}+DiT-XL@0-199*{counts[1] + counts[2]}", steps)
    text = f"fine-tuned on the timesteps 0 to 199 only; {counts[1]} of its {sum(counts[1:])} steps"
    assert text in caplog.text


def test_a_variant_that_was_not_trained_is_named_with_its_file(tuned):
    with pytest.raises(CheckpointError, match="DiT-B@all are missing: .*DiT-B@all.safetensors"):
        a_run(tuned, "DiT-B@all*10")
    with pytest.raises(InputError, match="unknown denoiser DiT-L@all; known: DiT-S, DiT-B"):
        a_run(tuned, "DiT-L@all*10")


def test_a_record_without_its_weights_is_enough_to_find_what_was_made_with_them(tuned, tmp_path):
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)
    allocation = "DiT-S*8+DiT-XL@0-199*2"
    made = a_run(tmp_path, allocation)
    (tmp_path / "DiT-XL@0-199.safetensors").unlink()
    # Another folder is another zoo, which has not read the weights yet.
    (tmp_path / "copy").symlink_to(tmp_path)
    planned = a_run(tmp_path / "copy", allocation, planning=True)
    assert planned.id == made.id
    with pytest.raises(CheckpointError, match="DiT-XL@0-199 are missing"):
        planned.images(range(1))


def test_a_snapshot_is_the_average_of_that_age(data, trained, tmp_path):
    """A training that ends there gives the same, as nothing depends on what comes."""
    for folder in ("short", "long"):
        (tmp_path / folder).mkdir()
        for suffix in ("json", "safetensors"):
            shutil.copy(trained / f"first-stage.{suffix}", tmp_path / folder)
    constant = ("train=fashion/DiT-S", "train.cooldown=0.1")
    train(data, tmp_path / "short", *constant, "train.images=48")
    long = ("train.images=96", "train.snapshots=[40,96]")
    train(data, tmp_path / "long", *constant, *long)
    short, snapshot = weights(tmp_path / "short", "DiT-S"), weights(tmp_path / "long", "DiT-S@40")
    assert all(short[name].equal(snapshot[name]) for name in short)
    assert record(tmp_path / "long", "DiT-S@40")["images_seen"] == 48
    end, last = weights(tmp_path / "long", "DiT-S"), weights(tmp_path / "long", "DiT-S@96")
    assert all(end[name].equal(last[name]) for name in end)
    assert not all(end[name].equal(snapshot[name]) for name in end)
    line = commands.refusal(
        "train", *arguments(data, tmp_path / "long", *constant, long[0], "train.snapshots=[64,96]")
    )
    assert "64 images have passed, DiT-S has seen 96" in line


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["train.interval=[200,1001]"], r"[200, 1001] must be timesteps with 0 <= low < high <= 1"),
        (["train.interval=[200,200]"], "[200, 200] must be timesteps with 0 <= low < high"),
        (["train.interval=all"], "train.interval=all must be [low, high] or allocation:NAME*"),
        (["train.interval=allocation:DiT-S*2+DiT-B"], "'DiT-B' is not NAME*COUNT"),
        (
            ["train.interval=allocation:DiT-S*2+DiT-B*2"],
            "DiT-XL does not own one stretch of the allocation DiT-S*2+DiT-B*2",
        ),
        (
            ["train.interval=allocation:DiT-XL*1+DiT-B*2+DiT-XL*1"],
            "DiT-XL does not own one stretch of the allocation",
        ),
        (["train.interval=allocation:DiT-S*1000+DiT-XL*1"], "has 1001 steps, more than the 1000"),
        (["train.init=DiT-B"], "DiT-B.safetensors"),
        (["train.init=DiT-L"], "DiT-L.safetensors does not exist"),
        (["train.snapshots=[1000,800000]"], "800000 images are beyond the end of the training of"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_data_are_opened(overrides, message, tmp_path):
    words = ["train=fashion/DiT-XL", f"data.root={tmp_path / 'nothing'}", f"runs={tmp_path}"]
    assert message in commands.refusal("train", *words, *overrides)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["train=fashion/first-stage", "train.init=checkpoint"], "first-stage is a first-stage"),
        (
            ["train=fashion/preview", "train.snapshots=[5]"],
            "are of denoisers; preview is a preview",
        ),
        (
            ["train=fashion/DiT-S", "train.denoisers=[DiT-B]"],
            "train.denoisers=[DiT-B] are of the zoo, train=ZOO/DiT-S is one network: leave one out",
        ),
        (["train.denoisers=[DiT-L]"], "zoo=fashion has no recipe of DiT-L; known: classifier"),
        (
            ["train.interval=[0,200]"],
            "train.interval=[0, 200] needs a denoiser: add train=ZOO/NAME",
        ),
    ],
)
def test_what_is_not_of_denoisers_is_refused(overrides, message, tmp_path):
    words = [f"data.root={tmp_path / 'nothing'}", f"runs={tmp_path}"]
    assert message in commands.refusal("train", *words, *overrides)
