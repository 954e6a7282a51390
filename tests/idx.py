"""A tiny stand-in for Fashion-MNIST, in its file format."""

from pathlib import Path

import numpy as np


def write_stripes(folder: Path) -> Path:
    """Four idx files with 200 training and 100 test images, stripes by class, in ``folder``."""
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 200), ("t10k", 100)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        rows = np.arange(28)[:, None] % (labels[:, None, None] + 2)
        images = np.where(rows == 0, 200, generator.integers(0, 40, (count, 28, 28)))
        for name, array in (("images-idx3", images.astype(np.uint8)), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{prefix}-{name}-ubyte").write_bytes(header + array.tobytes())
    return folder
