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


@torch.no_grad()
def test_half_precision_attention_on_a_cpu_errs_hardly_more_than_torchs():
    q, k, v = torch.randn(3, 2, HEADS, 50, 16, generator=torch.Generator().manual_seed(0))
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    half = [part.bfloat16() for part in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(*half)
    error = (transformer.attention(*half).float() - exact).square().mean()
    assert error <= 1.5**2 * (theirs.float() - exact).square().mean()
