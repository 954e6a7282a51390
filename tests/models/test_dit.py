"""The native DiT against the reference network."""

import pytest
import torch

import models
from models import dit
from models.errors import InputError
from tests import golden


@pytest.fixture(scope="module", params=["DiT-S/2", "DiT-B/4"])
def case(request):
    network = models.create(request.param).eval()
    golden.fill(network)
    fixture = golden.arrays("dit_" + request.param.replace("/", "-"))
    return network, {name: torch.from_numpy(array) for name, array in fixture.items()}


def test_parameter_counts_equal_the_reference(case):
    network, fixture = case
    total = sum(p.numel() for p in network.parameters())
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert [total, trainable] == fixture["n_params"].tolist()


def test_position_table_equals_the_reference(case):
    network, fixture = case
    rows = network.pos_embed[0, [0, 1, -1]]
    assert torch.equal(rows, fixture["pos_embed_tokens"])


def test_state_dict_keys_and_shapes_are_those_of_the_official_checkpoint():
    network = models.create("DiT-S/2")
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert shapes == golden.facts("keys_dit_DiT-S-2")


@pytest.mark.parametrize("name", dit.CONFIGURATIONS)
def test_parameters_of_every_size_are_those_published(name):
    with torch.device("meta"):
        network = models.create(name)
    published = golden.facts("facts")["models"][f"{name}@32x32x4"]["params"]
    assert sum(p.numel() for p in network.parameters()) == published


@torch.no_grad()
def test_any_latent_size_class_count_and_output_width():
    network = models.create(
        "DiT", latent_shape=(3, 6, 10), patch_size=2, width=24, depth=1, num_heads=2,
        num_classes=5, learn_sigma=False,
    )  # fmt: skip
    output = network(torch.zeros(2, 3, 6, 10), torch.tensor([0.5, 999.0]), torch.tensor([0, 5]))
    assert output.shape == (2, 3, 6, 10)
    assert network.spec.null_label == 5


@torch.no_grad()
def test_half_precision_weights_take_and_give_float32():
    network = models.create("DiT", latent_shape=(4, 4, 4), width=32, depth=1, num_heads=2)
    golden.fill(network)
    arguments = torch.randn(2, 4, 4, 4), torch.tensor([3, 700]), torch.tensor([1, 2])
    expected = network(*arguments)
    output = network.to(torch.bfloat16)(*arguments)
    assert output.dtype == torch.float32
    assert (output - expected).abs().max() < 0.1


def test_unknown_network_names_the_known_ones():
    with pytest.raises(InputError, match="unknown network 'DiT-M/2'.*DiT-XL/2"):
        models.create("DiT-M/2")


def test_unknown_argument_is_named():
    with pytest.raises(InputError, match="dephts"):
        models.create("DiT-S/2", dephts=3)


def test_latents_that_patches_do_not_tile_are_refused():
    with pytest.raises(InputError, match="latent_shape .* patch_size"):
        models.create("DiT-S/2", latent_shape=(4, 7, 7))
