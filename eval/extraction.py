"""Features of many images, extracted by all ranks together."""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from eval.features import extract
from eval.images import Images, blocks, share
from stitch.runs import distributed


def extract_shared(
    extractor, images: Images, count: int, size: int, kinds: Sequence[str]
) -> dict[str, torch.Tensor] | None:
    """Features of the first ``count`` images in their order, for the main rank; None for others.

    Ranks share the work in batches of ``size`` images, which are the same for any number of ranks.
    """
    ranks = distributed.world_size()
    shares = [share(count, size, rank, ranks) for rank in range(ranks)]
    start, stop = shares[distributed.rank()]
    bar = tqdm(
        blocks(images, start, stop, size),
        desc="features",
        total=-(-(stop - start) // size),
        unit="batch",
        leave=False,
        disable=None if distributed.is_main() else True,
    )
    found = extract(extractor, map(as_batch, bar), kinds)
    counts = [stop - start for start, stop in shares]
    gathered = {kind: distributed.gather(found[kind], counts) for kind in kinds}
    return gathered if distributed.is_main() else None


def as_batch(images: np.ndarray) -> torch.Tensor:
    """(n, H, W, C) array -> (n, C, H, W) tensor, always of the same strides.

    Convolutions choose their way, and so their rounding, by them.
    """
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
