"""Metrics against ADM's evaluator, torch-fidelity and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity import metric_fid
from torch_fidelity.metric_kid import kid_features_to_metric

from eval import metrics
from eval.metrics import (
    Inputs,
    Moments,
    compute,
    frechet_distance,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
)
from models.errors import InputError
from tests import golden

FACTS = golden.facts("metrics_a")
ARRAYS = {name: torch.from_numpy(array) for name, array in golden.arrays("metrics_a").items()}
REFERENCE, SAMPLE = ARRAYS["ref_pool"], ARRAYS["sample_pool"]
derandomized = settings(derandomize=True, deadline=None, max_examples=50)


def spatial(which, spread, noise, mean, dimensions=343, rank=8):
    """The fixture's low-rank features, by their recipe."""
    z = golden.normal(f"metrics_a:spatial:{which}:Z", (600, rank)).astype(np.float64)
    w = golden.normal("metrics_a:spatial:W", (rank, dimensions)).astype(np.float64)
    e = golden.normal(f"metrics_a:spatial:{which}:E", (600, dimensions)).astype(np.float64)
    features = mean + spread * (z @ w) / np.sqrt(rank) + noise * e
    return torch.from_numpy(features.astype(np.float32))


def probabilities():
    z = golden.normal("metrics_a:logits", (600, 1008)).astype(np.float64)
    return torch.from_numpy(2.5 * z).softmax(1).float()


def check_recipe(array, name):
    torch.testing.assert_close(array[:4, :8], ARRAYS[f"{name}_head"], rtol=1e-6, atol=1e-7)
    array = array.double()
    stats = torch.stack([array.mean(), array.std(correction=0), array.abs().sum()])
    torch.testing.assert_close(stats, ARRAYS[f"{name}_stats"], rtol=1e-6, atol=1e-9)


def test_fid_equals_adms():
    fid = frechet_distance(SAMPLE, REFERENCE)
    assert fid == pytest.approx(FACTS["adm"]["fid"], rel=5e-5)
    assert fid == pytest.approx(FACTS["exact_float64"]["fid"], rel=1e-9)


def test_sfid_equals_adms():
    reference, sample = spatial("ref", 0.6, 0.3, 0.1), spatial("sample", 0.55, 0.33, 0.05)
    check_recipe(reference, "ref_spatial")
    check_recipe(sample, "sample_spatial")
    sfid = frechet_distance(sample, reference)
    assert sfid == pytest.approx(FACTS["adm"]["sfid"], rel=5e-5)
    assert sfid == pytest.approx(FACTS["exact_float64"]["sfid"], rel=1e-9)


def test_inception_score_equals_adms():
    check_recipe(probabilities(), "preds")
    score = inception_score(probabilities())
    assert score == pytest.approx(FACTS["adm"]["is_5000"], rel=1e-6)
    assert score == pytest.approx(FACTS["torch_fidelity"]["isc_splits1"], rel=1e-6)


def test_precision_and_recall_equal_adms_in_single_precision():
    precision, recall = precision_recall(SAMPLE, REFERENCE)
    inside = [round(600 * share, 3) for share in (precision, recall)]
    assert inside == (600 * ARRAYS["adm_fp32_pr"]).round(decimals=3).tolist()


def test_fewer_samples_than_dimensions_give_the_exact_distance():
    distance = frechet_distance(SAMPLE[:48], REFERENCE[:48])
    assert distance == pytest.approx(FACTS["rank_deficient_first48"]["exact"], rel=1e-6)


@pytest.mark.parametrize("count", [600, 100])
def test_fid_equals_torch_fidelitys(count):
    statistics = [
        metric_fid.fid_features_to_statistics(features[:count].double())
        for features in (SAMPLE, REFERENCE)
    ]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    ours = frechet_distance(SAMPLE[:count], REFERENCE[:count])
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


def test_moments_and_features_give_the_same_distance():
    expected = frechet_distance(SAMPLE, REFERENCE)
    assert frechet_distance(moments(SAMPLE), REFERENCE) == expected
    assert frechet_distance(SAMPLE, moments(REFERENCE)) == expected


def test_moments_are_those_of_numpy():
    mean, covariance = moments(SAMPLE)
    array = SAMPLE.double().numpy()
    np.testing.assert_allclose(mean, array.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(array, rowvar=False), rtol=1e-9, atol=1e-15)


def test_the_distance_of_a_set_to_itself_is_zero_and_the_distance_is_symmetric():
    assert frechet_distance(SAMPLE, SAMPLE) == pytest.approx(0, abs=1e-6)
    there, back = frechet_distance(SAMPLE, REFERENCE), frechet_distance(REFERENCE, SAMPLE)
    assert there == pytest.approx(back, rel=1e-9)


axis = st.tuples(*[st.floats(-10, 10)] * 2, *[st.floats(0, 10)] * 2)


@derandomized
@given(st.lists(axis, min_size=1, max_size=6))
def test_distance_of_axis_aligned_gaussians_is_the_closed_form(axes):
    mean, other_mean, std, other_std = torch.tensor(axes, dtype=torch.float64).T
    distance = frechet_distance(
        Moments(mean, std.square().diag()), Moments(other_mean, other_std.square().diag())
    )
    expected = (mean - other_mean).square().sum() + (std - other_std).square().sum()
    assert distance == pytest.approx(expected.item(), rel=1e-9, abs=1e-9)


