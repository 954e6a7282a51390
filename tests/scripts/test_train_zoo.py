"""A whole zoo trained by one command: its records, stops, what is lost and what does not fit."""

import itertools
import json
import shutil
import zipfile

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

import models
import samplers
import scripts.train
import stitch
from eval.imagenette import CLASSES
from models.errors import InputError
from models.weights import save_tensors
from scripts.cli import CONFIGS
from tests.commands import compose
from tests.threads import threads

SIZES = [
    "zoo=imagenette64",
    "zoo.classifier.widths=[8,8,8,8]",
    "zoo.first_stage.block_out_channels=[8]",
    "zoo.preview.encoder_block_out_channels=[8]",
    "zoo.preview.decoder_block_out_channels=[8]",
    *(f"zoo.denoisers.{name}.width=12" for name in ("DiT-S", "DiT-B", "DiT-XL")),
    *(f"zoo.denoisers.{name}.depth=1" for name in ("DiT-S", "DiT-B", "DiT-XL")),
]
ZOO = [*SIZES, "train.images=64", "train.batch_size=16", "export_every=32", "threads=1"]
NAMES = ("classifier", "first-stage", "preview", "DiT-S", "DiT-B", "DiT-XL")


def train_zoo(photographs, folder, *overrides):
    """The command for the small zoo."""
    places = [
        f"data.root={photographs}",
        f"runs={folder / 'runs'}",
        f"export={folder / 'exported'}",
    ]
    train(*ZOO, *places, *overrides)


