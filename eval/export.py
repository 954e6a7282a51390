"""Sample folders as others read them: ADM's npz and folders of PNG files."""

import json
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from models.files import beside, replacing

Batches = Iterable[tuple[np.ndarray, np.ndarray]]


def write_npz(path: str | Path, batches: Batches, count: int) -> None:
    """Images as ``arr_0`` and labels as ``arr_1``, readable by ``numpy.load`` and ADM's evaluator.

    Never more than a batch of images is in memory; the file appears when it is whole.

    Args:
        batches: ((n, H, W, C) uint8 images, (n,) int64 labels), ``count`` in all.
    """
    labels = []
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        with file.open("arr_0.npy", "w", force_zip64=True) as member:
            for images, some in batches:
                if not labels:
                    header = {"descr": "|u1", "fortran_order": False}
                    shape = (count, *images.shape[1:])
                    np.lib.format.write_array_header_1_0(member, {**header, "shape": shape})
                member.write(np.ascontiguousarray(images).data)
                labels.append(some)
        with file.open("arr_1.npy", "w") as member:
            np.lib.format.write_array(member, np.concatenate(labels), allow_pickle=False)


def write_pngs(path: str | Path, batches: Batches) -> None:
    """Images as ``000000.png`` and so on; labels in ``dataset.json``, as EDM's code has them.

    The folder appears when it is whole.
    """
    path = Path(path)
    temporary = beside(path)
    temporary.mkdir(parents=True)
    try:
        names = []
        for images, labels in batches:
            for image, label in zip(images, labels, strict=True):
                name = f"{len(names):06d}.png"
                pixels = image[..., 0] if image.shape[-1] == 1 else image
                Image.fromarray(pixels).save(temporary / name)
                names.append([name, int(label)])
        (temporary / "dataset.json").write_text(json.dumps({"labels": names}))
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
