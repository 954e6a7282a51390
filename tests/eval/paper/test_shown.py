"""Which images of a run a grid shows."""

from types import SimpleNamespace

import numpy as np

from eval.paper import shown
from stitch.runs.shards import ShardFolder


def run_of(tmp_path, labels):
    """A run whose image i is of the constant i."""
    folder = ShardFolder(tmp_path / "samples", {"seed": 0}, 4)
    folder.mark(len(labels))
    for shard in range(-(-len(labels) // 4)):
        some = list(folder.indices(shard, len(labels)))
        images = np.broadcast_to(
            np.array(some, np.uint8)[:, None, None, None], (len(some), 2, 2, 1)
        )
        folder.write(shard, images, np.array([labels[i] for i in some]))
    return SimpleNamespace(samples=folder, num_images=len(labels))


def first_values(images):
    return images[:, 0, 0, 0].tolist()


def test_the_first_images_are_shown(tmp_path):
    run = run_of(tmp_path, [3, 3, 1, 0, 2, 1])
    images, labels = shown.images({"across": "images", "shown": 5}, run)
    assert first_values(images) == [0, 1, 2, 3, 4] and labels == [3, 3, 1, 0, 2]
    assert shown.needed({"across": "images"}, run) == 6
    assert shown.needed({"across": "images", "shown": 9}, run) == 6


def test_across_classes_the_first_image_of_each_is_shown_in_the_order_of_images(tmp_path):
    run = run_of(tmp_path, [3, 3, 1, 0, 1, 2])
    images, labels = shown.images({"across": "classes", "shown": 5}, run)
    assert first_values(images) == [0, 2, 3] and labels == [3, 1, 0]


def test_no_more_than_ten_classes_are_shown(tmp_path):
    _, labels = shown.images({"across": "classes"}, run_of(tmp_path, list(range(12))))
    assert labels == list(range(10))
