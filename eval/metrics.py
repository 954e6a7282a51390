"""Metrics: pure functions on features, probabilities or moments."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf
from torch import Tensor
from torch_fidelity.metric_kid import kid_features_to_metric

from eval.precision_recall import precision_recall
from models.errors import InputError

# Every metric, and the kind of features that it is computed on.
FEATURES = {
    "fid": "features",
    "fd_dinov2": "features",  # the Frechet distance of DINOv2's features (Stein et al. 2023)
    "sfid": "spatial",
    "is": "logits",
    "precision": "features",
    "recall": "features",
    "kid": "features",
}
_ROWS = 1000  # rows that are float64 at a time


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D, with N - 1) of features, float64."""

    mean: Tensor
    covariance: Tensor


def compute(
    wanted: Sequence[str],
    sample: Mapping[str, Tensor],
    moments: Mapping[str, Moments],
    reference: Tensor | None,
    neighbours: int = 3,
    chunk: int = 5000,
    distances: str = "float32",
    rows: int = 1000,
) -> dict[str, float]:
    """The ``wanted`` metrics of samples, in that order.

    Args:
        wanted: keys of ``FEATURES``.
        sample: the samples' features of every kind that is needed, (N, D) each.
        moments: the reference's, of the kinds that Frechet distances need.
        reference: (M, D) ``features`` of the reference, for precision, recall and KID.
        neighbours, distances, rows: of ``precision_recall``.
        chunk: of ``inception_score``.
    """
    values = {}
    for name in ("fid", "fd_dinov2", "sfid"):
        if name in wanted:
            kind = FEATURES[name]
            values[name] = frechet_distance(sample[kind], moments[kind])
    if "is" in wanted:
        values["is"] = inception_score(sample["logits"].double().softmax(1), chunk)
    if "precision" in wanted or "recall" in wanted:
        values["precision"], values["recall"] = precision_recall(
            sample["features"], reference, neighbours, distances, rows
        )
    if "kid" in wanted:
        values["kid"] = kernel_distance(sample["features"], reference)
    return {name: values[name] for name in wanted}


def moments(features: Tensor) -> Moments:
    """Moments of (N, D) features, summed in float64, some rows at a time.

    Raises:
        InputError: for fewer than two rows.
        FloatingPointError: if a feature is not finite.
    """
    count, dimensions = features.shape
    if count < 2:
        raise InputError(f"moments need at least 2 samples, there is {count}")
    parts = [part.cpu().numpy() for part in features.split(_ROWS)]
    mean = sum(part.sum(0, dtype=np.float64) for part in parts) / count
    if not np.isfinite(mean).all():
        raise FloatingPointError("features are not finite; the extractor or its weights are broken")
    covariance = np.zeros((dimensions, dimensions))
    for part in parts:
        centred = part - mean
        covariance += centred.T @ centred  # numpy computes one triangle of it only
    return Moments(torch.from_numpy(mean), torch.from_numpy(covariance / (count - 1)))


def frechet_distance(sample: Tensor | Moments, reference: Tensor | Moments) -> float:
    """Frechet distance of two Gaussians (Heusel et al. 2017); FID on Inception features.

    Args:
        sample, reference: (N, D) features or their ``Moments``.

    Raises:
        InputError: for unlike dimensions.
    """
    sample = sample if isinstance(sample, Moments) else moments(sample)
    reference = reference if isinstance(reference, Moments) else moments(reference)
    if sample.mean.shape != reference.mean.shape:
        raise InputError(
            f"samples have {len(sample.mean)} features, the reference has {len(reference.mean)}"
        )
    difference = sample.mean - reference.mean
    trace = sample.covariance.trace() + reference.covariance.trace()
    root = _trace_of_root(sample.covariance.numpy(), reference.covariance.numpy())
    return (difference @ difference + trace).item() - 2 * root


def _trace_of_root(s: np.ndarray, r: np.ndarray) -> float:
    """Trace of the root of S R, for covariances of any rank.

    The product has the eigenvalues of L' R L, if S = L L'. Cholesky's method with pivoting
    stops at the rank of S, so L has as many columns as S has dimensions that are not flat, and
    no root of rounding noise is summed. The factor of lower rank is taken, of S or of R.
    """
    (factor, order), other = min(
        [(_cholesky(s), r), (_cholesky(r), s)], key=lambda pair: pair[0][0].shape[1]
    )
    product = factor.T @ other[np.ix_(order, order)] @ factor
    values = torch.linalg.eigvalsh(torch.from_numpy(product))
    return values.clamp(min=0).sqrt().sum().item()


def _cholesky(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factor L (D, rank) and order (D,) with S[order, order] = L L'."""
    factor, order, rank, _ = dpstrf(s, lower=1)
    return np.tril(factor)[:, :rank], order - 1


def kernel_distance(sample: Tensor, reference: Tensor) -> float:
    """Kernel distance (Binkowski et al. 2018) by torch-fidelity; KID on Inception features.

    The mean over 100 pairs of random subsets of 1000, or of all that the smaller set has: the
    estimate has no bias for any size.

    Args:
        sample, reference: (N, D) and (M, D) features.
    """
    size = min(1000, len(sample), len(reference))
    result = kid_features_to_metric(
        sample.float(), reference.float(), kid_subset_size=size, verbose=False
    )
    return result["kernel_inception_distance_mean"]


def inception_score(probabilities: Tensor, chunk: int = 5000) -> float:
    """Inception Score (Salimans et al. 2016) as ADM's evaluator computes it.

    Args:
        probabilities: (N, K) class probabilities.
        chunk: images per chunk, in order and without shuffling; the scores of the chunks are
            averaged, a shorter last one counting equally.
    """
    scores = []
    for part in probabilities.split(chunk):
        part = part.double()
        marginal = part.mean(0, keepdim=True)
        # xlogy: a zero probability contributes 0.
        kl = (torch.xlogy(part, part) - torch.xlogy(part, marginal)).sum(1)
        scores.append(kl.mean().exp())
    return torch.stack(scores).mean().item()
