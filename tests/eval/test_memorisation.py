"""Nearest training images, and the scores that tell copies from images of the same kind."""

import pytest
import torch

from eval.memorisation import (
    copying_score,
    nearest,
    share_closer_to_training,
    share_nearer,
    share_of_held_out,
)
from models.errors import InputError


def drawn(count, seed, dimensions=8):
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_nearest_ones_are_those_of_the_definition(rows):
    points, base = drawn(20, 0), drawn(33, 1)
    distances, indices = nearest(points, base, rows)
    each = (points[:, None] - base[None]).norm(dim=2)
    assert indices.tolist() == each.argmin(1).tolist()
    torch.testing.assert_close(distances, each.min(1).values)


def test_a_copy_is_at_distance_zero_in_pixels():
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(0, 256, (50, 3 * 64 * 64), generator=generator, dtype=torch.uint8)
    distances, indices = nearest(base[[31, 7]], base)
    assert distances.tolist() == [0, 0] and indices.tolist() == [31, 7]


@pytest.mark.parametrize("points, base", [((3, 4), (0, 4)), ((3, 4), (5, 6))])
def test_unlike_or_empty_sets_are_refused(points, base):
    with pytest.raises(InputError, match="no nearest ones"):
        nearest(torch.zeros(points), torch.zeros(base))


def to_training(images, training):
    return nearest(images, training)[0]


def test_images_of_the_same_distribution_have_a_score_near_zero():
    training, held_out = drawn(500, 0), to_training(drawn(400, 1), drawn(500, 0))
    score = copying_score(to_training(drawn(400, 2), training), held_out)
    assert abs(score) < 3
    assert share_nearer(to_training(drawn(400, 2), training), held_out) < 0.04


def test_copies_have_a_score_far_below_zero_however_many_there_are():
    training = drawn(500, 0)
    held_out = to_training(drawn(400, 1), training)
    copies = to_training(training[:400] + 0.01 * drawn(400, 3), training)
    score = copying_score(copies, held_out)
    assert -40 < score < -20  # finite: a p-value of 1 has no digits
    assert share_nearer(copies, held_out) == 1


def test_a_few_copies_among_far_images_show_in_the_share_alone():
    training = drawn(500, 0)
    held_out = to_training(drawn(400, 1), training)
    mixed = torch.cat([training[:40], 2 * drawn(360, 2)])
    assert copying_score(to_training(mixed, training), held_out) > 0
    assert share_nearer(to_training(mixed, training), held_out) >= 0.1


def test_about_half_of_the_images_of_the_same_distribution_are_closer_to_training_ones():
    training, held_out = drawn(500, 0), drawn(500, 1)
    assert 0.4 < share_closer_to_training(drawn(400, 2), training, held_out) < 0.6
    # Nor are typical images, which are near to all, closer to one kind.
    assert 0.4 < share_closer_to_training(0.3 * drawn(400, 2), training, held_out) < 0.6


def test_copies_are_closer_to_training_images():
    training, held_out = drawn(500, 0), drawn(500, 1)
    copies = 0.9 * training[:400] + 0.1 * drawn(400, 3)
    assert share_closer_to_training(copies, training, held_out) > 0.99


def test_unlike_numbers_of_images_are_refused():
    with pytest.raises(InputError, match="20 training images beside 10 held-out ones"):
        share_closer_to_training(drawn(5, 2), drawn(20, 0), drawn(10, 1))


def test_held_out_images_say_what_the_share_is_of_no_copies():
    def versions(images):
        return torch.stack([images, images + 9], 1)

    training, held_out = drawn(400, 0), drawn(400, 1)
    assert 0.4 < share_of_held_out(versions(training), versions(held_out)) < 0.6
    # Held-out images of another kind are closer to one another.
    assert share_of_held_out(versions(training), versions(0.3 * held_out)) < 0.1
