"""How far the images of two sample folders are apart: ``python -m tests.measure.difference A B``.

The images that both have are compared, and printed in one line. Exit code 1 if more than rounding
differs; with ``--equal``, if anything does.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stitch.runs.shards import open_folder

# Rounding moves values by 1 of 255 here and there, and by more than 2 hardly anywhere.
FAR, MOST_FAR = 2, 0.001


@dataclass(frozen=True)
class Difference:
    """Images and labels of one folder against another's.

    Attributes:
        images: how many.
        labels: whether all labels are equal.
        largest: difference of two pixel values, of 255.
        differing, far: how many values differ, and differ by more than ``FAR``.
        values: how many there are.
    """

    images: int
    labels: bool
    largest: int
    differing: int
    far: int
    values: int

    @property
    def is_rounding(self) -> bool:
        return self.labels and self.far <= MOST_FAR * self.values

    @property
    def is_nothing(self) -> bool:
        return self.labels and not self.differing

    def __str__(self) -> str:
        if self.is_nothing:
            return f"{self.images} images are equal to the bit"
        labels = "equal" if self.labels else "DIFFER"
        return (
            f"{self.images} images: labels {labels}, {self.differing} of {self.values} values "
            f"differ by at most {self.largest} of 255, {self.far} by more than {FAR}"
        )


def difference(a: Path, b: Path) -> Difference:
    """Compare the first images of two sample folders, as many as both have.

    Raises:
        ShardError: if images are missing or damaged.
    """
    folders = [open_folder(path) for path in (a, b)]
    count = min(folder.count() for folder in folders)
    (images, labels), (others, other_labels) = (
        map(np.concatenate, zip(*folder.part(0, count), strict=True)) for folder in folders
    )
    distance = np.abs(images.astype(np.int16) - others)
    return Difference(
        count,
        bool((labels == other_labels).all()),
        int(distance.max()),
        int((distance > 0).sum()),
        int((distance > FAR).sum()),
        distance.size,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER")
    parser.add_argument("--equal", action="store_true", help="refuse any difference")
    options = parser.parse_args()
    found = difference(*options.folders)
    print(found)
    sys.exit(not (found.is_nothing if options.equal else found.is_rounding))


if __name__ == "__main__":
    main()
