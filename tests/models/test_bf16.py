"""bf16 on a CPU that cannot multiply it: as exact as where it can, at float32's products."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models import bf16
from models.zoo import load_zoo

NETWORKS = ("DiT-S", "LDM-S")


class Products(TorchDispatchMode):
    """The types that matrix products, convolutions and attention were called with."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(word in str(function) for word in ("addmm", "convolution", "attention")):
            self.types |= {a.dtype for a in args if isinstance(a, torch.Tensor)}
        return function(*args, **(kwargs or {}))


def evaluated(name, dtype):
    network = load_zoo("fashion", dtype=dtype).denoisers[name]
    torch.manual_seed(0)
    x = torch.randn(4, *network.spec.latent_shape)
    with torch.no_grad(), Products() as products:
        output = network(x, torch.full((4,), 500.0), torch.arange(4))
    return output, products.types


@pytest.mark.parametrize("name", NETWORKS)
def test_where_bf16_is_emulated_networks_err_as_where_it_is_not(monkeypatch, name):
    exact, _ = evaluated(name, torch.float32)
    with monkeypatch.context() as native_here:
        native_here.setattr(bf16, "emulated", lambda tensor: False)
        native, types = evaluated(name, torch.bfloat16)
    assert types == {torch.bfloat16}
    monkeypatch.setattr(bf16, "ONEDNN", False)
    emulated, types = evaluated(name, torch.bfloat16)
    assert types == {torch.float32}
    assert not torch.equal(emulated, exact)
    assert (emulated - exact).norm() <= 1.5 * (native - exact).norm()
