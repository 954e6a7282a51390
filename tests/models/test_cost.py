"""Cost of a denoiser against the published one."""

import pytest
import torch

import models
from models.cost import macs
from tests import golden


@pytest.mark.parametrize("name", ["DiT-S/2", "DiT-B/4", "DiT-L/8", "DiT-XL/2"])
def test_multiply_accumulates_are_those_published(name):
    with torch.device("meta"):
        network = models.create(name)
    published = golden.facts("facts")["models"][f"{name}@32x32x4"]["macs"]
    assert macs(network.to("meta")) == published


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counting_does_not_depend_on_device_or_precision(dtype):
    network = models.create("DiT", latent_shape=(4, 8, 8), width=32, depth=2, num_heads=2)
    expected = macs(network)
    assert macs(network.to(dtype)) == expected > 0
    assert macs(network.to("meta")) == expected
