"""The shipped text-to-image pipeline: tokenizer, text encoder, files, pictures of words."""

import json
import math

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import models
from models import captions, text
from models.files import sha256_of
from models.registry import create
from models.training import pictures
from models.training.contrastive import ContrastiveObjective, principal_axes
from models.weights import recorded_sha256
from tests import ROOT

FOLDER = ROOT / "checkpoints" / "fashion-text"
RECIPES = ROOT / "configs" / "train" / "fashion-text"
WEIGHTS = {
    "text_encoder": FOLDER / "text_encoder" / "model.safetensors",
    **{
        name: FOLDER / name / "diffusion_pytorch_model.safetensors"
        for name in ("unet", "unet-small", "unet-stylised")
    },
}


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def generators(count):
    return [torch.Generator().manual_seed(index) for index in range(count)]


def agreement(pipe, **settings):
    """The share of 20 pictures, two of each class, in which the zoo's classifier sees the class."""
    prompts = [f"a photo of {name}" for name in captions.NAMES * 2]
    made = pipe(
        prompts, num_inference_steps=10, generator=generators(20), output_type="pt", **settings
    ).images
    margin = pictures.MARGIN
    images = (255 * made[:, :, margin:-margin, margin:-margin]).round().to(torch.uint8)
    card = models.load_zoo("fashion").card
    classifier = create(**OmegaConf.to_container(card.classifier, resolve=True))
    models.load_checkpoint(classifier, ROOT / "checkpoints" / "fashion" / "classifier.safetensors")
    with torch.no_grad():
        predicted = classifier.eval()(images)[1].argmax(1)
    return (predicted == torch.arange(20) % 10).float().mean().item()


def test_pictures_show_what_the_prompt_says(pipe):
    assert agreement(pipe, guidance_scale=3.0) >= 0.8


def test_the_small_unet_takes_the_place_of_the_large_one(pipe):
    from diffusers import UNet2DConditionModel

    small = UNet2DConditionModel.from_pretrained(FOLDER / "unet-small")
    own, pipe.unet = pipe.unet, small
    try:
        assert agreement(pipe, guidance_scale=3.0) >= 0.7
    finally:
        pipe.unet = own


def test_pictures_are_grey_and_of_the_photographs_size_with_their_margin(pipe):
    (image,) = pipe("an ankle boot", num_inference_steps=1, generator=generators(1)).images
    assert image.mode == "L"
    assert image.size == (28 + 2 * pictures.MARGIN,) * 2


def test_the_autoencoder_is_the_zoos_first_stage(pipe):
    stage = models.load_zoo("fashion").first_stage
    z = torch.randn(2, 4, 8, 8, generator=generators(1)[0])
    with torch.no_grad():
        assert torch.equal(pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample, stage(z))


def test_a_caption_is_one_token_a_word_and_the_same_text_again(pipe):
    for caption in captions.CAPTIONS:
        ids = pipe.tokenizer(caption).input_ids
        assert len(ids) <= text.LENGTH
        words = caption.replace("-", " - ").replace(",", " ,").split()
        assert pipe.tokenizer.tokenize(caption) == [f"{word}</w>" for word in words]
        plain = pipe.tokenizer.decode(ids, skip_special_tokens=True)
        assert plain.replace(" - ", "-").replace(" ,", ",").strip() == caption
    assert pipe.tokenizer.model_max_length == text.LENGTH


def test_words_of_no_caption_are_spelt(pipe):
    assert "".join(pipe.tokenizer.tokenize("Zebra")) == "zebra</w>"
    assert pipe.tokenizer.unk_token_id not in pipe.tokenizer("Zebra")["input_ids"][1:-1]


