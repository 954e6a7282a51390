"""Eight bits: close to full precision, and refused where it cannot be."""

import contextlib

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import models
from models.errors import InputError
from models.quantise import EightBitLinear, quantise


def row_scaled_fp8_on_a_cpu() -> bool:
    """Whether this torch has the product: 2.11 multiplies with a scale per row on GPUs only."""
    ones = torch.ones(16, 16).to(torch.float8_e4m3fn)
    try:
        torch._scaled_mm(ones, ones.T, torch.ones(16, 1), torch.ones(1, 16))
    except RuntimeError as error:
        return "per-tensor scaling" not in str(error)
    return True


FP8 = pytest.param(
    torch.float8_e4m3fn,
    marks=pytest.mark.skipif(not row_scaled_fp8_on_a_cpu(), reason="no such product on CPUs"),
)


def relative_error(output, expected):
    return ((output - expected).square().mean() / expected.square().mean()).item()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.int8, FP8])
def test_a_layer_gives_nearly_what_it_gave(dtype):
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 96), torch.randn(2, 20, 64)
    output = EightBitLinear(layer, dtype)(x)
    assert output.shape == (2, 20, 96)
    assert output.dtype == x.dtype
    error = 2e-4 if dtype == torch.int8 else 3e-3
    assert 0 < relative_error(output, layer(x)) < error


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.int8, FP8])
def test_a_layer_that_is_filled_up_gives_the_same(dtype):
    torch.manual_seed(0)
    layer, x = nn.Linear(56, 168), torch.randn(2, 20, 56)
    filled = EightBitLinear(layer, dtype, 16)
    assert filled.weight.shape == (176, 64)
    assert torch.equal(filled(x), EightBitLinear(layer, dtype)(x))


def test_a_gpu_takes_the_products_of_every_width_in_fp8():
    """By the checks that torch makes for a GPU, which need none."""
    with FakeTensorMode():
        x = torch.empty(2, 20, 56, device="cuda")
        for multiple, expected in (
            (1, pytest.raises(RuntimeError, match="divisible by 16")),
            (16, contextlib.nullcontext()),
        ):
            layer = nn.Linear(56, 168, device="cuda")
            with expected:
                layer = EightBitLinear(layer, torch.float8_e4m3fn, multiple)
                assert layer(x).shape == (2, 20, 168)


@torch.no_grad()
def test_scales_are_of_every_row_so_one_large_token_spoils_no_other():
    torch.manual_seed(0)
    layer, x = EightBitLinear(nn.Linear(64, 32), torch.int8), torch.randn(5, 64)
    alone = layer(x)
    x[2] *= 1e4
    kept = [0, 1, 3, 4]
    assert torch.equal(layer(x)[kept], alone[kept])


@torch.no_grad()
def test_a_denoiser_in_int8_predicts_what_it_did_and_keeps_its_conditioning():
    card = models.load_zoo("fashion").card
    zoos = [models.Zoo(card, quantisation=quantisation) for quantisation in (None, "int8")]
    x = torch.randn(4, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    arguments = x, torch.tensor([400.0]), torch.arange(4)
    for name in ("DiT-XL", "U-ViT"):
        expected, output = (zoo.denoisers[name](*arguments) for zoo in zoos)
        assert 0 < relative_error(output, expected) < 1e-3
    block = zoos[1].denoisers["DiT-XL"].blocks[0]
    assert isinstance(block.mlp.fc1, EightBitLinear)
    assert isinstance(block.adaLN_modulation[1], nn.Linear)


def test_what_cannot_be_quantised_is_refused():
    card = models.load_zoo("fashion").card
    with pytest.raises(InputError, match="quantisation=int4 is unknown; known: int8, fp8"):
        quantise(nn.Linear(1, 1), "int4")
    with pytest.raises(InputError, match="quantisation=fp8 needs a GPU of CUDA capability 8.9"):
        models.Zoo(card, quantisation="fp8").denoisers["DiT-S"]
    with pytest.raises(InputError, match="int8 is for transformers, LDM is not one"):
        models.Zoo(card, quantisation="int8").denoisers["LDM-S"]
