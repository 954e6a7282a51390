"""References: what samples are compared with.

Three kinds: files that ``scripts.reference`` made, ADM's npz files with stored moments, and any
images that ``eval.images`` reads.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.metrics import Moments, moments
from models.checkpoint import read_tensors, record_path, recorded_sha256, save_tensors
from models.errors import InputError

# kind of features -> names of its mean and covariance: in our files, and in ADM's.
_OURS = {"features": ("mean", "covariance"), "spatial": ("spatial_mean", "spatial_covariance")}
_ADMS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True, eq=False)
class Reference:
    """Real images as an extractor sees them.

    Attributes:
        moments: float64, of every kind of features (``features``, ``spatial``) of all of them.
        features: (M, D) float32 ``features`` of some of them, for precision, recall and KID; None
            if they are not known.
    """

    moments: Mapping[str, Moments]
    features: Tensor | None


def save_reference(
    path: str | Path,
    features: Mapping[str, Tensor],
    keep: int,
    provenance: dict,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Store the moments of (N, D) features of each kind, and the first ``keep`` ``features``.

    Args:
        provenance: facts about the making, among them ``extractor_sha256``.
        dtype: of the stored features.
    """
    tensors = {"features": features["features"][:keep].to(dtype)}
    for kind, names in _OURS.items():
        if kind in features:
            tensors.update(zip(names, moments(features[kind]), strict=True))
    count = len(features["features"])
    save_tensors(tensors, path, {"images": count, "features": min(keep, count), **provenance})


def load_reference(path: str | Path) -> Reference:
    """Read a file of ``save_reference``.

    Raises:
        CheckpointError: if it is missing or not what its provenance record says.
    """
    tensors = read_tensors(path)
    found = {
        kind: Moments(*(tensors[name] for name in names))
        for kind, names in _OURS.items()
        if names[0] in tensors
    }
    return Reference(found, tensors["features"].float())


def check_extractor(path: str | Path, weights_sha256: str) -> str:
    """Hash of a file of ``save_reference`` that was made with the extractor of that hash.

    Raises:
        InputError: if it was made with another one.
        CheckpointError: if it is missing or damaged.
    """
    sha256 = recorded_sha256(path)
    record = record_path(path)
    made_with = json.loads(record.read_text())["extractor_sha256"] if record.is_file() else None
    if made_with != weights_sha256:
        raise InputError(
            f"reference={path} was made with another extractor than eval.weights; "
            "make it again: python -m scripts.reference"
        )
    return sha256


def read_stored_moments(path: str | Path) -> dict[str, Moments]:
    """Moments that an npz file of ADM holds beside its images, by kind; empty if it has none.

    Raises:
        InputError: if the arrays are damaged, pickled objects, or no moments.
    """
    found = {}
    with np.load(path, allow_pickle=False) as file:
        for kind, names in _ADMS.items():
            if names[0] not in file:
                continue
            try:
                mean, covariance = (file[name].astype(np.float64) for name in names)
            except (KeyError, ValueError, zipfile.BadZipFile) as error:
                raise InputError(
                    f"reference={path}: {' and '.join(names)} cannot be read: {error}"
                ) from error
            if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
                raise InputError(
                    f"reference={path}: {names[0]} {mean.shape} and {names[1]} "
                    f"{covariance.shape} are no mean (D,) and covariance (D, D)"
                )
            found[kind] = Moments(torch.from_numpy(mean), torch.from_numpy(covariance))
    return found
