"""Hashes of images with their labels, taken in the pass that reads or makes them.

``images_sha256`` is SHA-256 over all images and labels in order. One process must see all of them
to compute it. ``image_hashes_sha256`` is SHA-256 over the SHA-256 of each image with its label, in
order. Ranks compute it together, each of its own images, and it is the same for any number of
them. Neither depends on the sizes of shards and batches.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from stitch.runs import distributed


def contents(images: np.ndarray, labels: Sequence[int] | np.ndarray) -> Iterator[bytes]:
    """What is hashed of each of (n, H, W, C) uint8 images and n labels."""
    for image, label in zip(images, labels, strict=True):
        yield image.tobytes() + int(label).to_bytes(8, "little")


class ImageHashes:
    """Hashes of images that come in order, by all ranks together."""

    def __init__(self):
        self._all = hashlib.sha256()
        self._each: list[bytes] = []

    def update(self, images: np.ndarray, labels: Sequence[int] | np.ndarray) -> None:
        """Add (n, H, W, C) uint8 images and n labels."""
        for content in contents(images, labels):
            self._each.append(hashlib.sha256(content).digest())
            if distributed.world_size() == 1:
                self._all.update(content)

    def gather(self, counts: Sequence[int]) -> dict[str, str] | None:
        """The hashes of the images of all ranks, for the main one; None for the others.

        ``images_sha256`` is among them if there is one rank.

        Args:
            counts: how many images each rank has seen.
        """
        rows = torch.tensor([list(digest) for digest in self._each], dtype=torch.uint8)
        rows = distributed.gather(rows, counts)
        if rows is None:
            return None
        found = {"image_hashes_sha256": hashlib.sha256(rows.numpy().tobytes()).hexdigest()}
        if distributed.world_size() == 1:
            found["images_sha256"] = self._all.hexdigest()
        return found
