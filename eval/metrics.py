"""Metrics: pure functions on features, probabilities or moments."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D, with N - 1) of features, float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Moments of (N, D) features.

    Raises:
        ValueError: for fewer than two rows.
    """
    if len(features) < 2:
        raise ValueError(f"moments need at least 2 samples, there is {len(features)}")
    features = features.double()
    return Moments(features.mean(0), torch.atleast_2d(torch.cov(features.T)))


def frechet_distance(sample: Tensor | Moments, reference: Tensor | Moments) -> float:
    """Frechet distance of two Gaussians (Heusel et al. 2017); FID on Inception features.

    Args:
        sample, reference: (N, D) features or their ``Moments``.

    The trace of the root of the covariances' product is taken from the symmetric form
    S^(1/2) R S^(1/2), so that fewer samples than dimensions (a singular S) do no harm.
    """
    sample = sample if isinstance(sample, Moments) else moments(sample)
    reference = reference if isinstance(reference, Moments) else moments(reference)
    if sample.mean.shape != reference.mean.shape:
        raise ValueError(
            f"samples have {len(sample.mean)} features, the reference has {len(reference.mean)}"
        )
    values, vectors = torch.linalg.eigh(sample.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = root @ reference.covariance @ root
    trace_of_root = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
    difference = sample.mean - reference.mean
    trace = sample.covariance.trace() + reference.covariance.trace()
    return (difference @ difference + trace - 2 * trace_of_root).item()


def inception_score(probabilities: Tensor, chunk: int = 5000) -> float:
    """Inception Score (Salimans et al. 2016) as ADM's evaluator computes it.

    Args:
        probabilities: (N, K) class probabilities.
        chunk: images per chunk, in order and without shuffling; the scores of the chunks are
            averaged, a shorter last one counting equally.
    """
    scores = []
    for part in probabilities.double().split(chunk):
        marginal = part.mean(0, keepdim=True)
        # xlogy: a zero probability contributes 0.
        kl = (torch.xlogy(part, part) - torch.xlogy(part, marginal)).sum(1)
        scores.append(kl.mean().exp())
    return torch.stack(scores).mean().item()


def precision_recall(sample: Tensor, reference: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019), by torch-fidelity.

    Args:
        sample, reference: (N, D) and (M, D) features.
        k: neighbours whose distance is the radius of a point's ball.

    Returns:
        precision (samples inside reference balls) and recall (references inside sample balls),
        both in [0, 1].

    Raises:
        ValueError: if a set has no k neighbours.
    """
    if min(len(sample), len(reference)) <= k:
        raise ValueError(f"k={k} neighbours need more than {k} samples and references")
    result = prc_features_to_metric(
        sample.float(), reference.float(), prc_neighborhood=k, save_cpu_ram=True, verbose=False
    )
    return result["precision"], result["recall"]
