"""Model stitching: paths through two DiTs, and the layers that join them."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import models
import samplers
import stitch
from models.cost import macs
from models.errors import InputError
from models.files import sha256_of
from models.stitched import (
    LARGE,
    SMALL,
    Stitch,
    StitchedDiT,
    StitchingLayer,
    default_cuts,
    routes,
    sizes,
)
from models.weights import save_checkpoint
from models.zoo import CARDS

SIZES = dict(name="DiT", latent_shape=(4, 6, 6), patch_size=2, num_heads=2, num_classes=3)
SMALL_SIZES, LARGE_SIZES = dict(SIZES, width=8, depth=3), dict(SIZES, width=12, depth=5)
CUTS = [(1, 1), (2, 4)]


def filled(module):
    """Values that no path is blind to: DiT's own begin with zeros."""
    generator = torch.Generator().manual_seed(0)
    for value in module.parameters():
        value.data = torch.randn(value.shape, generator=generator, dtype=torch.float64) / 4
    return module


@pytest.fixture
def stitched():
    return filled(StitchedDiT(SMALL_SIZES, LARGE_SIZES, rank=2, cuts=CUTS).double())


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 4, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 1, 10, 100, 300, 500, 800, 999]), torch.arange(8) % 4


def test_least_squares_finds_a_linear_map_exactly():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((4, 9, 5), (7, 5), (7,))
    )
    layer = StitchingLayer(5, 7, rank=1).double()
    layer.fit(x, x @ weight.T + bias)
    torch.testing.assert_close(layer.weight, weight)
    torch.testing.assert_close(layer.bias, bias)
    torch.testing.assert_close(layer(x), x @ weight.T + bias)


def test_a_stitch_that_never_leaves_is_the_dit_itself(stitched, inputs):
    for part in (SMALL, LARGE):
        assert stitched(*inputs, part).equal(stitched.parts[part](*inputs))
        assert stitched.stitches()[part](*inputs).equal(stitched.parts[part](*inputs))


def test_fitted_to_two_equal_dits_every_stitch_is_that_dit(inputs):
    stitched = filled(StitchedDiT(LARGE_SIZES, LARGE_SIZES, 2, [(1, 1), (3, 3)]).double())
    stitched.parts[SMALL].load_state_dict(stitched.parts[LARGE].state_dict())
    for layer in itertools.chain(*stitched.layers):
        torch.nn.init.zeros_(layer.up)
    stitched.fit(*inputs)
    assert len(stitched.routes) == 8
    for path in stitched.stitches():
        torch.testing.assert_close(path(*inputs), stitched.parts[LARGE](*inputs))


def test_paths_are_walked_block_by_block(stitched, inputs):
    """Small, large, small again: the sum of what the blocks and layers do, written out."""
    x, t, y = inputs
    small, large = stitched.parts
    index = stitched.routes.index(((SMALL, 0, 1), (LARGE, 1, 4), (SMALL, 2, 3)))
    tokens = small.blocks[0](small.embed(x), small.conditioning(t, y))
    tokens = stitched.layers[LARGE][0](tokens)
    for block in large.blocks[1:4]:
        tokens = block(tokens, large.conditioning(t, y))
    tokens = stitched.layers[SMALL][1](tokens)
    tokens = small.blocks[2](tokens, small.conditioning(t, y))
    torch.testing.assert_close(
        stitched(x, t, y, index), small.head(tokens, small.conditioning(t, y))
    )


def test_gradients_reach_the_path_and_nothing_that_is_frozen(stitched, inputs):
    index = stitched.routes.index(((SMALL, 0, 2), (LARGE, 4, 5)))
    stitched(*inputs, index).square().sum().backward()
    reached = {name for name, value in stitched.named_parameters() if value.grad is not None}
    beginnings = (
        "parts.0.x_embedder.", "parts.0.t_embedder.", "parts.0.y_embedder.", "parts.0.blocks.0.",
        "parts.0.blocks.1.", "parts.1.t_embedder.", "parts.1.y_embedder.", "parts.1.blocks.4.",
        "parts.1.final_layer.",
    )  # fmt: skip
    learned = {f"layers.1.1.{name}" for name in ("bias", "down", "up")}
    assert reached == learned | {
        name for name, _ in stitched.named_parameters() if name.startswith(beginnings)
    }


