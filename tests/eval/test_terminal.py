"""The frontier in plain characters, and the table above it."""

import itertools

import pytest

from eval.terminal import frontier, frontier_of, listing


def drawn(points, **options):
    """Lines, and (row, column, mark) of every mark from the lower left."""
    lines = frontier(points, "ms per image", "FID", **options)
    _, *ground, axis, _ = lines
    left = axis.index("+") + 1
    marks = [
        (len(ground) - 1 - row, column - left, mark)
        for row, line in enumerate(ground)
        for column, mark in enumerate(line)
        if column >= left and mark != " "
    ]
    return lines, sorted(marks, key=lambda one: one[1])


def test_points_that_no_other_beats_are_stars_and_places_are_in_order():
    points = [(1.0, 9.0), (2.0, 5.0), (2.2, 8.0), (3.0, 4.0), (4.0, 4.5)]
    lines, marks = drawn(points)
    assert [mark for *_, mark in marks] == ["*", "*", ".", "*", "."]
    heights = [row for row, *_ in marks]
    assert heights[0] == max(heights) and heights[3] == 0
    assert (marks[0][1], marks[-1][1]) == (0, 65)
    assert lines[0].startswith("FID (lower is better")
    assert lines[1].startswith("9 |") and lines[-3].startswith("4 |")
    assert lines[-1].split() == ["1", "ms", "per", "image", "4"]


def test_a_higher_quality_can_be_the_better_one():
    _, marks = drawn([(1.0, 1.0), (2.0, 3.0), (3.0, 2.0)], better="higher")
    assert [mark for *_, mark in marks] == ["*", "*", "."]


@pytest.mark.parametrize("ends", [(1.0, 2.0), (1e-3, 1e6), (0.0, 1.0), (5.0, 5.0), (-2.0, 3.0)])
def test_it_fits_a_terminal_and_is_plain_whatever_the_numbers(ends):
    for x, y in itertools.product(ends, ends):
        lines, marks = drawn([(x, y), (ends[1], ends[1]), (ends[0], y)])
        assert 1 <= len(marks) <= 3
        assert all(len(line) <= 80 and line.isascii() for line in lines)


def row(allocation, fid, milliseconds, device="A", gmacs=1.0):
    return {
        "allocation": allocation, "fid": fid, "gmacs_per_image": gmacs,
        "ms_per_image": milliseconds, "device": device, "run": "0123456789abcdef",
    }  # fmt: skip


def test_the_axis_is_of_times_only_if_one_device_took_them_all():
    timed = [row("S*1", 3.0, 1.0), row("XL*1", 1.0, 9.0, gmacs=5.0)]
    assert frontier_of(timed, "fid")[-1].split() == ["1", "ms", "per", "image", "9"]
    timed[1]["device"] = "B"
    assert frontier_of(timed, "fid")[-1].split() == ["1", "GMACs", "per", "image", "5"]
    untimed = [row("S*1", 3.0, None), row("XL*1", 1.0, None, gmacs=5.0)]
    assert frontier_of(untimed, "fid")[-1].split() == ["1", "GMACs", "per", "image", "5"]


def test_a_table_says_what_it_does_not_know():
    head, first, second = listing([row("S*1", 3.25, None), row("S*1+XL*2", 1.0, 9.0)], ["run"])
    assert head.split() == ["allocation", "FID", "GMACs", "ms/image", "run"]
    assert first.split() == ["S*1", "3.250", "1", "-", "0123456789abcdef"]
    assert second.split() == ["S*1+XL*2", "1.000", "1", "9.00", "0123456789abcdef"]


def test_a_table_says_that_times_of_two_devices_do_not_compare():
    rows = [row("S*1", 3.0, 1.0), row("XL*1", 1.0, 9.0), row("XL*2", 1.0, None, device="B")]
    assert len(listing(rows)) == 4
    rows[1]["device"] = "B"
    assert listing(rows)[-1] == "the times are of 2 devices or batch sizes and do not compare"
