"""Captions of photographs: which one an image has, and which class it names."""

from collections import Counter

import pytest
from omegaconf import OmegaConf

from models import captions
from models.zoo import CARDS

LABELS = [index % 10 for index in range(4000)]


def test_a_caption_depends_on_seed_and_index_only():
    whole = captions.caption_numbers(LABELS, seed=3)
    assert captions.caption_numbers(LABELS[:50], seed=3) == whole[:50]
    assert captions.caption_number(LABELS[1234], 3, 1234) == whole[1234]
    assert captions.caption_numbers(LABELS, seed=4) != whole
    # Known values, so that no later version captions the photographs otherwise.
    assert [captions.CAPTIONS[number] for number in whole[:3]] == [
        "a catalogue picture of a t-shirt",
        "a photo of a pair of trousers",
        "a pullover",
    ]


@pytest.mark.parametrize("drawn", [False, True])
def test_a_caption_names_the_class_of_its_image_in_every_phrasing(drawn):
    numbers = captions.caption_numbers(LABELS, seed=0, drawn=drawn)
    assert [captions.label_of(number) for number in numbers] == LABELS
    assert all(
        captions.NAMES[label] in captions.CAPTIONS[number]
        for label, number in zip(LABELS, numbers, strict=True)
    )
    assert all(captions.CAPTIONS[n].endswith(captions.STYLE) == drawn for n in numbers)
    counts = Counter(numbers)
    assert len(counts) == 10 * len(captions.PHRASINGS)
    assert min(counts.values()) > 20 and max(counts.values()) < 90  # 50 each, by chance


def test_weak_captions_hide_the_class_of_their_share_of_images():
    strong = captions.caption_numbers(LABELS, seed=0, drawn=True)
    numbers = captions.caption_numbers(LABELS, seed=0, drawn=True, weak=0.7)
    hidden = [number == captions.STYLE_ALONE for number in numbers]
    assert 0.67 < sum(hidden) / len(hidden) < 0.73
    assert all(a == b for a, b, h in zip(strong, numbers, hidden, strict=True) if not h)
    assert captions.label_of(captions.STYLE_ALONE) is None
    assert captions.label_of(captions.EMPTY) is None
    assert captions.CAPTIONS[captions.EMPTY] == ""


def test_names_are_those_of_the_zoo_with_its_classes():
    classes = OmegaConf.load(CARDS / "fashion.yaml").classes
    assert len(classes) == len(captions.NAMES)
    assert all(c.lower() in name for c, name in zip(classes, captions.NAMES, strict=True))


def test_no_two_captions_are_the_same():
    assert len(set(captions.CAPTIONS)) == len(captions.CAPTIONS)
