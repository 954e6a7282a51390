"""Allocations against the reference's counts, their properties, and Pareto frontiers."""

import math
from fractions import Fraction
from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import samplers.spacing
from models.errors import InputError
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


@pytest.mark.parametrize("rounding", [round, math.floor])
@pytest.mark.parametrize("steps", [48, 50])
@pytest.mark.parametrize(
    "written, exact",
    [
        ([0.3333333] * 3, [1 / 3] * 3),
        ([0.3333334] * 3, [1 / 3] * 3),
        ([0.3333333, 0.6666666, 0.0], [1 / 3, 2 / 3, 0.0]),
        ([0.9999999, 0.0], [1.0, 0.0]),
    ],
)
def test_fractions_that_are_written_short_give_the_steps_of_exact_ones(
    rounding, steps, written, exact
):
    found, expected = (
        Allocation.from_fractions(dict(zip("SBL", fractions, strict=False)), steps, rounding)
        for fractions in (written, exact)
    )
    assert found == expected and len(found) == steps


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
    # (0.1 + 0.2) * 15 is a little above 4.5 and would round to 5; 0.3 * 15 = 4.5 rounds to 4.
    allocation = Allocation.from_fractions({"S": 0.1, "B": 0.2, "XL": 0.7}, 15)
    assert allocation.runs == [("S", 2), ("B", 2), ("XL", 11)]
    tenths = {str(k): 0.1 for k in range(10)}
    assert Allocation.from_fractions(tenths, 10).runs == [(name, 1) for name in tenths]


@pytest.mark.parametrize(
    "wrong, message",
    [
        (-0.1, r" is -0.1; it must be 0 or more"),
        (float("nan"), "=nan must be a number"),
        (True, "=True must be a number"),
        ("0.5", "='0.5' must be a number"),
    ],
)
def test_a_fraction_that_is_no_number_of_zero_or_more_is_named(wrong, message):
    with pytest.raises(InputError, match=f"the fraction of XL{message}"):
        Allocation.from_fractions({"S": 1.1, "XL": wrong}, 10)


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
    with pytest.raises(InputError, match=rf"sum to {total}; they must sum to 1"):
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


@pytest.mark.parametrize("steps", [10, 20, 50, 100, 250])
def test_the_threshold_rule_of_two_denoisers_is_the_references(steps):
    facts = REFERENCE["two_models_dit"]
    timesteps = facts["timesteps"][str(steps)]
    for small, owners in facts["per_step"][str(steps)].items():
        fractions = {"0": float(small), "1": 1 - float(small)}
        assert "".join(Allocation.from_threshold(fractions, timesteps).steps) == owners
    departures = facts["fine"]["departures"][str(steps)]
    for percent in range(101):
        small = percent / 100
        allocation = Allocation.from_threshold({"0": small, "1": 1 - small}, timesteps)
        rounded = small_then_large(small, steps).steps.count("0")
        theirs, _ = departures.get(f"{small}", (rounded, rounded))
        assert allocation.steps.count("0") == theirs


