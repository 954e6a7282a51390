"""The native U-ViT against the reference network."""

import pytest
import torch

import models
from models.cost import macs
from models.errors import InputError
from tests import golden

PIXEL = ["cifar10_uvit_small", "imagenet64_uvit_mid"]


@pytest.fixture(scope="module", params=PIXEL)
def case(request):
    network = models.create(request.param).eval()
    golden.fill(network, keep=())
    fixture = golden.arrays(f"uvit_{request.param}")
    return request.param, network, {name: torch.from_numpy(a) for name, a in fixture.items()}


def test_state_dict_keys_and_shapes_are_those_of_the_official_checkpoint(case):
    name, network, _ = case
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert shapes == golden.facts(f"keys_{name}")


@pytest.mark.parametrize(
    "name, published",
    [
        ("U-ViT-H/2", "U-ViT imagenet256_uvit_huge@32x32x4"),
        ("U-ViT-L/2", "U-ViT imagenet256_uvit_large@32x32x4"),
        ("imagenet64_uvit_mid", "U-ViT imagenet64_uvit_mid@64x64x3"),
        ("cifar10_uvit_small", "U-ViT cifar10_uvit_small@32x32x3"),
    ],
)
def test_parameters_and_multiply_accumulates_are_those_published(name, published):
    with torch.device("meta"):
        network = models.create(name)
    facts = golden.facts("facts")["models"][published]
    assert sum(p.numel() for p in network.parameters()) == facts["params"]
    assert macs(network) == facts["macs"]


@pytest.mark.parametrize("size", "SMLH")
def test_the_latent_models_share_data_and_latents_with_dit(size):
    with torch.device("meta"):
        spec = models.create(f"U-ViT-{size}/2").spec
    assert spec.latent_shape == (4, 32, 32)
    assert spec.null_label == spec.num_classes == 1000
    assert spec.latent_space == "sd-vae"
    # L is the continuous one, called with the index; the others count from 1 to 1000.
    continuous = size == "L"
    assert spec.schedule == ("ddpm-linear" if continuous else "stable-diffusion")
    assert spec.timestep_offset == (0 if continuous else 1)


@torch.no_grad()
def test_half_precision_weights_take_and_give_float32():
    network = models.create(
        "U-ViT", latent_shape=(4, 4, 6), width=32, depth=2, num_heads=2, num_classes=5
    )
    golden.fill(network, keep=())
    arguments = torch.randn(2, 4, 4, 6), torch.tensor([0.5, 1000.0]), torch.tensor([0, 5])
    expected = network(*arguments)
    output = network.to(torch.bfloat16)(*arguments)
    assert output.dtype == torch.float32
    assert output.shape == (2, 4, 4, 6)
    assert (output - expected).abs().max() < 0.2


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(latent_shape=(4, 7, 7)), "latent_shape .* patch_size 2"),
        (dict(depth=5), "depth 5 even"),
        (dict(num_heads=7), "num_heads 7"),
    ],
)
def test_sizes_that_do_not_fit_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        models.create("U-ViT-S/2", **wrong)
