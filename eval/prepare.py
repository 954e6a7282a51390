"""What is done to images before their features are taken.

BK-SDM's evaluation on COCO has images of 256x256 that were stored as JPEG. Its code
(github.com/Nota-NetsPresso/BK-SDM: generate.py, get_stat_mscoco_val2014.py) saves samples with
PIL's default quality, opens them, resizes them as PIL does by default, whatever their proportions,
and saves them again; photographs are resized and saved.
"""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

SIZE = 256


def photograph(image: Image.Image) -> np.ndarray:
    """(256, 256, 3) uint8 of a photograph of any size."""
    return np.asarray(_stored(image.resize((SIZE, SIZE))).convert("RGB"))


def bk_sdm(images: np.ndarray) -> np.ndarray:
    """(n, H, W, 1 or 3) uint8 samples -> (n, 256, 256, 3) uint8."""

    def one(pixels: np.ndarray) -> np.ndarray:
        return photograph(_stored(Image.fromarray(pixels.squeeze(-1) if grey else pixels)))

    grey = images.shape[-1] == 1
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(one, images)))


def _stored(image: Image.Image) -> Image.Image:
    """An image as it is opened again after it was saved as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG")
    opened = Image.open(file)
    opened.load()
    return opened


def without_margin(images: np.ndarray) -> np.ndarray:
    """(n, H, W, C) without 2 pixels at every side.

    Pipelines of Stable Diffusion make images whose sides are multiples of 8, so those of the
    miniature lie on black ground.
    """
    return images[:, 2:-2, 2:-2]


# The setting eval.prepare -> what is done to samples.
PREPARATIONS = {None: lambda images: images, "bk-sdm": bk_sdm, "without-margin": without_margin}
