"""Allocations against the reference's counts, their properties, and Pareto frontiers."""

from fractions import Fraction
from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stitch import Allocation, pareto_frontier, simplex
from tests import golden

REFERENCE = golden.facts("tstitch_allocation")
derandomized = settings(derandomize=True, deadline=None)
step_counts = st.integers(1, 1000)
# Whole weights, so that the exact fractions and their exact boundaries are known.
weight_lists = st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any)


def small_then_large(small: float, steps: int) -> Allocation:
    return Allocation.from_fractions({"0": small, "1": 1 - small}, steps)


def from_weights(weights: list[int], steps: int) -> Allocation:
    total = sum(weights)
    return Allocation.from_fractions({str(k): w / total for k, w in enumerate(weights)}, steps)


@pytest.mark.parametrize("steps", [10, 20, 50, 100, 250])
def test_two_denoisers_own_the_steps_that_the_reference_gives_them(steps):
    for small, owners in REFERENCE["two_models_dit"]["per_step"][str(steps)].items():
        assert "".join(small_then_large(float(small), steps).steps) == owners


@pytest.mark.parametrize("model", ["two_models_dit", "two_models_ldm"])
def test_the_small_denoiser_gets_as_many_steps_as_in_the_reference(model):
    for steps, counts in REFERENCE[model]["n_small"].items():
        for small, count in counts.items():
            assert small_then_large(float(small), int(steps)).steps.count("0") == count


@pytest.mark.parametrize("steps", [10, 20, 50, 100, 250])
def test_finer_fractions_are_rounded_where_the_reference_has_a_timestep_threshold(steps):
    timesteps = REFERENCE["two_models_dit"]["timesteps"][str(steps)]
    departures = REFERENCE["two_models_dit"]["fine"]["departures"][str(steps)]
    for percent in range(101):
        small = percent / 100
        threshold = sum(t / 1000 >= 1 - small for t in timesteps)
        theirs, rounded = departures.get(f"{small}", (threshold, threshold))
        assert threshold == theirs
        assert small_then_large(small, steps).steps.count("0") == rounded


def test_three_denoisers_own_the_steps_that_the_reference_gives_them():
    rows = REFERENCE["three_models_dit"]["rows"]
    for row in rows:
        fractions = {str(k): fraction for k, fraction in enumerate(row["fractions"])}
        allocation = Allocation.from_fractions(fractions, REFERENCE["three_models_dit"]["T"])
        runs = [[int(name), count] for name, count in allocation.runs]
        assert runs == row["runs"] == row["rounding_rule_runs"]
    assert sorted(simplex(3, 10)) == sorted(tuple(row["fractions"]) for row in rows)


@derandomized
@given(weight_lists, step_counts)
def test_every_step_is_owned_once_and_the_denoisers_come_in_order(weights, steps):
    allocation = from_weights(weights, steps)
    assert len(allocation) == steps
    assert list(allocation.steps) == sorted(allocation.steps)


@derandomized
@given(weight_lists, step_counts)
def test_every_boundary_is_the_rounded_cumulative_fraction(weights, steps):
    allocation = from_weights(weights, steps)
    counts = [allocation.steps.count(str(k)) for k in range(len(weights))]
    for boundary, weight in zip(accumulate(counts), accumulate(weights), strict=True):
        exact = Fraction(weight * steps, sum(weights))
        assert abs(boundary - exact) <= Fraction(1, 2)
        assert boundary == round(exact)  # halves to even


@derandomized
@given(st.floats(0, 1), st.floats(0, 1), step_counts)
def test_a_larger_fraction_never_gets_fewer_steps(one, other, steps):
    low, high = (small_then_large(small, steps).steps.count("0") for small in sorted([one, other]))
    assert low <= high


@derandomized
@given(weight_lists, step_counts)
def test_a_fraction_of_zero_owns_nothing(weights, steps):
    allocation = from_weights(weights, steps)
    assert all(weights[int(name)] > 0 for name in allocation.denoisers)