def test_there_and_back_costs_what_both_dits_do_and_the_layers(stitched):
    """At every cut, both directions together walk every block once."""
    small, large = (macs(part) for part in stitched.parts)
    widths = [part.width for part in stitched.parts]
    conditioning = sum(256 * width + width**2 for width in widths)
    layers = 2 * widths[0] * widths[1] * (9 + 2)  # for 9 tokens, and the product of LoRA's two
    for k in range(len(CUTS)):
        there, back = (Stitch(stitched, 2 + k + direction * len(CUTS)) for direction in (0, 1))
        assert macs(there) + macs(back) == small + large + conditioning + layers


def test_the_paper_has_134_stitches():
    assert len(routes((12, 28), default_cuts((12, 28)))) == 134


@pytest.mark.parametrize(
    "cuts, complaint",
    [
        ([(0, 1)], r"\[0, 1\] is not between two blocks; the first number must be 1 to 2"),
        ([(1, 5)], r"\[1, 5\] is not between two blocks.*the second 1 to 4"),
        ([(1, 2), (1, 2)], "names a cut twice"),
    ],
)
def test_stitches_between_blocks_that_do_not_exist_are_refused(cuts, complaint):
    with pytest.raises(InputError, match=complaint):
        StitchedDiT(SMALL_SIZES, LARGE_SIZES, 2, cuts)


def test_parts_that_are_no_dits_or_not_alike_are_refused():
    with pytest.raises(InputError, match="U-Net is no DiT"):
        StitchedDiT(dict(SMALL_SIZES, name="U-Net"), LARGE_SIZES, 2)
    with pytest.raises(InputError, match="not alike but for their sizes"):
        StitchedDiT(dict(SMALL_SIZES, patch_size=1), LARGE_SIZES, 2)


def test_weights_that_are_not_shipped_are_known_by_their_record(tmp_path):
    card = OmegaConf.load(CARDS / "fashion.yaml")
    card.checkpoints = str(tmp_path)
    for name, content in (("stitched", b"s"), ("first-stage-ft", b"f")):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        record = {"sha256": sha256_of(tmp_path / f"{name}.safetensors")}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    there = models.Zoo(card).weights_sha256(["stitched:3"])
    (tmp_path / "stitched.safetensors").unlink()
    zoo = models.Zoo(card)
    with pytest.raises(models.CheckpointError, match="not shipped.*train=fashion/stitched"):
        zoo.weights_sha256(["stitched:3"])
    assert zoo.weights_sha256(["stitched:3"], recorded=True) == there
    assert there.keys() == {"stitched:3", "first-stage-ft"}


def test_a_zoo_knows_its_stitches_by_name():
    zoo = models.load_zoo("fashion")
    assert zoo.stitches == [f"stitched:{i}" for i in range(14)]
    assert "stitched:13" in zoo.specs and "stitched:14" not in zoo.specs
    assert zoo.macs("stitched:0") == zoo.macs("DiT-S")
    assert zoo.macs("stitched:1") == zoo.macs("DiT-XL")
    assert "stitched:1" not in list(zoo.denoisers)
    with pytest.raises(InputError, match="'stitched:14'; known: .*stitched:0 to stitched:13"):
        zoo.denoisers["stitched:14"]


def test_a_stitch_is_sampled_by_its_name(tmp_path):
    """That of DiT-XL alone gives DiT-XL's images."""
    card = OmegaConf.load(CARDS / "fashion.yaml")
    shipped = models.Zoo(card)
    stitched = models.create(**sizes(OmegaConf.to_container(card, resolve=True)))
    stitched.parts[LARGE].load_state_dict(shipped.denoisers["DiT-XL"].state_dict())
    save_checkpoint(stitched, tmp_path / "stitched.safetensors", {})
    for name in ("DiT-XL", "first-stage"):
        shutil.copy(shipped.checkpoint(name), tmp_path)
    card.checkpoints = str(tmp_path)
    zoo = models.Zoo(card, dtype=torch.float64)  # in float32, the two round differently
    sampler = samplers.create("ddim", steps=2, schedule=zoo.schedule)
    one, two, other = (
        stitch.sample(zoo, sampler, stitch.Allocation.parse(text), labels=[0, 3], seed=0)
        for text in ("DiT-XL*2", "stitched:1*2", "stitched:9*1+DiT-XL*1")
    )
    assert (one == two).all()
    assert np.abs(one.astype(int) - other).max() > 9
