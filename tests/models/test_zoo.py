"""The shipped zoos: what is in them, and that it is what their records say."""

import json

import pytest
import torch
from omegaconf import OmegaConf

import models
from eval.metrics import frechet_distance, moments
from eval.reference import check_extractor, load_reference
from models import variants
from models.checkpoint import read_tensors
from models.errors import InputError
from models.training.loop import FREE
from models.weights import recorded_sha256
from tests import ROOT

FOLDER = ROOT / "checkpoints" / "fashion"
NETWORKS = ("classifier", "first-stage", "first-stage-ft", "preview", "DiT-S", "DiT-B", "DiT-XL")


@pytest.fixture(scope="module")
def zoo():
    return models.load_zoo("fashion")


def record(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def test_denoisers_are_ordered_by_cost_in_about_the_papers_proportion(zoo):
    assert zoo.default_denoisers == ["DiT-S", "DiT-B", "DiT-XL"]
    small, base, large = (zoo.macs(name) for name in zoo.default_denoisers)
    assert large <= 100e6
    assert 12 <= large / small <= 20
    assert 3 <= base / small <= 6


def test_unknown_zoo_and_denoiser_list_the_known_ones(zoo):
    with pytest.raises(InputError, match="unknown zoo 'mnist'; known: fashion"):
        models.load_zoo("mnist")
    with pytest.raises(InputError, match="no denoiser 'DiT-L'; known: DiT-S, DiT-B, DiT-XL"):
        zoo.denoisers["DiT-L"]


def test_training_the_decoder_on_left_the_latents_as_they_were():
    before, after = (
        read_tensors(FOLDER / f"{name}.safetensors") for name in ("first-stage", "first-stage-ft")
    )
    kept = [name for name in before if ".encoder." in name or ".quant_conv." in name]
    assert len(kept) > 20
    assert all(before[name].equal(after[name]) for name in kept)
    gain = record("first-stage-ft")["results"]["test_psnr_db"]
    assert gain > record("first-stage")["results"]["test_psnr_db"]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_those_of_their_provenance_record(name):
    assert recorded_sha256(FOLDER / f"{name}.safetensors") == record(name)["sha256"]
    assert record(name).keys() >= {"data_sha256", "images_seen", "results", "wall_seconds"}
    parts = record(name)["parts"]
    assert sum(part["images"] for part in parts) == record(name)["images_seen"]
    assert all(part.keys() >= {"device", "seconds", "torch", "commit"} for part in parts)


def test_other_weights_of_a_denoiser_say_how_they_differ_from_its_recipe():
    names = [path.stem for path in FOLDER.glob("*@*.json")]
    assert len(names) >= 8
    for name in names:
        base, own = record(variants.base(name)), record(name)
        assert own["network"] == base["network"]
        changed = {key for key in own["recipe"] if own["recipe"][key] != base["recipe"].get(key)}
        assert own["recipe"].keys() >= base["recipe"].keys()
        assert own["first_stage_sha256"] == record("first-stage")["sha256"]
        assert not any(part["commit"].endswith("-dirty") for part in own["parts"])
        if own["recipe"]["name"] == "DiT-S":  # a snapshot
            assert changed == {"ema_width"}
            assert recorded_sha256(FOLDER / f"{name}.safetensors") == own["sha256"]
        else:  # fine-tuned; the record alone is shipped
            assert name == own["recipe"]["name"]
            assert changed <= {"name", "images", "lr", "interval", "start_from", "ema_width"}
            assert own["start_from_sha256"] == base["sha256"]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_were_made_by_the_recipe_and_for_the_network_in_configs(name, zoo):
    recipe = OmegaConf.load(ROOT / "configs" / "train" / "fashion" / f"{name}.yaml")
    assert record(name)["recipe"] == OmegaConf.to_container(recipe)
    card = OmegaConf.to_container(zoo.card, resolve=True)
    others = {other: card[other] for other in ("classifier", "preview")}
    entry = {**card["denoisers"], **others}.get(name, card["first_stage"])
    assert record(name)["network"] == {k: v for k, v in entry.items() if k != "file"}


def test_the_classifier_is_at_least_92_percent_right():
    assert record("classifier")["results"]["test_accuracy"] >= 0.92


def test_larger_denoisers_have_a_smaller_error():
    errors = [record(name)["results"]["mse"] for name in ("DiT-S", "DiT-B", "DiT-XL")]
    assert errors == sorted(errors, reverse=True)


def test_the_reference_belongs_to_the_classifier():
    path = FOLDER / "reference.safetensors"
    assert check_extractor(path, record("classifier")["sha256"]) == record("reference")["sha256"]
    reference = load_reference(path)
    assert reference.moments["features"].mean.shape == (128,)
    assert reference.features.shape == (10_000, 128)
    assert record("reference")["images"] == 60_000
    # 10,000 of the 60,000 images are close to all of them.
    assert frechet_distance(moments(reference.features), reference.moments["features"]) < 0.05


def test_the_zoo_is_small_enough_to_ship():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 40e6


def test_the_first_stage_gives_latents_of_the_zoos_shape_and_unit_scale(zoo):
    latents = torch.randn(4, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    images = zoo.first_stage.decode(latents)
    assert images.shape == (4, 1, 28, 28)
    assert images.dtype == torch.uint8
    again = zoo.first_stage.encode(images)
    assert again.shape == latents.shape
    assert 0.5 < again.std() < 1.5


PHOTOGRAPHS = ROOT / "checkpoints" / "imagenette64"
TRAINED = ("classifier", "first-stage", "preview", "DiT-S", "DiT-B", "DiT-XL")


def of_photographs(name):
    return json.loads((PHOTOGRAPHS / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def photographs():
    return models.load_zoo("imagenette64")


@pytest.mark.parametrize("name", TRAINED)
def test_weights_of_photographs_say_what_they_were_made_of(name, photographs):
    record = of_photographs(name)
    assert recorded_sha256(PHOTOGRAPHS / f"{name}.safetensors") == record["sha256"]
    assert record["licence"] == "trained on ImageNet images, non-commercial research"
    assert sum(part["images"] for part in record["parts"]) == record["images_seen"]
    assert not any(part["commit"].endswith("-dirty") for part in record["parts"])
    recipe = OmegaConf.load(ROOT / "configs" / "train" / "imagenette64" / f"{name}.yaml")
    recipe = {key: value for key, value in recipe.items() if key not in (*FREE, "on_gpu")}
    assert recipe.items() <= record["recipe"].items()
    card = OmegaConf.to_container(photographs.card, resolve=True)
    entry = {**card["denoisers"], **card}.get(name.replace("-", "_"), card["denoisers"].get(name))
    assert record["network"] == {key: value for key, value in entry.items() if key != "file"}


def test_denoisers_and_preview_of_photographs_belong_to_the_first_stage():
    stage = of_photographs("first-stage")["sha256"]
    assert {of_photographs(name)["first_stage_sha256"] for name in TRAINED[2:]} == {stage}


def test_the_zoo_of_photographs_has_dits_geometry_and_is_small(photographs):
    small, base, large = (photographs.macs(name) / 1e6 for name in photographs.default_denoisers)
    assert 14 < small < 18 and 60 < base < 75 and 250 < large < 290
    assert photographs.skeleton("DiT-XL").grid == (8, 8)
    weights = sum((PHOTOGRAPHS / f"{name}.safetensors").stat().st_size for name in TRAINED)
    assert weights < 20e6


def test_the_classifier_of_photographs_is_at_least_85_percent_right():
    assert of_photographs("classifier")["results"]["test_accuracy"] >= 0.85


def test_the_reference_of_photographs_belongs_to_their_classifier():
    path = PHOTOGRAPHS / "reference.safetensors"
    sha256 = check_extractor(path, of_photographs("classifier")["sha256"])
    assert sha256 == of_photographs("reference")["sha256"]
    reference = load_reference(path)
    assert reference.moments["features"].mean.shape == (160,)
    assert reference.features.shape == (5_000, 160)
    assert of_photographs("reference")["spread"]  # over the classes, in whose order they are
