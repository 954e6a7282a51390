"""ImageNet as a folder of photographs, read as a stream."""

import functools
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.pictures import centre_crop, decode_resized, find_pictures
from models.errors import InputError

_SPLITS = {"train": "train", "test": "val"}
_READ_AT_ONCE = 100


class ImageNet:
    """One split of ImageNet (Russakovsky et al. 2015), or of other photographs in such folders.

    Photographs are centre-cropped and resized as ADM and DiT do (``eval.pictures``). They are in
    the order of their paths; labels are the classes' places among the sorted names.

    Args:
        split: ``train``, or ``test`` for the folder ``val``.
        root: a folder with ``train/WNID/NAME`` and ``val/WNID/NAME``.
        download: is refused: ImageNet has to be asked for.
        size: side of the squares in pixels.

    Attributes:
        labels: (N,) int64.
        num_classes: folders of the split.
        sha256: hash of the photographs' paths within the split. A damaged one may be replaced.
        count: N.

    Raises:
        InputError: if there are no such folders, or a class without photographs.
    """

    run = None  # see ``eval.images.Images``

    def __init__(
        self, split: str, root: str | None = None, download: bool = False, size: int = 256
    ):
        if root is None or download:
            raise InputError(
                "ImageNet cannot be downloaded by a program: get it at image-net.org and give its "
                "folder, with train/WNID/NAME, as data.root=FOLDER"
            )
        folder = Path(root) / _SPLITS[split]
        classes = [path.name for path in sorted(folder.glob("n*")) if path.is_dir()]
        if not all(re.fullmatch(r"n\d{8}", name) for name in classes) or not classes:
            raise InputError(
                f"data.root={root} is not ImageNet: {folder} must have a folder for every class, "
                "named by its WordNet id such as n01440764"
            )
        found = {name: find_pictures(folder / name) for name in classes}
        empty = [name for name, files in found.items() if not files]
        if empty:
            raise InputError(
                f"data.root={root} lacks photographs of {len(empty)} of {len(classes)} classes in "
                f"{folder.name}/: {', '.join(empty[:5])}; complete it"
            )
        self._files = [file for files in found.values() for file in files]
        self._decode = functools.partial(
            decode_resized, resized=functools.partial(centre_crop, size=size), upright=False
        )
        self.num_classes, self.count = len(classes), len(self._files)
        self.labels: Tensor = torch.tensor(
            [label for label, files in enumerate(found.values()) for _ in files]
        )
        paths = "\n".join(file.relative_to(folder).as_posix() for file in self._files)
        self.sha256 = hashlib.sha256(paths.encode()).hexdigest()

    @property
    def images(self) -> Tensor:
        """Raises InputError: they do not fit into memory."""
        raise InputError(
            "ImageNet's photographs are not kept in memory: encode them once with python -m "
            "scripts.encode, and train denoisers on data.latents=FOLDER"
        )

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Images of indices [start, stop) as ``eval.images`` gives them: (n, H, W, 3) uint8.

        Raises:
            InputError: if a photograph is damaged, naming it.
        """
        with ThreadPoolExecutor() as pool:
            for begin in range(start, stop, _READ_AT_ONCE):
                files = self._files[begin : min(begin + _READ_AT_ONCE, stop)]
                yield np.stack(list(pool.map(self._decode, files)))
