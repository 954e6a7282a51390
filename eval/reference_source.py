"""The reference of an evaluation: looked at before there are samples, read when it is needed."""

from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from eval.extraction import Pass
from eval.images import open_images, warn_if_held_out
from eval.metrics import METRICS, WITHOUT_REFERENCE, too_few
from eval.reference import (
    Reference,
    check_extractor,
    load_reference,
    read_stored_moments,
    save_reference,
)
from models.errors import InputError
from models.files import check_writable, sha256_of
from models.npz import Npz
from stitch.runs import distributed
from stitch.runs.records import content_hash


class ReferenceSource:
    """A reference of one of the kinds that ``eval.reference`` names.

    Args:
        evaluation: the config group ``eval``.
        weights_sha256: of the extractor.

    Attributes:
        path: where it is.
        sha256: hash of the file, or of the images.

    Raises:
        InputError: if it is missing, was made with another extractor, or lacks what a metric needs.
    """

    def __init__(self, evaluation: DictConfig, weights_sha256: str):
        self.config, self.weights_sha256 = evaluation, weights_sha256
        self.path = Path(evaluation.reference)
        self.images = None  # if its features are not in a file yet
        if self.path.suffix == ".safetensors":
            self.sha256 = check_extractor(self.path, weights_sha256)
        else:
            self._open()

    def _open(self) -> None:
        is_npz = self.path.suffix == ".npz" and self.path.is_file()
        self.moments = read_stored_moments(self.path) if is_npz else {}
        pictures = [m for m in self.config.metrics if not self._has_moments(m)]
        if self.moments and pictures and "arr_0" not in Npz(self.path).names():
            raise InputError(
                f"reference={self.path} has moments but no images (arr_0), which "
                f"{', '.join(pictures)} need; leave them out of eval.metrics, or take another"
            )
        if pictures or not self.moments:
            self.images = open_images(self.path, "reference")
            warn_if_held_out(self.path, "reference")
            few = too_few(self.images.count, pictures, self.config.neighbours)
            if few:
                raise InputError(f"reference={self.path} has {self.images.count} images: {few}")
            distributed.from_main(lambda: self.images.require(self.images.count))
            self.sha256 = distributed.from_main(lambda: self.images.sha256(self.images.count))
        else:
            self.sha256 = distributed.from_main(lambda: sha256_of(self.path))

    def _has_moments(self, metric: str) -> bool:
        """Whether the stored moments are all that a metric needs."""
        kind, features = METRICS[metric].kind, METRICS[metric].features
        return kind in WITHOUT_REFERENCE or (kind == "moments" and features in self.moments)

    def read(self, extractor) -> Reference:
        """The reference; that of images is extracted by all ranks and then kept in a file."""
        if self.path.suffix == ".safetensors":
            return load_reference(self.path)
        if self.images is None:
            return Reference(self.moments, None)
        key = {"reference": self.sha256, "extractor": self.weights_sha256}
        file = Path(self.config.cache) / f"{content_hash(key)}.safetensors"
        if not distributed.from_main(file.is_file):
            check_writable(self.config.cache, "eval.cache")
            kinds = [k for k in extractor.get_requested_features_list() if k != "logits"]
            count = self.images.count
            seen = Pass(extractor, self.images, count, self.config.batch_size, kinds).whole()
            if seen is not None:
                facts = {"data": str(self.path), "extractor_sha256": self.weights_sha256}
                save_reference(file, seen.features, count, facts, torch.float32)
            distributed.barrier()
        made = load_reference(file)
        # ADM's stored moments are those of all of ImageNet, its images are some.
        return Reference({**made.moments, **self.moments}, made.features)

    def check_dimensions(self, found: Mapping[str, Tensor], reference: Reference) -> None:
        """Refuse a reference that does not fit the features of the first images.

        Args:
            found: kind -> (N, D) features.
            reference: what ``read`` gave.

        Raises:
            InputError: if it has other dimensions, or nothing to compute a metric with.
        """
        for name in self.config.metrics:
            metric = METRICS[name]
            kind, moments = metric.features, metric.kind == "moments"
            if metric.kind in WITHOUT_REFERENCE:
                continue
            known = reference.moments.get(kind) if moments else reference.features
            # Of single images a reference has ``features`` only.
            if known is None or not (moments or kind == "features"):
                raise InputError(f"reference={self.path} has nothing to compute {name} with")
            few = None if moments else too_few(len(known), [name], self.config.neighbours)
            if few:
                raise InputError(f"reference={self.path} has features of {len(known)}: {few}")
            expected = len(known.mean) if moments else known.shape[1]
            if found[kind].shape[1] != expected:
                raise InputError(
                    f"reference={self.path} has {expected} {kind} dimensions, the extractor "
                    f"{self.config.extractor} gives {found[kind].shape[1]}; "
                    "it was made with another extractor"
                )