def test_features_of_one_dimension_have_a_distance():
    sample, reference = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])
    assert frechet_distance(sample, reference) == pytest.approx(4**2 + (8**0.5 - 2**0.5) ** 2)


def test_unlike_dimensions_are_refused():
    with pytest.raises(InputError, match="samples have 3 features, the reference has 4"):
        frechet_distance(torch.randn(9, 3), torch.randn(9, 4))


def test_too_few_samples_are_refused():
    with pytest.raises(InputError, match="at least 2 samples, there is 1"):
        moments(torch.zeros(1, 4))
    with pytest.raises(InputError, match="k=3 neighbours need more than 3"):
        precision_recall(torch.zeros(3, 4), torch.zeros(9, 4))


def gaussian(count, seed):
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


def test_a_collapsed_mode_has_high_precision_and_low_recall():
    reference = gaussian(300, seed=0)
    collapsed = reference[:1] + 0.01 * gaussian(300, seed=1)
    precision, recall = precision_recall(collapsed, reference)
    assert precision == 1 and recall < 0.02


def test_samples_far_from_the_reference_have_neither():
    reference = gaussian(300, seed=0)
    assert precision_recall(gaussian(300, seed=1) + 100, reference) == (0, 0)


def test_samples_of_the_references_distribution_have_both():
    precision, recall = precision_recall(gaussian(300, seed=1), gaussian(300, seed=0))
    assert precision > 0.7 and recall > 0.7


def test_swapped_sets_swap_precision_and_recall():
    narrow, wide = 0.5 * gaussian(200, seed=1), gaussian(300, seed=0)
    precision, recall = precision_recall(narrow, wide)
    assert precision > recall
    assert precision_recall(wide, narrow) == (recall, precision)


def test_the_score_of_a_single_class_is_1():
    probabilities = torch.zeros(20, 7)
    probabilities[:, 3] = 1
    assert inception_score(probabilities) == pytest.approx(1)
    assert inception_score(torch.full((20, 7), 1 / 7)) == pytest.approx(1)


def test_the_score_of_certain_and_evenly_spread_classes_is_their_number():
    assert inception_score(torch.eye(7).repeat(3, 1)) == pytest.approx(7)


def test_the_score_averages_chunks_in_order_and_a_shorter_last_one_counts_equally():
    one_class, all_classes = torch.eye(5)[[2] * 10], torch.eye(5)
    score = inception_score(torch.cat([one_class, all_classes]), chunk=10)
    assert score == pytest.approx((1 + 5) / 2)


@pytest.mark.parametrize("which", ["sample", "reference", "both"])
def test_fewer_samples_than_dimensions_give_the_nuclear_norm(which):
    """The trace of the root is the nuclear norm of the cross matrix of the centred sets."""
    reference = spatial("ref", 0.6, 0.3, 0.1)[: 600 if which == "sample" else 60]
    sample = spatial("sample", 0.55, 0.33, 0.05)[: 600 if which == "reference" else 50]
    scaled = [(x.double() - x.double().mean(0)) / (len(x) - 1) ** 0.5 for x in (sample, reference)]
    root = torch.linalg.svdvals(scaled[0] @ scaled[1].T).sum()
    difference = sample.double().mean(0) - reference.double().mean(0)
    expected = difference @ difference + sum(x.square().sum() for x in scaled) - 2 * root
    assert frechet_distance(sample, reference) == pytest.approx(expected.item(), rel=1e-9)


def test_moments_of_many_rows_are_those_of_numpy():
    features = torch.randn(2345, 7, generator=torch.Generator().manual_seed(0)) + 1000
    mean, covariance = moments(features)
    np.testing.assert_allclose(mean, features.double().mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.double().T), rtol=1e-9, atol=1e-12)


def test_features_that_are_not_finite_are_refused():
    features = SAMPLE.clone()
    features[5, 3] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        frechet_distance(features, REFERENCE)


def test_kid_is_torch_fidelitys():
    sample, reference = SAMPLE[:200], REFERENCE[:300]
    theirs = kid_features_to_metric(sample, reference, kid_subset_size=200, verbose=False)
    ours = kernel_distance(sample, reference)
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert abs(kernel_distance(SAMPLE[:300], SAMPLE[300:])) < 0.3 * ours


def test_what_is_wanted_is_computed_in_that_order():
    found = {"features": SAMPLE, "logits": probabilities().log()}
    inputs = Inputs(found, {"features": moments(REFERENCE)}, REFERENCE)
    values = compute(["recall", "is", "fd_dinov2"], inputs)
    assert list(values) == ["recall", "is", "fd_dinov2"]
    assert values["recall"] == precision_recall(SAMPLE, REFERENCE)[1]
    assert values["fd_dinov2"] == frechet_distance(SAMPLE, REFERENCE)
    assert values["is"] == pytest.approx(FACTS["adm"]["is_5000"], rel=1e-6)


def test_moments_as_a_gpu_sums_them_are_those_of_numpy():
    features = torch.randn(2500, 6, generator=torch.Generator().manual_seed(0)) + 100
    expected, found = metrics.moments(features), metrics._moments_on_gpu(features)
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-12, atol=1e-12)
    features[7, 3] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        metrics._moments_on_gpu(features)
