"""References: what samples are compared with.

Three kinds: files that ``scripts.reference`` made, ADM's npz files with stored moments, and any
images that ``eval.images`` reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.metrics import Moments, moments
from models.checkpoint import read_tensors
from models.errors import InputError
from models.npz import Npz
from models.weights import CheckpointError, provenance, recorded_sha256, save_tensors

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
    facts: dict,
    dtype: torch.dtype = torch.float16,
    spread: bool = False,
) -> None:
    """Store the moments of (N, D) features of each kind, and ``keep`` of the ``features``.

    Args:
        facts: provenance, among it ``extractor_sha256``.
        dtype: of the stored features.
        spread: keep those of images at equal distances instead of the first: the first of images
            that lie class by class are of some classes.
    """
    count = len(features["features"])
    keep = min(keep, count)
    kept = torch.arange(keep) * count // keep if spread else torch.arange(keep)
    tensors = {"features": features["features"][kept].to(dtype)}
    for kind, names in _OURS.items():
        if kind in features:
            tensors.update(zip(names, moments(features[kind]), strict=True))
    save_tensors(tensors, path, {"images": count, "features": keep, "spread": spread, **facts})


def load_reference(path: str | Path) -> Reference:
    """Read a file of ``save_reference``.

    Raises:
        InputError: if it is missing, not what its provenance record says, or holds no moments.
    """
    tensors = read_tensors(path)
    found = {
        kind: _moments(path, names, *(tensors[name].numpy() for name in names))
        for kind, names in _OURS.items()
        if set(names) <= tensors.keys()
    }
    features = tensors.get("features")
    if not found or features is None or features.ndim != 2 or not features.isfinite().all():
        raise CheckpointError(
            f"reference={path} holds no features and moments of images; make it again: "
            "python -m scripts.reference"
        )
    return Reference(found, features.float())


def check_extractor(path: str | Path, weights_sha256: str) -> str:
    """Hash of a file of ``save_reference`` that was made with the extractor of that hash.

    Raises:
        InputError: if it was made with another one.
        CheckpointError: if it is missing or damaged.
    """
    sha256 = recorded_sha256(path)
    if (provenance(path) or {}).get("extractor_sha256") != weights_sha256:
        raise InputError(
            f"reference={path} was made with another extractor than eval.weights; "
            "make it again: python -m scripts.reference"
        )
    return sha256


def read_stored_moments(path: str | Path) -> dict[str, Moments]:
    """Moments that an npz file of ADM holds beside its images, by kind; empty if it has none.

    Raises:
        InputError: if the file is damaged, or the arrays are pickled objects or no moments.
    """
    file, found = Npz(path), {}
    there = set(file.names())
    for kind, names in _ADMS.items():
        if there.intersection(names):
            found[kind] = _moments(path, names, *(file.read(name) for name in names))
    return found


def _moments(
    path: str | Path, names: tuple[str, str], mean: np.ndarray, covariance: np.ndarray
) -> Moments:
    """Mean and covariance as float64, if they are.

    Raises:
        InputError: if they are of other shapes, not finite, not symmetric, or give a direction a
            negative variance: a distance to them means nothing.
    """

    def refuse(problem: str) -> None:
        raise InputError(f"reference={path}: {problem}; get another copy, or make it again")

    if mean.dtype.kind not in "fiu" or covariance.dtype.kind not in "fiu":
        refuse(f"{' and '.join(names)} are {mean.dtype} and {covariance.dtype}, no numbers")
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        refuse(
            f"{names[0]} {mean.shape} and {names[1]} {covariance.shape} are no mean (D,) and "
            "covariance (D, D)"
        )
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    for name, values in zip(names, (mean, covariance), strict=True):
        bad = values.size - int(np.isfinite(values).sum())
        if bad:
            refuse(f"{name} has {bad} values that are NaN or infinite")
    # What rounding to float32 may do is forgiven.
    slack = 1e-6 * max(covariance.trace(), np.finfo(np.float64).tiny)
    if np.abs(covariance - covariance.T).max() > slack:
        refuse(f"{names[1]} is no covariance, it is not symmetric")
    try:
        np.linalg.cholesky(covariance + slack * np.eye(len(mean)))
    except np.linalg.LinAlgError:
        refuse(f"{names[1]} is no covariance, some of its variances are negative")
    return Moments(torch.from_numpy(mean), torch.from_numpy(covariance))
