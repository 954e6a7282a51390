"""The transformers' parts against timm's, whose state-dict keys they share."""

import pytest
import timm.layers
import torch

from models import transformer
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
    monkeypatch.setattr(transformer, "AMX", amx)
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
    monkeypatch.setattr(transformer, "AMX", amx)
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        transformer.F, "scaled_dot_product_attention", lambda *a: calls.append(1) or real(*a)
    )
    transformer.attention(*torch.randn(3, 1, HEADS, 5, 16).bfloat16())
    assert bool(calls) == fused