def train(*overrides):
    """The command in this process, on one thread."""
    with hydra.initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        config = hydra.compose("train", [*overrides])
    OmegaConf.resolve(config)
    with threads(1):
        scripts.train.main.__wrapped__(config)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A zip of four training and one test photograph of every class."""
    path = tmp_path_factory.mktemp("photographs") / "imagenette64.zip"
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for split, count in (("train", 4), ("val", 1)):
            for wnid, number in itertools.product(CLASSES, range(count)):
                pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                with archive.open(f"{split}/{wnid}/{number}.png", "w") as file:
                    Image.fromarray(pixels).save(file, "PNG")
    return path


@pytest.fixture(scope="module")
def zoo(photographs, tmp_path_factory):
    """The folder of a small zoo, trained by one command."""
    folder = tmp_path_factory.mktemp("zoo")
    train_zoo(photographs, folder)
    return folder


def read(folder, name):
    return json.loads((folder / "exported" / f"{name}.json").read_text())


def tensors(folder):
    return {name: load_file(folder / "exported" / f"{name}.safetensors") for name in NAMES}


def same(one, other):
    return all(one[n][key].equal(other[n][key]) for n in NAMES for key in one[n])


def test_one_command_trains_a_zoo_whose_networks_say_what_they_were_made_of(zoo):
    assert {name: read(zoo, name)["images_seen"] for name in NAMES} == dict.fromkeys(NAMES, 64)
    for name in NAMES:
        assert read(zoo, name)["licence"].startswith("trained on ImageNet images, non-commercial")
    hashes = {read(zoo, name).get("first_stage_sha256") for name in NAMES[2:]}
    assert hashes == {read(zoo, "first-stage")["sha256"]}
    assert read(zoo, "DiT-S")["results"].keys() == {"mse", "test_mse"}


@pytest.mark.parametrize("name", ["first-stage", "preview"])
def test_reconstructions_of_test_images_are_there_to_be_looked_at(zoo, name):
    path = zoo / "runs" / "train" / "imagenette64" / name / "reconstructions.png"
    with Image.open(path) as picture:
        assert picture.size == (10 * 66 + 2, 2 * 66 + 2)  # ten images, borders of two pixels


def test_what_was_exported_can_be_sampled_by_the_names_of_classes(zoo):
    with hydra.initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        config = hydra.compose("sample", [*SIZES, f"zoo.checkpoints={zoo / 'exported'}"])
    made = models.Zoo(config.zoo)
    sampler = samplers.create("ddim", steps=2, schedule=made.schedule)
    allocation = stitch.Allocation.from_fractions({"DiT-S": 0.5, "DiT-XL": 0.5}, steps=2)
    images = stitch.sample(made, sampler, allocation, labels=["church", 701], guidance_scale=2)
    again = stitch.sample(made, sampler, allocation, labels=[4, 9], guidance_scale=2)
    assert images.shape == (2, 64, 64, 3)
    assert (images == again).all()


def test_a_training_stopped_by_the_clock_goes_on_to_the_same_weights(
    zoo, photographs, tmp_path, caplog
):
    caplog.set_level("INFO")
    stops = 0
    while stops < 100:
        caplog.clear()
        train_zoo(photographs, tmp_path, "train.minutes=0.01")
        if "train.minutes=0.01 are over" not in caplog.text:
            break
        stops += 1
    assert stops > 0
    assert same(tensors(zoo), tensors(tmp_path))


@pytest.mark.parametrize(
    "chosen, lr",
    [("train=imagenette64/DiT-S", 4e-3), ("train.denoisers=[DiT-S]", 4e-3), ("train.lr=1", 1)],
)
def test_on_a_gpu_a_recipe_has_its_values_for_one_unless_others_are_given(chosen, lr, monkeypatch):
    words = ["zoo=imagenette64", chosen, "train.images=7"]
    monkeypatch.setattr(scripts.train, "overrides", lambda: words)
    config = compose("train", *words)
    small = {r.name: r for r in scripts.train.choose(config, torch.device("cuda"))}["DiT-S"]
    assert (small.batch_size, small.lr, small.images) == (2048, lr, 7)
    small = {r.name: r for r in scripts.train.choose(config, torch.device("cpu"))}["DiT-S"]
    assert small.batch_size == 128 and "on_gpu" not in small


def test_without_its_state_a_training_goes_on_from_what_was_exported(zoo, photographs, tmp_path):
    shutil.copytree(zoo / "exported", tmp_path / "exported")
    train_zoo(photographs, tmp_path, "train.images=96")
    record = read(tmp_path, "DiT-XL")
    assert record["images_seen"] == 96
    assert sum(part["images"] for part in record["parts"]) == 96
    # The averages began anew from the exported weights, which are half precision.
    assert not same(tensors(zoo), tensors(tmp_path))


def test_what_others_were_trained_on_does_not_change_any_more(zoo, photographs, tmp_path):
    shutil.copytree(zoo, tmp_path, dirs_exist_ok=True)
    train_zoo(photographs, tmp_path, "train.images=96")
    assert read(tmp_path, "first-stage") == read(zoo, "first-stage")
    assert read(tmp_path, "DiT-XL")["images_seen"] == 96


def test_damaged_states_are_named(zoo, photographs, tmp_path):
    shutil.copytree(zoo, tmp_path, dirs_exist_ok=True)
    for state in (tmp_path / "runs" / "train" / "imagenette64" / "DiT-S").glob("*last.pt"):
        state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"DiT-S/before-last.pt is damaged"):
        train_zoo(photographs, tmp_path, "train.images=96")


def test_denoisers_of_another_first_stage_are_not_trained_on(zoo, photographs, tmp_path):
    shutil.copytree(zoo / "exported", tmp_path / "exported")
    file, record = tmp_path / "exported" / "first-stage.safetensors", read(zoo, "first-stage")
    state = {name: value + 0.01 for name, value in load_file(file).items()}
    save_tensors(state, file, {name: record[name] for name in record if name != "sha256"})
    with pytest.raises(InputError, match=r"preview.json .* first_stage_sha256 is .* there and"):
        train_zoo(photographs, tmp_path, "train.images=96")


def test_a_denoiser_without_a_first_stage_says_what_to_train_first(photographs, tmp_path):
    with pytest.raises(InputError, match="train=imagenette64/first-stage first"):
        train_zoo(photographs, tmp_path, "train=imagenette64/DiT-S")


def test_a_zoo_without_recipes_names_those_that_have_them():
    with pytest.raises(
        InputError, match="has no training recipes; known: fashion, imagenet256-dit"
    ):
        train("zoo=imagenet256-ldm")


def test_a_zoo_with_recipes_of_some_networks_only_names_them():
    with pytest.raises(InputError, match="no training recipe of .*imagenet256-dit/stitched"):
        train("zoo=imagenet256-dit")


def test_weights_of_another_zoo_are_refused_under_this_card():
    with hydra.initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        config = hydra.compose(
            "sample", ["zoo=imagenette64", "zoo.checkpoints=checkpoints/fashion"]
        )
    with pytest.raises(models.CheckpointError, match=r"checkpoints/fashion/DiT-S.safetensors"):
        models.Zoo(config.zoo).denoisers["DiT-S"]
