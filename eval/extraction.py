"""Features of many images, extracted by all ranks together in one pass over them."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from eval.features import extract
from eval.images import Images, RunImages, regroup, share
from models.errors import is_mistake
from stitch.runs import distributed
from stitch.runs.hashes import ImageHashes


@dataclass(frozen=True, eq=False)
class Seen:
    """What all ranks have seen in a pass.

    Attributes:
        features: kind -> (N, D) float32 on the CPU, in the order of the images.
        hashes: of the images, as ``stitch.runs.hashes`` names them; empty if they are of no run.
        seconds: that the main rank's share took.
    """

    features: dict[str, Tensor]
    hashes: dict[str, str]
    seconds: float


class Pass:
    """One pass of all ranks over images: each is read once, and all that is wanted is taken of it.

    Ranks share the images in batches, which are the same for any number of ranks. Where each rank
    has files of its own, shares end with files; else two ranks may read the file between them.

    Args:
        extractor: see ``eval.features``.
        images: if they are of a run, they are hashed, too.
        count: the first ``count`` images are seen.
        size: images of a batch.
        kinds: of features to take.
        check: gets the features of the main rank's first batch, and refuses them if they are unfit.
        prepare: what is done to (n, H, W, C) uint8 images after they were hashed.

    Attributes:
        start, stop: the indices of this rank's share.
    """

    def __init__(
        self,
        extractor,
        images: Images | RunImages,
        count: int,
        size: int,
        kinds: Sequence[str],
        check: Callable[[Mapping[str, Tensor]], None] | None = None,
        prepare: Callable[[np.ndarray], np.ndarray] = lambda images: images,
    ):
        self.extractor, self.images, self.count = extractor, images, count
        self.size, self.kinds, self._prepare = size, kinds, prepare
        self._check = check if distributed.is_main() else None
        self._hashes = None if images.run is None else ImageHashes()
        ranks = distributed.world_size()
        unit = size if images.run is None else math.lcm(size, images.unit)
        unit = unit if unit * ranks <= count else size
        shares = [share(count, unit, rank, ranks) for rank in range(ranks)]
        self.start, self.stop = shares[distributed.rank()]
        self._counts = [stop - start for start, stop in shares]
        self._held: list[np.ndarray] = []
        self._found: list[dict[str, Tensor]] = []
        self._seconds = 0.0

    def parts(self) -> Iterator[tuple[int, int]]:
        """The share in parts for ``over``, which end where shards do."""
        start = self.start
        while start < self.stop:
            stop = min(self.stop, (start // self.images.unit + 1) * self.images.unit)
            yield start, stop
            start = stop

    def over(self, start: int, stop: int, bar: bool = True) -> None:
        """See indices [start, stop), the next part of the share."""
        began = time.perf_counter()
        batches = tqdm(
            self._batches(start, stop),
            desc="features",
            total=-(-(stop - start) // self.size),
            unit="batch",
            leave=False,
            disable=None if bar and distributed.is_main() else True,
        )
        found = extract(self.extractor, map(as_batch, batches), self.kinds, self._check)
        self._found.append(found)
        self._check = None
        self._seconds += time.perf_counter() - began

    def _batches(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Whole batches; what is left over waits for the next part."""
        held, self._held = self._held, []
        for batch in regroup(itertools.chain(held, self._read(start, stop)), self.size):
            if len(batch) < self.size and stop < self.stop:
                self._held = [batch]
            else:
                yield batch

    def _read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        if self._hashes is None:
            yield from map(self._prepare, self.images.read(start, stop))
            return
        for images, labels in self.images.labelled(start, stop):
            self._hashes.update(images, labels)
            yield self._prepare(images)

    def finish(self) -> Seen | None:
        """What all ranks have seen, for the main one; None for the others."""
        features = {}
        for kind in self.kinds:
            parts = [found[kind] for found in self._found if len(found[kind])]
            rows = torch.cat(parts) if parts else torch.empty(0)
            features[kind] = distributed.gather(rows, self._counts)
        hashes = {} if self._hashes is None else self._hashes.gather(self._counts)
        return Seen(features, hashes, self._seconds) if distributed.is_main() else None

    def whole(self) -> Seen | None:
        """See the whole share, and ``finish``.

        Raises:
            InputError: by the main rank, if any has met something that is unfit.
        """
        error = None
        try:
            self.over(self.start, self.stop)
        except Exception as found:
            if not is_mistake(found):
                raise
            error = found
        errors = [error for error in distributed.from_all(error) if error is not None]
        if errors:
            distributed.from_main(lambda: self._refuse(errors))
        return self.finish()

    def _refuse(self, errors: list[Exception]) -> None:
        if distributed.world_size() > 1:
            self.images.require(self.count)  # may say more than what one rank has met
        raise errors[0]


def hash_shared(images: RunImages, count: int) -> dict[str, str] | None:
    """The hashes of the first ``count`` images, for the main rank; None for others, or for all if
    some images are missing or damaged."""
    ranks, hashes = distributed.world_size(), ImageHashes()
    shares = [share(count, images.unit, rank, ranks) for rank in range(ranks)]
    damaged = False
    try:
        for part in images.labelled(*shares[distributed.rank()]):
            hashes.update(*part)
    except Exception as error:
        if not is_mistake(error):
            raise
        damaged = True
    if any(distributed.from_all(damaged)):
        return None
    return hashes.gather([stop - start for start, stop in shares])


def as_batch(images: np.ndarray) -> torch.Tensor:
    """(n, H, W, C) array -> (n, C, H, W) tensor, always of the same strides.

    Convolutions choose their way, and so their rounding, by them.
    """
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
