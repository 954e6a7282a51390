"""Networks in two parts: what a full evaluation keeps, and what the cheap part makes of it."""

import pytest
import torch

import models
from models.cost import activation_bytes, macs, reuse_macs
from tests import golden

SIZES = {
    "DiT": dict(latent_shape=(4, 4, 6), patch_size=2, width=32, depth=2, num_heads=2),
    "U-ViT": dict(latent_shape=(4, 4, 6), patch_size=2, width=32, depth=2, num_heads=2),
    "U-Net": dict(latent_shape=(4, 7, 5), model_channels=32, context_width=8),
}


@pytest.fixture(scope="module", params=SIZES)
def case(request):
    network = models.create(request.param, num_classes=5, **SIZES[request.param]).eval()
    golden.fill(network, keep=())
    x = torch.randn(2, *network.spec.latent_shape, generator=torch.Generator().manual_seed(0))
    return network, (x, torch.tensor([700.5]), torch.tensor([1, 5]))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_to_the_prediction_are_that_of_a_call_to_the_bit(case, dtype):
    network, inputs = case
    network.to(dtype)
    expected = network(*inputs)
    output, kept = network.evaluate(*inputs)
    assert output.dtype == torch.float32 and kept.dtype == dtype
    assert torch.equal(output, expected)
    assert torch.equal(network.reuse(kept, *inputs), expected)
    network.float()


@torch.no_grad()
def test_the_cheap_part_sees_what_was_kept(case):
    network, inputs = case
    output, kept = network.evaluate(*inputs)
    assert (network.reuse(kept.flip(1), *inputs) - output).abs().max() > 0.1


@torch.no_grad()
def test_the_cheap_part_of_a_unet_sees_the_state_and_that_of_a_transformer_need_not():
    for name, sizes in SIZES.items():
        network = models.create(name, num_classes=5, **sizes).eval()
        golden.fill(network, keep=())
        x, t, y = torch.ones(1, *network.spec.latent_shape), torch.tensor([9.0]), torch.tensor([0])
        _, kept = network.evaluate(x, t, y)
        alike = torch.equal(network.reuse(kept, x, t, y), network.reuse(kept, 2 * x, t, y))
        assert alike == (name != "U-Net")


def meta(name):
    with torch.device("meta"):
        return models.create(name).to("meta")


@pytest.mark.parametrize("name", ["DiT-S/2", "DiT-XL/2"])
def test_a_dit_reuses_for_its_conditioning_and_its_last_layer(name):
    network = meta(name)
    width = network.width
    conditioning = 256 * width + width * width  # of the timestep; labels are looked up
    last = 2 * width * width + 256 * width * (2 * 2 * 8)  # 16 x 16 tokens of 2 x 2 x 8 values
    assert reuse_macs(network) == conditioning + last
    assert reuse_macs(network) < 0.003 * macs(network)


def test_a_uvit_reuses_for_its_output_layers():
    network = meta("imagenet64_uvit_mid")
    tokens, width, values = 16 * 16 + 2, 768, 4 * 4 * 3
    assert reuse_macs(network) == tokens * width * values + 64 * 64 * 9 * 3 * 3


def test_a_unet_reuses_for_its_first_and_its_last_block():
    # The last block joins 192 channels from below with 192 of the shallowest skip.
    pixel = 9 * 3 * 192 + (9 * 384 * 192 + 9 * 192 * 192 + 384 * 192) + 9 * 192 * 3
    time = 192 * 768 + 768 * 768 + 768 * 192
    assert reuse_macs(meta("cin256-v2")) == 64 * 64 * pixel + time


def test_what_a_cache_keeps_counts_as_memory():
    network = meta("DiT-S/2")
    kept = 4 * 256 * 384  # float32 tokens
    assert activation_bytes(network, 3) == activation_bytes(network) + 3 * kept