def test_rounding_errors_of_cumulative_fractions_do_not_move_a_boundary():
    assert 0.1 + 0.2 > 0.3 and round((0.1 + 0.2) * 15) == 5  # 0.3 * 15 = 4.5 rounds to 4
    allocation = Allocation.from_fractions({"S": 0.1, "B": 0.2, "XL": 0.7}, 15)
    assert allocation.runs == [("S", 2), ("B", 2), ("XL", 11)]
    tenths = {str(k): 0.1 for k in range(10)}
    assert Allocation.from_fractions(tenths, 10).runs == [(name, 1) for name in tenths]


@pytest.mark.parametrize("negative", [-0.1, float("nan")])
def test_a_fraction_that_is_not_zero_or_more_is_named(negative):
    with pytest.raises(ValueError, match=rf"the fraction of XL is {negative:g}.*0 or more"):
        Allocation.from_fractions({"S": 1.1, "XL": negative}, 10)


@pytest.mark.parametrize(
    "fractions, total",
    [
        ((0.4, 0.5), "0.9"),
        ((0.1, 0.2, 0.6), "0.9"),
        ((1.0, 1.0), "2"),
        ((0.5, 0.500002), "1.000002"),
    ],
)
def test_fractions_that_do_not_sum_to_1_are_refused_with_their_sum(fractions, total):
    with pytest.raises(ValueError, match=rf"sum to {total}; they must sum to 1"):
        Allocation.from_fractions(dict(zip("abc", fractions, strict=False)), 10)


def test_an_explicit_allocation_takes_any_order():
    allocation = Allocation.explicit(["XL", "S", "S", "XL"])
    assert allocation.runs == [("XL", 1), ("S", 2), ("XL", 1)]
    assert allocation.denoisers == ["XL", "S"]
    assert str(allocation) == "XL*1+S*2+XL*1"
    assert allocation.cost({"S": 6.0, "XL": 100.0, "unused": 1e9}) == 212.0


def test_equal_steps_are_equal_allocations():
    stretches, listed = small_then_large(0.5, 4), Allocation.explicit("0011")
    assert stretches == listed and hash(stretches) == hash(listed)
    assert stretches != small_then_large(0.25, 4)


@pytest.mark.parametrize("parts, resolution, count", [(3, 10, 66), (2, 10, 11), (4, 5, 56)])
def test_the_simplex_lists_every_composition_once(parts, resolution, count):
    points = simplex(parts, resolution)
    assert len(points) == len(set(points)) == count
    assert all(len(point) == parts and sum(point) == pytest.approx(1) for point in points)
    assert points[0] == (*[0.0] * (parts - 1), 1.0)
    assert points[-1] == (1.0, *[0.0] * (parts - 1))


# Few different values, so that ties are common.
coordinates = st.integers(0, 6) | st.floats(0, 1e6)
point_lists = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=12)


def dominates(one, other) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]


@derandomized
@given(point_lists)
def test_no_point_dominates_a_point_of_the_frontier(points):
    frontier = pareto_frontier(*zip(*points, strict=True))
    assert not any(dominates(point, points[i]) for point in points for i in frontier)


@derandomized
@given(point_lists)
def test_every_other_point_is_dominated_by_the_frontier_or_equal_to_a_point_of_it(points):
    frontier = [points[i] for i in pareto_frontier(*zip(*points, strict=True))]
    for point in points:
        assert point in frontier or any(dominates(better, point) for better in frontier)


@derandomized
@given(point_lists)
def test_along_the_frontier_cost_rises_and_quality_improves(points):
    frontier = pareto_frontier(*zip(*points, strict=True))
    assume(len(frontier) > 1)
    for i, j in pairwise(frontier):
        assert points[i][0] < points[j][0] and points[i][1] > points[j][1]
