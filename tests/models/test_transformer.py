"""The transformers' parts against timm's, whose state-dict keys they share."""

import pytest
import timm.layers
import torch

import models
from models import cost, transformer
from tests import golden

WIDTH, HEADS = 24, 3
TOKENS = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(0))


def filled(module):
    golden.fill(module, keep=())
    return module.eval()


@pytest.mark.parametrize(
    "ours, timms",
    [
        (
            transformer.Attention(WIDTH, HEADS, qkv_bias=True),
            timm.layers.Attention(WIDTH, HEADS, qkv_bias=True),
        ),
        (
            transformer.Mlp(WIDTH, 2 * WIDTH, "tanh"),
            timm.layers.Mlp(WIDTH, 2 * WIDTH, act_layer=lambda: torch.nn.GELU("tanh")),
        ),
        (transformer.Mlp(WIDTH, 2 * WIDTH), timm.layers.Mlp(WIDTH, 2 * WIDTH)),
    ],
)
@torch.no_grad()
def test_equals_timms_with_its_weights(ours, timms):
    filled(timms)
    ours.load_state_dict(timms.state_dict())
    torch.testing.assert_close(ours.eval()(TOKENS), timms(TOKENS))


@torch.no_grad()
def test_patches_equal_timms_with_its_weights():
    timms = filled(timm.layers.PatchEmbed(8, 2, 4, WIDTH))
    ours = transformer.PatchEmbed(2, 4, WIDTH)
    ours.load_state_dict(timms.state_dict())
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), timms(x))


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_half_precision_attention_on_any_cpu_errs_hardly_more_than_torchs(
    monkeypatch, amx, training
):
    monkeypatch.setattr(transformer.bf16, "AMX", amx)
    monkeypatch.setattr(transformer.bf16, "ONEDNN", True)
    parts = torch.randn(3, 2, HEADS, 50, 16, generator=torch.Generator().manual_seed(0))

    def run(attention, dtype):
        """The output, or in training the gradient of its sum of squares."""
        q_k_v = parts.to(dtype, copy=True).requires_grad_(training)
        with torch.set_grad_enabled(training):
            output = attention(*q_k_v)
        if training:
            output.float().square().sum().backward()
        return (q_k_v.grad if training else output).float()

    fused = torch.nn.functional.scaled_dot_product_attention
    exact, theirs = run(fused, torch.float32), run(fused, torch.bfloat16)
    ours = run(transformer.attention, torch.bfloat16)
    assert (ours - exact).square().mean() <= 1.5**2 * (theirs - exact).square().mean()


@pytest.mark.parametrize("amx, fused", [(True, True), (False, False)])
@torch.no_grad()
def test_the_cpu_decides_which_attention_is_taken(monkeypatch, amx, fused):
    monkeypatch.setattr(transformer.bf16, "AMX", amx)
    monkeypatch.setattr(transformer.bf16, "ONEDNN", True)
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        transformer.bf16.F, "scaled_dot_product_attention", lambda *a: calls.append(1) or real(*a)
    )
    transformer.attention(*torch.randn(3, 1, HEADS, 5, 16).bfloat16())
    assert bool(calls) == fused


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@torch.no_grad()
def test_a_bf16_mlp_on_a_cpu_errs_no_more_than_timms(approximate):
    timms = filled(timm.layers.Mlp(WIDTH, 2 * WIDTH, act_layer=lambda: torch.nn.GELU(approximate)))
    ours = transformer.Mlp(WIDTH, 2 * WIDTH, approximate)
    ours.load_state_dict(timms.state_dict())
    exact = timms(TOKENS)
    theirs = timms.bfloat16()(TOKENS.bfloat16())
    (ours_error, theirs_error) = (
        (mlp - exact).square().mean() for mlp in (ours.bfloat16()(TOKENS.bfloat16()), theirs)
    )
    assert ours_error <= 1.1**2 * theirs_error


def test_what_is_fused_counts_as_multiply_accumulates():
    network = models.create("DiT-S/8").eval()
    assert cost.macs(network.bfloat16()) == cost.macs(network.float())


def test_an_mlp_that_is_trained_in_bf16_has_gradients():
    mlp = transformer.Mlp(WIDTH, 2 * WIDTH, "tanh").bfloat16()
    mlp(TOKENS.bfloat16()).float().square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in mlp.parameters())
