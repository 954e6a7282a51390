"""A text-to-image pipeline trained by four commands: what it is made of, resuming, refusals."""

import itertools
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from eval.datasets import FashionMNIST
from models import text
from models.checkpoint import load_checkpoint
from models.errors import InputError
from models.registry import create
from models.training.recipes import recipes
from stitch.text_training import TextWorkshop
from stitch.training import train as run
from tests.commands import compose
from tests.threads import threads

os.environ.setdefault("HF_HUB_OFFLINE", "1")
NAMES = {
    "text_encoder": "model",
    **dict.fromkeys(("unet", "unet-small"), "diffusion_pytorch_model"),
}
TINY_UNET = "train.network.block_out_channels=[8,8]"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of idx files with 60 training and 20 test images of noise."""
    folder = tmp_path_factory.mktemp("idx")
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{prefix}-{name}-ubyte").write_bytes(header + array.tobytes())
    return folder


def train(photographs, folder, name, *overrides, steps=None):
    """Train on one thread, with the shipped classifier and first stage, for at most ``steps``."""
    config = compose(
        "train", f"train=fashion-text/{name}", f"train.pipeline={folder / 'pipeline'}",
        f"data.root={photographs}", f"runs={folder / 'runs'}", "train.images=48",
        "train.batch_size=16", *overrides,
    )  # fmt: skip
    OmegaConf.resolve(config)
    device = torch.device("cpu")
    workshop = TextWorkshop(config, device, lambda split: FashionMNIST(split, str(photographs)))
    asked = itertools.count(1)

    def stop():
        return steps is not None and next(asked) > steps + 1  # it is asked twice before the first

    with threads(1):
        run(workshop, recipes(config, device), stop, lambda: False)


def train_encoder(photographs, folder, *overrides):
    sizes = ("train.network.intermediate_size=16", "train.network.num_hidden_layers=1")
    train(photographs, folder, "text_encoder", *sizes, *overrides)


def file(folder, name, suffix="safetensors"):
    stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
    return folder / "pipeline" / name / f"{stem}.{suffix}"


def record(folder, name):
    return json.loads(file(folder, name, "json").read_text())


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    train_encoder(photographs, folder)
    train(photographs, folder, "unet", TINY_UNET)
    train(photographs, folder, "unet-small", TINY_UNET)
    return folder


def test_the_folder_is_a_pipeline_of_diffusers(trained):
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    pipe = StableDiffusionPipeline.from_pretrained(trained / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe("a photo of a bag", num_inference_steps=2).images
    assert (image.size, image.mode) == ((32, 32), "L")
    small = UNet2DConditionModel.from_pretrained(trained / "pipeline" / "unet-small")
    assert small.config.mid_block_type is None


@pytest.mark.parametrize("name", NAMES)
def test_a_record_says_what_the_weights_were_made_of(trained, name):
    made = record(trained, name)
    assert made["images_seen"] == 48
    assert made["recipe"]["kind"] == ("text-encoder" if "text" in name else "text-denoiser")
    assert "pipeline" not in made["recipe"]
    if name != "text_encoder":
        assert made["text_encoder_sha256"] == record(trained, "text_encoder")["sha256"]
        assert 0 < made["results"]["test_mse"] < 2


def test_a_resumed_training_gives_the_same_weights(photographs, trained, tmp_path):
    shutil.copytree(trained / "pipeline" / "text_encoder", tmp_path / "pipeline" / "text_encoder")
    shutil.copytree(trained / "pipeline" / "tokenizer", tmp_path / "pipeline" / "tokenizer")
    for seen in (16, 32, 48):
        train(photographs, tmp_path, "unet-small", TINY_UNET, steps=1)
        assert record(tmp_path, "unet-small")["images_seen"] == seen
    one, other = (load_file(file(folder, "unet-small")) for folder in (trained, tmp_path))
    assert all(one[key].equal(other[key]) for key in one)


def test_another_style_starts_from_the_finished_network_and_says_so(photographs, trained, tmp_path):
    shutil.copytree(trained / "pipeline", tmp_path / "pipeline")
    train(photographs, tmp_path, "unet-stylised", TINY_UNET, "train.lr=1e-12")
    folder = tmp_path / "pipeline" / "unet-stylised"
    made = json.loads((folder / "diffusion_pytorch_model.json").read_text())
    assert made["unet_sha256"] == record(trained, "unet")["sha256"]
    one, other = (load_file(f / "diffusion_pytorch_model.safetensors") for f in (
        folder, tmp_path / "pipeline" / "unet",
    ))  # fmt: skip
    assert all(torch.allclose(one[key], other[key], atol=1e-3) for key in one)


def test_a_network_without_a_text_encoder_says_what_to_train_first(photographs, tmp_path):
    with pytest.raises(InputError, match="train=fashion-text/text_encoder first"):
        train(photographs, tmp_path, "unet", TINY_UNET)


def test_networks_of_another_text_encoder_are_not_trained_on(photographs, trained, tmp_path):
    shutil.copytree(trained / "pipeline", tmp_path / "pipeline")
    shutil.rmtree(tmp_path / "pipeline" / "text_encoder")
    train_encoder(photographs, tmp_path, "train.seed=1")
    with pytest.raises(InputError, match="text_encoder_sha256 is .* there and"):
        train(photographs, tmp_path, "unet-small", TINY_UNET, "train.images=64")


def test_exported_weights_fit_our_networks(trained):
    sizes = record(trained, "unet-small")["network"]
    network = create(**sizes)
    load_checkpoint(network, file(trained, "unet-small"))
    stored = load_file(file(trained, "unet-small"))
    assert network.inner.conv_in.weight.equal(stored["conv_in.weight"].float())


def test_without_transformers_one_line_says_what_to_install(photographs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install -r requirements-pipelines.txt"):
        train_encoder(photographs, tmp_path)
    with pytest.raises(InputError, match="need transformers, which is not installed"):
        text.make_tokenizer()


def test_an_unknown_kind_names_the_known_ones(photographs, tmp_path):
    with pytest.raises(InputError, match="known of a pipeline: text-encoder, text-denoiser"):
        train_encoder(photographs, tmp_path, "train.kind=text")
