"""Classes by number, by name and by ImageNet's number."""

import numpy as np
import pytest
import torch

import models
from models.classes import Classes
from models.errors import InputError

NAMED = Classes(3, ("tench", "golf ball", "church"), (0, 574, 497))


@pytest.mark.parametrize(
    "labels, expected",
    [
        ([0, 1, 2], [0, 1, 2]),
        (["church", "Golf Ball"], [2, 1]),
        ([497, 0, 574], [2, 0, 1]),
        (["tench", 2, 574], [0, 2, 1]),
        (np.array([2, 1]), [2, 1]),
        (torch.tensor([2, 1]), [2, 1]),
    ],
)
def test_classes_are_known_by_number_name_and_imagenets_number(labels, expected):
    assert NAMED.indices(labels) == expected


@pytest.mark.parametrize("label", ["cat", 3, -1, 0.5, True, None, "0.5"])
def test_what_is_no_class_is_refused_and_the_classes_are_listed(label):
    with pytest.raises(InputError, match=r"not classes.*1 golf ball \(ImageNet's 574\), 2 church"):
        NAMED.indices([0, label])


def test_classes_without_names_are_listed_as_a_range():
    with pytest.raises(InputError, match=r"labels \[5\] are not classes.*0 to 4"):
        Classes(5).indices([4, 5])
    assert Classes(5).name(3) == "3"


@pytest.mark.parametrize(
    "count, names, message",
    [
        (3, ("a", "b"), "3 classes, but 2 names, 2 of them different"),
        (2, ("a", "b", "a"), "2 classes, but 3 names, 2 of them different"),
        (2, ("Crane", "crane"), "2 classes, but 2 names, 1 of them different"),
    ],
)
def test_a_card_without_one_name_of_each_class_is_refused(count, names, message):
    with pytest.raises(InputError, match=message):
        Classes(count, names)


def test_a_card_whose_numbers_clash_with_imagenets_is_refused():
    with pytest.raises(InputError, match="2 both as a class and as ImageNet's number of class 0"):
        Classes(3, imagenet=(2, 0, 5))
    assert Classes(3, imagenet=(0, 7, 2)).indices([0, 7, 2]) == [0, 1, 2]


@pytest.mark.parametrize("name, label, index", [("fashion", "bag", 8), ("imagenette64", 701, 9)])
def test_the_shipped_zoos_name_their_classes(name, label, index):
    assert models.load_zoo(name).classes.indices([label]) == [index]
