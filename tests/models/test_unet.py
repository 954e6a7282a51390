"""The native LDM U-Net against the reference network."""

import pytest
import torch

import models
from models.cost import macs
from models.errors import InputError
from tests import golden


@pytest.fixture(scope="module")
def case():
    network = models.create("LDM-S").eval()
    golden.fill(network)
    fixture = golden.arrays("ldm_unet_LDM-S")
    return network, {name: torch.from_numpy(array) for name, array in fixture.items()}


@torch.no_grad()
def test_label_embeddings_equal_the_reference(case):
    network, fixture = case
    assert torch.equal(network.embed_labels(fixture["y"]), fixture["context"].squeeze(1))


def test_state_dict_keys_and_shapes_are_those_of_the_official_checkpoint(case):
    network, _ = case
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert shapes == golden.facts("keys_ldm_LDM-S")


@pytest.mark.parametrize("name", ["LDM-S", "LDM"])
def test_parameters_and_multiply_accumulates_are_those_published(name):
    with torch.device("meta"):
        network = models.create(name)
    facts = golden.facts("facts")["models"][f"{name} U-Net@32x32x4"]
    count = [
        sum(p.numel() for p in part.parameters())
        for part in (network.model, network.cond_stage_model)
    ]
    assert count == [facts["params"], facts["class_embedding_params"]]
    assert macs(network.to("meta")) == facts["macs"]


def test_the_public_ldm_4_has_its_published_size():
    with torch.device("meta"):
        network = models.create("cin256-v2")
    total = sum(p.numel() for p in network.parameters())
    assert total == 400_920_579 + 1001 * 512  # U-Net and class embedder
    assert network.spec.latent_shape == (3, 64, 64)
    assert network.spec.null_label == 1000
    blocks = [m for m in network.modules() if type(m).__name__ == "TransformerBlock"]
    assert {block.attn1.num_heads for block in blocks} == {1}


@torch.no_grad()
def test_embeddings_may_stand_for_labels(case):
    network, fixture = case
    assert network.spec.null_label is None and network.spec.label_width == 256
    x, t, y = fixture["x"], fixture["t"], fixture["y"]
    assert torch.equal(network(x, t, network.embed_labels(y)), network(x, t, y))


@torch.no_grad()
def test_odd_latents_are_restored_to_their_size():
    network = models.create(
        "U-Net", latent_shape=(4, 7, 5), model_channels=32, context_width=8, num_classes=3
    )
    golden.fill(network)
    output = network(torch.randn(2, 4, 7, 5), torch.tensor([0.5, 999.0]), torch.tensor([0, 3]))
    assert output.shape == (2, 4, 7, 5)
    assert output.isfinite().all()


@torch.no_grad()
def test_half_precision_weights_take_and_give_float32():
    network = models.create(
        "U-Net",
        latent_shape=(4, 8, 8),
        model_channels=32,
        context_width=8,
        num_classes=3,
    )
    golden.fill(network)
    arguments = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.tensor([1, 3])
    expected = network(*arguments)
    output = network.to(torch.bfloat16)(*arguments)
    assert output.dtype == torch.float32
    assert (output - expected).abs().max() < 0.2


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(model_channels=48), "model_channels 48 must be a multiple of norm_groups 32"),
        (dict(num_head_channels=48), "num_head_channels 48"),
    ],
)
def test_sizes_that_do_not_fit_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        models.create("LDM-S", **wrong)