def test_the_states_that_unets_learnt_are_those_that_the_pipeline_gives_them(pipe):
    encoder = create(
        **OmegaConf.to_container(OmegaConf.load(RECIPES / "text_encoder.yaml").network)
    )
    models.load_checkpoint(encoder, WEIGHTS["text_encoder"])
    prompts = list(captions.CAPTIONS[:3])
    states = encoder.eval().inner(text.tokens(pipe.tokenizer, prompts)).last_hidden_state
    theirs, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
    assert torch.allclose(states, theirs, atol=1e-6)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_those_of_their_record_and_of_the_recipe(name):
    record = json.loads(WEIGHTS[name].with_suffix(".json").read_text())
    assert recorded_sha256(WEIGHTS[name]) == record["sha256"]
    recipe = OmegaConf.to_container(OmegaConf.load(RECIPES / f"{name}.yaml"))
    assert record["network"] == recipe.pop("network")
    recipe.pop("pipeline")
    assert record["recipe"] == recipe
    assert record["images_seen"] >= recipe["images"]
    if name != "text_encoder":
        assert record["text_encoder_sha256"] == sha256_of(WEIGHTS["text_encoder"])
    stored = load_file(WEIGHTS[name])
    assert {value.dtype for value in stored.values()} == {torch.float16}


def test_the_stylised_unet_is_of_the_shipped_large_one():
    record = json.loads(WEIGHTS["unet-stylised"].with_suffix(".json").read_text())
    assert record["unet_sha256"] == sha256_of(WEIGHTS["unet"])


def test_the_autoencoder_is_recorded_as_converted_from_the_zoos():
    file = FOLDER / "vae" / "diffusion_pytorch_model.safetensors"
    record = json.loads(file.with_suffix(".json").read_text())
    assert recorded_sha256(file) == record["sha256"]
    source = ROOT / "checkpoints" / "fashion" / record["converted_from"]
    assert sha256_of(source) == record["source_sha256"]


def test_the_folder_has_at_most_8_mb_and_nothing_pickled_nor_of_a_machine():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert not any(
        str(ROOT) in path.read_text() or "/work" in path.read_text()
        for path in files
        if path.suffix == ".json"
    )


class Rows(torch.nn.Module):
    """A text encoder whose embedding of a caption is a row of a table."""

    def __init__(self, rows):
        super().__init__()
        self.rows = torch.nn.Parameter(rows)

    def forward(self, tokens):
        return self.rows[tokens[:, 0]]


def test_the_contrastive_loss_is_least_where_captions_agree_with_their_images():
    axes = torch.eye(4)[:2]
    labels = torch.tensor([0, 1, 0, 1])
    numbers, meanings = torch.arange(2)[:, None], torch.arange(2)

    def objective(rows):
        return ContrastiveObjective(Rows(rows), axes[labels], labels, numbers, meanings)

    right, swapped = objective(axes), objective(axes.flip(0))
    batch = right.batch(torch.arange(4), torch.Generator())
    assert right(*batch)["loss"] < swapped(*batch)["loss"] - 5
    # Two of four images are right, all of one meaning: the positives' cross-entropy is log 2.
    assert right(*batch)["loss"].item() == pytest.approx(math.log(2), abs=1e-3)
    assert right.evaluate(right.network, right) == {"test_accuracy": 1.0}
    assert right.evaluate(swapped.network, right) == {"test_accuracy": 0.0}


def test_principal_axes_keep_what_varies_most():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 3, generator=generator) * torch.tensor([0.1, 5.0, 1.0]) + 7
    mean, axes = principal_axes(features, 2)
    assert torch.allclose(mean, features.mean(0))
    assert torch.allclose(axes.T @ axes, torch.eye(2), atol=1e-5)
    assert axes[:, 1].abs().argmax() == 1 and axes[:, 0].abs().argmax() == 2


def test_drawings_are_edges_from_inside_on_black_ground():
    square = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    square[..., 10:20, 10:20] = 200
    drawn = pictures.outlined(pictures.padded(square))
    assert drawn.shape == (1, 1, 32, 32)
    assert drawn[0, 0, 12, 12:22].tolist() == [255] * 10  # the uppermost bright row
    assert drawn[0, 0, 13:21, 13:21].max() == 0  # the inside
    assert drawn[0, 0, :12].max() == 0  # outside
