"""Sampling as the page shows it: two cards, the second kept while shares are moved."""

import dataclasses
import re
import threading

import pytest

from eval.explorer import drawn


def notes(cards):
    return re.findall(r'<p class="note">(.*?)</p>', cards)


def pictures(cards):
    return re.findall(r'src="(data:image/png;base64,[^"]+)"', cards)


def test_a_setting_and_the_largest_alone_are_sampled_side_by_side(desk, studio):
    *steps, last = desk.sampled(studio.first, "a")
    assert len(pictures(steps[0])) == 0 and len(pictures(last)) == 8
    assert any(note.startswith("step 1 of 4") for cards in steps for note in notes(cards))
    ours, theirs = notes(last)
    assert re.fullmatch(r"\d+\.\d\d s for 4 images, \d+\.\d\d times as fast", ours)
    assert re.fullmatch(r"\d+\.\d\d s for 4 images", theirs)
    assert pictures(last)[0] != pictures(last)[4]
    for one in (studio.first, studio.first.pure):
        assert f"{studio.run(one).cost()['macs_per_image'] / 1e9:.3g} GMACs" in last
    # Another share: the largest alone is there from the beginning.
    other = dataclasses.replace(studio.first, shares=(75, 0, 25))
    first, *_, again = desk.sampled(other, "a")
    assert pictures(first) == pictures(again)[4:] == pictures(last)[4:]
    assert pictures(again)[:4] != pictures(last)[:4]


def test_the_largest_alone_is_sampled_once(desk, studio):
    *_, last = desk.sampled(studio.first.pure, "a")
    assert pictures(last)[:4] == pictures(last)[4:]
    assert notes(last)[0].endswith("1.00 times as fast")


def test_stop_ends_the_sampling_of_one_browser_only(desk, studio):
    sampled = desk.sampled(dataclasses.replace(studio.first, steps=50), "a")
    next(sampled)
    desk.stop("b")
    assert "step" in notes(next(sampled))[0]
    desk.stop("a")
    *_, last = sampled
    assert re.fullmatch(r"stopped after step \d+ of 50", notes(last)[0])
    assert notes(last)[1] == ""
    desk.stop("a")  # of nothing


def test_a_browser_that_samples_again_stops_what_it_sampled_before(desk, studio):
    before = desk.sampled(dataclasses.replace(studio.first, steps=100), "a")
    next(before), next(before)
    *_, last = desk.sampled(studio.first, "a")
    assert len(pictures(last)) == 8
    assert not [cards for cards in before if "stopped" in cards or "times as fast" in cards]
    nobody = desk.sampled(studio.first, None)
    desk.stop(None)
    assert "times as fast" in notes([*nobody][-1])[0]


def test_two_browsers_get_the_images_of_their_own_settings(desk, studio):
    found = {}

    def sample(browser, setting):
        found[browser] = [*desk.sampled(setting, browser)][-1]

    other = dataclasses.replace(studio.first, seed=1, label="bag")
    threads = [threading.Thread(target=sample, args=pair)
               for pair in (("a", studio.first), ("b", other))]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pictures(found["a"]) == pictures([*desk.sampled(studio.first, "c")][-1])
    assert pictures(found["b"]) == pictures([*desk.sampled(other, "c")][-1])
    assert "bag, seed 1" in found["b"] and "T-shirt, seed 0" in found["a"]


@pytest.mark.parametrize("interval, forecast", [(1, 0), (2, 1)])
def test_the_timeline_says_who_takes_which_step(studio, interval, forecast):
    setting = dataclasses.replace(studio.first, shares=(50, 0, 50), interval=interval, steps=8)
    run, pure = studio.run(setting), studio.run(setting.pure)
    svg = drawn.timeline(run, pure, studio.offer.denoisers)
    assert svg.count("<rect") == 8
    assert 'aria-label="DiT-S 4 steps, then DiT-XL 4 steps"' in svg
    assert "step 1 of 8: DiT-S, timestep 999" in svg
    assert (svg.count("forecast by the cache") > 0) == bool(forecast)
    assert f"{run.cost()['macs_per_image'] / 1e9:.3g} GMACs" in svg


def test_names_are_no_markup(studio):
    setting = dataclasses.replace(studio.first, label="<script>")
    card = drawn.card("<b>", studio.run(studio.first), setting, None, "<i>")
    assert "<script>" not in card and "<b><" not in card.split("<h3>")[1][:8] and "<i>" not in card