@pytest.mark.parametrize("steps", [10, 20, 50, 100, 250])
def test_the_threshold_rule_on_the_stride_respacing_is_the_references(steps):
    departures = REFERENCE["two_models_dit"]["fine"]["departures"][f"ddim{steps}"]
    timesteps = list(range(0, 1000, 1000 // steps))[::-1]
    for percent in range(101):
        small = percent / 100
        allocation = Allocation.from_threshold({"0": small, "1": 1 - small}, timesteps)
        rounded = small_then_large(small, steps).steps.count("0")
        theirs, _ = departures.get(f"{small}", (rounded, rounded))
        assert allocation.steps.count("0") == theirs


@pytest.mark.parametrize("steps", [10, 20, 50, 100, 200, 250])
def test_the_strict_threshold_rule_is_the_references_for_ldm(steps):
    first, last, count = REFERENCE["two_models_ldm"]["timesteps_first_last"][str(steps)]
    timesteps = samplers.spacing.visits("ldm", steps, samplers.NoiseSchedule.create("ldm"))
    assert (timesteps[0], timesteps[-1], len(timesteps)) == (first, last, count)
    for small, owned in REFERENCE["two_models_ldm"]["n_small"][str(steps)].items():
        fractions = {"0": float(small), "1": 1 - float(small)}
        allocation = Allocation.from_threshold(fractions, timesteps, strict=True)
        assert allocation.steps.count("0") == owned


@pytest.mark.parametrize("steps", [10, 20, 50, 100, 250])
def test_the_threshold_rule_of_three_denoisers_is_the_references(steps):
    # The fixture lists T = 100 and says that no other T departs from the rounding rule.
    timesteps = REFERENCE["two_models_dit"]["timesteps"][str(steps)]
    for row in REFERENCE["three_models_dit"]["rows"]:
        fractions = {str(k): fraction for k, fraction in enumerate(row["fractions"])}
        allocation = Allocation.from_threshold(fractions, timesteps)
        assert allocation == Allocation.from_fractions(fractions, steps)
        if steps == 100:
            assert [[int(name), count] for name, count in allocation.runs] == row["runs"]


@derandomized
@given(st.lists(st.sampled_from(["DiT-S", "DiT-XL", "U-ViT"]), min_size=1))
def test_text_and_runs_are_inverted(steps):
    allocation = Allocation.explicit(steps)
    assert Allocation.parse(str(allocation)) == allocation
    assert Allocation.from_runs(allocation.runs) == allocation
    assert sum(allocation.counts.values()) == len(steps)
    assert len(allocation.switches) == len(allocation.runs) - 1


def test_names_with_a_star_or_digits_parse_and_spaces_are_allowed():
    assert Allocation.parse("DiT-S/2*40 + DiT-XL/2 * 60").runs == [
        ("DiT-S/2", 40),
        ("DiT-XL/2", 60),
    ]


@pytest.mark.parametrize("text", ["", "DiT-S", "DiT-S*", "DiT-S*0", "DiT-S*4+", "*4", "DiT-S*-1"])
def test_text_that_is_no_allocation_is_refused(text):
    with pytest.raises(InputError, match=r"is not NAME\*COUNT"):
        Allocation.parse(text)


@derandomized
@given(weight_lists, step_counts)
def test_other_orders_give_every_denoiser_as_many_steps(weights, steps):
    fractions = {str(k): w / sum(weights) for k, w in enumerate(weights)}
    counts = Allocation.from_fractions(fractions, steps).counts
    assert Allocation.interleave(fractions, steps).counts == counts
    assert Allocation.large_to_small(fractions, steps).counts == counts


@derandomized
@given(st.integers(1, 400), st.integers(0, 100))
def test_interleaved_steps_are_evenly_spread(steps, percent):
    small = percent / 100
    allocation = Allocation.interleave({"S": small, "L": 1 - small}, steps)
    share = allocation.steps.count("S") / steps
    for done in range(steps + 1):
        assert abs(allocation.steps[:done].count("S") - share * done) <= 1


def test_the_mixtures_of_table_7():
    halves = {"S": 0.5, "L": 0.5}
    assert Allocation.interleave(halves, 6).steps == ("S", "L") * 3
    assert Allocation.large_to_small(halves, 6).steps == ("L",) * 3 + ("S",) * 3
    drawn = [Allocation.decreasing_probability("S", "L", 100, seed) for seed in range(200)]
    assert drawn[3] == Allocation.decreasing_probability("S", "L", 100, 3) != drawn[4]
    assert all(one.steps[0] == "S" and one.steps[-1] == "L" for one in drawn)
    for start in range(0, 100, 20):
        share = sum(one.steps[start : start + 20].count("S") for one in drawn) / 4000
        assert share == pytest.approx(1 - (start + 9.5) / 99, abs=0.03)


def test_a_switch_at_a_log_snr_is_the_same_noise_level_for_any_steps():
    schedule = samplers.NoiseSchedule.create("ddpm-linear")
    for steps in (10, 50, 250):
        timesteps = samplers.create("ddim", steps, schedule).timesteps
        log_snr = schedule.log_snr(timesteps)
        allocation = Allocation.from_switch_snr(["S", "B", "XL"], [-3.0, 1.0], log_snr)
        for name, value in zip(allocation.steps, log_snr, strict=True):
            assert name == ("S" if value < -3 else "B" if value < 1 else "XL")


@pytest.mark.parametrize("switches", [[], [1.0, -1.0], [0.0, 1.0, 2.0]])
def test_switches_must_ascend_and_be_one_fewer_than_denoisers(switches):
    with pytest.raises(InputError, match="must be 2 ascending log-SNR values"):
        Allocation.from_switch_snr(["S", "B", "XL"], switches, [0.0])


def test_the_intervals_of_an_allocation_share_out_the_timesteps():
    timesteps = samplers.create("ddim", 10, "ddpm-linear").timesteps  # 999, 888, ..., 0
    allocation = Allocation.from_fractions({"S": 0.5, "B": 0.3, "XL": 0.2}, 10)
    intervals = [allocation.interval(name, timesteps) for name in ("S", "B", "XL")]
    assert intervals == [(445, 1000), (112, 445), (0, 112)]
    with pytest.raises(InputError, match="S does not own one stretch"):
        Allocation.explicit("SLSL").interval("S", [3, 2, 1, 0])


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
