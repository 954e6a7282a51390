"""Search: which settings are tried, and that it finds the frontier of a space it can know."""

import itertools
import math

import pytest

from eval.search import Plan, Space, first, fronts, neighbours, search
from models.errors import InputError

SPACE = Space(
    {"steps": list("abcdefghij"), "share": list("0123456789"), "trick": ["no", "yes"]},
    {"steps": ["steps"], "steps and trick": ["steps", "trick"],
     "everything": ["steps", "share", "trick"]},
)  # fmt: skip


def cost(setting):
    steps, share, trick, *_ = setting
    return (10 - steps) * (1 - 0.08 * share) * (0.6 if trick else 1)


def quality(setting, images=1000):
    """Fewer steps and larger shares cost quality, the trick a little; few images are noisier."""
    steps, share, trick, *others = setting
    solver = 0.05 * (others[0] - 3) ** 2 if others else 0
    noise = math.sin(17 * steps + 5 * share + 3 * trick) / images**0.5
    return 1 + 0.02 * steps**2 + 0.01 * share**2 + 0.02 * trick + solver + noise


def settings_of(space):
    return {method: space.settings(method) for method in space.methods}


def measured(asked):
    def measure(settings, images):
        asked.append((len(settings), images))
        return {one: quality(one, images) for one in settings}

    return measure


def test_a_method_varies_its_axes_and_no_other():
    assert len(SPACE.settings("steps")) == 10 and len(SPACE.settings("everything")) == 200
    assert all(SPACE.covers("steps", one) for one in SPACE.settings("steps"))
    assert not SPACE.covers("steps", (3, 0, 1)) and SPACE.covers("everything", (3, 2, 1))
    assert SPACE.words((1, 2, 1)) == ["b", "2", "yes"] and SPACE.base == (0, 0, 0)


def test_the_frontier_is_found_with_a_fraction_of_the_measurements():
    asked = []
    plan = Plan(tries=100, generations=4, images=(1000, 10_000), kept=0.25)
    space = Space({**SPACE.axes, "solver": list("abcdef")}, {"everything": [*SPACE.axes, "solver"]})
    *_, last = search(space, settings_of(space), cost, plan, measured(asked))
    every = {one: quality(one, 10_000) for one in space.settings("everything")}
    best = fronts(cost, every, 1)  # a whole front
    wanted = [one for one in best if cost(one) > 1]
    for one in wanted:  # something as cheap is at most 8 % worse
        near = min(value for other, value in last.items() if cost(other) <= 1.02 * cost(one))
        assert near <= 1.08 * every[one]
    assert sum(count for count, images in asked if images == 1000) <= 301 < len(every) / 3
    assert sum(count for count, images in asked if images == 10_000) <= 100
    assert space.base in last


def test_it_does_the_same_every_time():
    plan = Plan(tries=10, generations=2, images=(100, 1000), kept=0.3)
    one, two = [], []
    first_found = search(SPACE, settings_of(SPACE), cost, plan, measured(one))
    assert search(SPACE, settings_of(SPACE), cost, plan, measured(two)) == first_found
    assert one == two


def test_the_first_settings_are_of_all_costs():
    chosen = first(SPACE.settings("everything"), cost, 20)
    assert len(chosen) == len(set(chosen)) == 20
    costs = sorted(map(cost, chosen))
    assert costs[0] < 1 and costs[-1] > 8
    assert max(b / a for a, b in itertools.pairwise(costs[1:])) < 2


@pytest.mark.parametrize("images", [(100,), (100, 1000)])
def test_what_cannot_be_afforded_is_never_measured_but_the_base(images):
    def limited(setting):
        return cost(setting) if cost(setting) <= 3 else math.inf

    seen = []

    def measure(settings, images):
        seen.extend(settings)
        return {one: quality(one, images) for one in settings}

    plan = Plan(tries=12, generations=2, images=images, kept=0.5)
    rounds = search(SPACE, settings_of(SPACE), limited, plan, measure)
    assert {one for one in seen if cost(one) > 3} == {SPACE.base}
    assert all(SPACE.base in found and len(found) > 1 for found in rounds)


def test_a_base_that_cannot_be_measured_ends_the_search_at_once():
    asked = []
    plan = Plan(tries=12, generations=1, images=(100, 1000), kept=0.5)

    def measure(settings, images):
        asked.append(images)
        return {one: quality(one, images) for one in settings if one != SPACE.base}

    with pytest.raises(InputError, match="the first choices of space.axes, a 0 no, could not be"):
        search(SPACE, settings_of(SPACE), cost, plan, measure)
    assert asked == [100]


def test_a_setting_that_fails_is_left_out_and_the_search_goes_on():
    plan = Plan(tries=12, generations=1, images=(100, 1000), kept=0.5)

    def measure(settings, images):
        return {one: quality(one, images) for one in settings if one[0] != 4}

    *_, last = search(SPACE, settings_of(SPACE), cost, plan, measure)
    assert last and all(one[0] != 4 for one in last)


def test_fronts_are_peeled_in_order():
    costs = {(0,): 1, (1,): 2, (2,): 3, (3,): 2, (4,): 3}
    quality = {(0,): 5, (1,): 4, (2,): 3, (3,): 6, (4,): 5}
    assert fronts(costs.get, quality, 3) == [(0,), (1,), (2,)]
    assert set(fronts(costs.get, quality, 4)) == {(0,), (1,), (2,), (3,), (4,)}


def test_neighbours_differ_by_one_choice():
    assert set(neighbours(SPACE, [(0, 5, 1)])) == {(1, 5, 1), (0, 4, 1), (0, 6, 1), (0, 5, 0)}


@pytest.mark.parametrize(
    "axes, methods, message",
    [
        ({}, {"all": []}, "space.axes or space.methods is empty"),
        ({"steps": []}, {"all": ["steps"]}, "space.axes.steps is empty"),
        ({"steps": ["a"]}, {}, "space.axes or space.methods is empty"),
        ({"steps": ["a"]}, {"all": ["stepz"]}, "methods.all varies stepz, which is no axis; known"),
    ],
)
def test_a_space_without_choices_or_of_unknown_axes_is_refused(axes, methods, message):
    with pytest.raises(InputError, match=message):
        Space(axes, methods)
