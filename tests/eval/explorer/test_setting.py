"""What the controls may say, and how it is written."""

import dataclasses
import math
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.explorer.setting import Offer, Setting, command, in_parts, rescaled
from models.errors import InputError

OFFER = Offer(
    ("church", "gas pump", "T-shirt"), ("DiT-S", "DiT-B", "DiT-XL"), ("ddim", "unipc"),
    ("fp32", "bf16"),
)  # fmt: skip
VALUES = ["gas pump", 7, 1.5, "unipc", 10, 3, "bf16", 40, 0, 60]


def test_values_are_read_and_given_back():
    setting = Setting.read(VALUES, OFFER)
    assert setting == Setting("gas pump", 7, 1.5, "unipc", 10, 3, "bf16", (40, 0, 60))
    assert setting.values == VALUES
    assert Setting.read([float(v) if type(v) is int else v for v in VALUES], OFFER) == setting


@pytest.mark.parametrize(
    "place, value, message",
    [
        (0, "../../etc/passwd", "class='../../etc/passwd' is unknown; choose one of church"),
        (0, "x" * 10**6, "class='xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx... is unknown"),
        (0, 1, "class=1 is unknown"),
        (1, -1, "seed=-1 must be a whole number from 0 to 9007199254740991"),
        (1, 2**53, "seed=9007199254740992 must be"),
        (1, 2**200, "seed=a huge number must be"),
        (1, math.nan, "seed=nan must be"),
        (2, math.nan, "guidance=nan must be a number"),
        (2, math.inf, "guidance=inf must be a number from 0 to 10"),
        (2, "1.5", "guidance='1.5' must be"),
        (2, True, "guidance=True must be"),
        (3, "ddim sampler.spacing=/etc/passwd", "is unknown; choose one of ddim, unipc"),
        (4, 0, "steps=0 must be a whole number from 1 to 100"),
        (4, 10**9, "steps=1000000000 must be"),
        (4, None, "steps=None must be"),
        (5, 0.5, "cache interval=0.5 must be"),
        (6, "fp64", "precision='fp64' is unknown"),
        (6, {"path": "/etc/passwd"}, "precision=dict is unknown"),
        (7, 101, "share of DiT-S=101 must be a whole number from 0 to 100"),
        (8, [0], "share of DiT-B=list must be"),
        (9, 59, r"the shares are \(40, 0, 59\) %; they must sum to 100"),
    ],
)
def test_what_no_control_can_say_is_refused_by_name(place, value, message):
    values = [*VALUES[:place], value, *VALUES[place + 1 :]]
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        Setting.read(values, OFFER)


def test_the_command_line_says_what_the_setting_says():
    words = Setting.read(VALUES, OFFER).words(OFFER)
    assert words == [
        "sampler=unipc", "cache=forecast", "sampler.steps=10", "cache.interval=3",
        "allocation.denoisers=[DiT-S,DiT-XL]", "allocation.fractions=[0.4,0.6]",
        "guidance.scale=1.5", 'labels=["gas pump"]', "seed=7", "precision=bf16", "num_images=4",
        "batch_size=4", "shard_size=4",
    ]  # fmt: skip
    assert shlex.split(command(words)) == ["python", "-m", "scripts.sample", *words]
    uncached = dataclasses.replace(Setting.read(VALUES, OFFER), interval=1)
    assert not [word for word in uncached.words(OFFER) if word.startswith("cache")]


@pytest.mark.parametrize(
    "shares, moved, after",
    [
        ((50, 25, 25), 0, (50, 25, 25)),
        ((70, 20, 30), 0, (70, 12, 18)),
        ((0, 20, 30), 0, (0, 40, 60)),
        ((100, 20, 30), 0, (100, 0, 0)),
        ((40, 0, 0), 0, (40, 0, 60)),
        ((0, 0, 40), 2, (0, 60, 40)),
        ((10, 33, 33), 0, (10, 45, 45)),
        ((30,), 0, (100,)),
    ],
)
def test_moving_one_share_rescales_the_others(shares, moved, after):
    assert rescaled(shares, moved) == after


@given(st.lists(st.integers(0, 100), min_size=2, max_size=6), st.data())
def test_shares_sum_to_one_whatever_is_moved(shares, data):
    moved = data.draw(st.integers(0, len(shares) - 1))
    after = rescaled(shares, moved)
    assert sum(after) == 100 and min(after) >= 0 and after[moved] == shares[moved]


def test_a_share_that_is_no_percent_is_not_rescaled():
    for wrong in (101, -1, math.nan, "40", None):
        with pytest.raises(InputError, match="share="):
            rescaled((wrong, 30, 30), 0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any), st.integers(0, 100))
def test_parts_are_in_proportion_to_less_than_one(weights, whole):
    parts = in_parts(weights, whole)
    assert sum(parts) == whole
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - weight * whole / sum(weights)) < 1
