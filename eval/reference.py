"""References: what samples are compared with, made once from real images."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from eval.metrics import Moments, moments
from models.checkpoint import read_tensors, record_path, save_tensors


@dataclass(frozen=True, eq=False)
class Reference:
    """Real images as an extractor sees them.

    Attributes:
        moments: of the features of all of them, float64.
        features: (M, D) float32 features of some of them, for precision and recall.
        extractor_sha256: hash of the extractor's weights.
        sha256: hash of the reference file.
    """

    moments: Moments
    features: Tensor
    extractor_sha256: str
    sha256: str


def save_reference(path: str | Path, features: Tensor, keep: int, provenance: dict) -> None:
    """Store the moments of (N, D) ``features`` and the first ``keep`` rows (float16).

    Args:
        provenance: facts about the making, among them ``extractor_sha256``.
    """
    all_moments = moments(features)
    tensors = {
        "mean": all_moments.mean,
        "covariance": all_moments.covariance,
        "features": features[:keep].to(torch.float16),
    }
    save_tensors(tensors, path, {"images": len(features), "features": keep, **provenance})


def load_reference(path: str | Path) -> Reference:
    """Read a reference file.

    Raises:
        CheckpointError: if it is missing or not what its provenance record says.
    """
    tensors = read_tensors(path)
    record = json.loads(record_path(path).read_text())
    return Reference(
        Moments(tensors["mean"], tensors["covariance"]),
        tensors["features"].float(),
        record["extractor_sha256"],
        record["sha256"],
    )
