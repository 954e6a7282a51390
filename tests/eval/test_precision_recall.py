"""Precision and recall against torch-fidelity's and against ADM's in half precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_prc import prc_features_to_metric

from eval import precision_recall as neighbours
from eval.precision_recall import precision_recall
from models.errors import InputError
from tests import golden

FACTS = golden.facts("metrics_a")
ARRAYS = {name: torch.from_numpy(array) for name, array in golden.arrays("metrics_a").items()}
REFERENCE, SAMPLE = ARRAYS["ref_pool"], ARRAYS["sample_pool"]


def counts(shares, sample, reference):
    """How many points are inside, which is exact where a share is rounded."""
    return round(shares[0] * len(sample)), round(shares[1] * len(reference))


def theirs(sample, reference, k=3, **settings):
    found = prc_features_to_metric(sample, reference, prc_neighborhood=k, verbose=False, **settings)
    return counts((found["precision"], found["recall"]), sample, reference)


def ours(sample, reference, **settings):
    return counts(precision_recall(sample, reference, **settings), sample, reference)


@pytest.mark.parametrize("rows", [70, 100, 10_000])
@pytest.mark.parametrize("sparing", [False, True])
def test_golden_sets_give_torch_fidelitys_numbers_whatever_the_tile(rows, sparing):
    expected = theirs(SAMPLE, REFERENCE, save_cpu_ram=sparing)
    assert ours(SAMPLE, REFERENCE, rows=rows) == expected
    assert expected == (529, 505)
    assert precision_recall(SAMPLE, REFERENCE, rows=rows) == (529 / 600, 505 / 600)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    n=st.integers(5, 80), m=st.integers(5, 80), dimensions=st.integers(1, 40),
    k=st.integers(1, 4), rows=st.integers(1, 90), spread=st.floats(0.2, 3),
    whole=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_random_sets_give_torch_fidelitys_numbers(n, m, dimensions, k, rows, spread, whole, seed):
    generator = torch.Generator().manual_seed(seed)
    sample = spread * torch.randn(n, dimensions, generator=generator)
    reference = torch.randn(m, dimensions, generator=generator)
    if whole:  # many distances are equal, and none is rounded
        sample, reference = sample.mul(3).round(), reference.mul(3).round()
    assert ours(sample, reference, k=k, rows=rows) == theirs(sample, reference, k)


@pytest.mark.parametrize("rows", [64, 1000])
def test_half_precision_is_adms(rows):
    precision, recall = precision_recall(SAMPLE, REFERENCE, distances="float16", rows=rows)
    assert precision == pytest.approx(FACTS["adm"]["precision"], abs=0.006)
    assert recall == pytest.approx(FACTS["adm"]["recall"], abs=0.006)


def test_half_precision_distances_are_within_rounding_of_adms():
    found, back = neighbours._half(REFERENCE[:16], SAMPLE[:16])
    expected = ARRAYS["dist_block_head"]
    norms = REFERENCE[:16].square().sum(1)
    step = np.spacing(norms.max().half().item(), dtype=np.float16)
    assert (found - expected).abs().max() <= 2 * step
    assert (found == expected).float().mean() > 0.4
    assert (found == found.half().float()).all()
    # The other way round, sums round differently.
    turned, _ = neighbours._half(SAMPLE[:16], REFERENCE[:16])
    assert (turned == back).all()
    assert (found != back.T).any()


def test_half_precision_radii_are_within_rounding_of_adms():
    for points, name in ((REFERENCE, "radii_ref"), (SAMPLE, "radii_sample")):
        radii = neighbours._radii(points, 3, "float16", 100)
        torch.testing.assert_close(radii, ARRAYS[name].flatten(), rtol=0.01, atol=0.02)


def test_a_block_that_overflows_half_precision_is_computed_in_single():
    """ADM's rule; a squared norm above 65504 has no half-precision value."""
    sample, reference = 400 * SAMPLE, 400 * REFERENCE
    assert not neighbours._is_finite(sample, reference, 100)
    assert neighbours._is_finite(SAMPLE, REFERENCE, 100)
    assert ours(sample, reference, distances="float16", rows=100) == ours(SAMPLE, REFERENCE)


def test_blocks_are_judged_one_by_one(monkeypatch):
    monkeypatch.setattr(neighbours, "ADM_BLOCK", 100)
    points = torch.cat([SAMPLE[:100], 400 * SAMPLE[100:200]])
    tiles = neighbours._tiles(points, points, "float16", 100, symmetric=True)
    exact = [(tile == tile.half().float()).all().item() for _, _, tile, _ in tiles]
    assert exact == [True, False, False]


def test_a_tile_is_no_larger_than_asked_for_and_each_distance_is_in_one():
    tiles = list(neighbours._tiles(SAMPLE[:90], SAMPLE[:90], "float32", 40, symmetric=True))
    assert max(tile.numel() for _, _, tile, _ in tiles) == 40 * 40
    assert sum(tile.numel() for _, _, tile, _ in tiles) == 90 * 90 - 40 * 40 - 2 * 40 * 10


def test_bad_settings_and_sets_are_refused():
    with pytest.raises(InputError, match="distances=int8 is unknown; known: float32, float16"):
        precision_recall(SAMPLE, REFERENCE, distances="int8")
    with pytest.raises(InputError, match="samples have 64 features, the reference has 63"):
        precision_recall(SAMPLE, REFERENCE[:, 1:])
