"""Compiled networks: the same results, and what happens without a compiler."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from models.compile import CompileError, compile_forward
from models.transformer import attention


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()).eval().requires_grad_(False)


@torch.no_grad()
def test_a_compiled_network_gives_the_same_and_compiles_a_shape_once(network):
    x = torch.randn(4, 8)
    expected = network(x)
    assert compile_forward(network, x) > 0
    assert torch.allclose(network(x), expected, atol=1e-5)
    assert compile_forward(network, x) == 0


@torch.no_grad()
def test_without_a_compiler_the_network_stays_as_it_was(network, tmp_path):
    import torch._inductor.config as inductor

    torch.compiler.reset()
    without = {"cpp.cxx": (str(tmp_path / "no-compiler"),), "fx_graph_cache": False}
    x = torch.randn(5, 8)
    expected = network(x)
    with inductor.patch(without), pytest.raises(CompileError, match="compiler"):
        compile_forward(network, x)
    assert torch.equal(network(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 3, 49, 14), (1, 2, 5, 64)])
def test_attention_of_half_precision_is_that_of_full_precision(shape):
    q, k, v = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    halves = [heads.bfloat16() for heads in (q, k, v)]
    expected = attention(*(half.float() for half in halves))
    output = attention(*halves)
    assert output.dtype == torch.bfloat16
    assert (output.float() - expected).abs().max() < 0.03


@torch.no_grad()
def test_more_shapes_are_compiled_than_torch_compiles_by_default():
    network, before = (
        nn.Linear(8, 8).eval().requires_grad_(False),
        counters["stats"]["unique_graphs"],
    )
    for rows in range(2, 12):
        compile_forward(network, torch.randn(rows, 8))
    assert counters["stats"]["unique_graphs"] - before == 10
