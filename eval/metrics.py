"""Metrics: pure functions on features, probabilities or moments, and one table of them.

A new metric is a function of ``Inputs`` and a row of ``METRICS``. Evaluation, tables, figures and
the report read all else from the row.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf
from torch import Tensor
from torch_fidelity.metric_kid import kid_features_to_metric

from eval.precision_recall import precision_recall
from models.errors import InputError

_ROWS = 1000  # rows that are float64 at a time


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D, with N - 1) of features, float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Moments of (N, D) features, summed in float64 on their device, some rows at a time.

    Those of Apple GPUs, which have no float64, are summed on the host.

    Raises:
        InputError: for fewer than two rows.
        FloatingPointError: if a feature is not finite.
    """
    count, dimensions = features.shape
    if count < 2:
        raise InputError(f"moments need at least 2 samples, there is {count}")
    if features.device.type not in ("cpu", "mps"):
        return _moments_on_gpu(features)
    parts = [part.cpu().numpy() for part in features.split(_ROWS)]
    mean = sum(part.sum(0, dtype=np.float64) for part in parts) / count
    _check_finite(torch.from_numpy(mean))
    covariance = np.zeros((dimensions, dimensions))
    for part in parts:
        centred = part - mean
        covariance += centred.T @ centred  # numpy computes one triangle of it only
    return Moments(torch.from_numpy(mean), torch.from_numpy(covariance / (count - 1)))


def _moments_on_gpu(features: Tensor) -> Moments:
    """As ``moments``, which on a CPU are made by numpy in half the products."""
    mean = sum(part.double().sum(0) for part in features.split(_ROWS)) / len(features)
    _check_finite(mean)
    covariance = mean.new_zeros(len(mean), len(mean))
    for part in features.split(_ROWS):
        centred = part - mean
        covariance.addmm_(centred.T, centred)
    return Moments(mean.cpu(), (covariance / (len(features) - 1)).cpu())


def _check_finite(mean: Tensor) -> None:
    if not mean.isfinite().all():
        raise FloatingPointError("features are not finite; the extractor or its weights are broken")


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


@dataclass(frozen=True, eq=False)
class Inputs:
    """What metrics are computed from.

    Attributes:
        sample: the samples' features of every kind that is needed, (N, D) each.
        moments: the reference's, of the kinds of features that have them.
        reference: (M, D) ``features`` of the reference; None if they are not known.
        prompts: (N, D) what the extractor of ``clip`` makes of the samples' prompts.
        classes: (N,) the classes that they name.
        neighbours, distances, rows: of ``precision_recall``.
        chunk: of ``inception_score``.
    """

    sample: Mapping[str, Tensor]
    moments: Mapping[str, Moments]
    reference: Tensor | None = None
    prompts: Tensor | None = None
    classes: Tensor | None = None
    neighbours: int = 3
    chunk: int = 5000
    distances: str = "float32"
    rows: int = 1000

    @functools.cached_property
    def precision_recall(self) -> tuple[float, float]:
        """Both, computed together once."""
        return precision_recall(
            self.sample["features"], self.reference, self.neighbours, self.distances, self.rows
        )


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed, what that needs, and how it is shown.

    Attributes:
        name: in configs and records.
        label: the heading of its column.
        digits: decimals that a table shows.
        features: the kind of the samples' features that it needs (see ``eval.features``).
        kind: what it needs of the reference. ``moments``: those of the same kind of features.
            ``features``: the features of single images. ``neighbours``: these too, and more of
            them than ``Inputs.neighbours``. ``nothing``: no reference. ``prompts`` or ``classes``:
            no reference, but the samples' prompts.
        better: which values are better.
        compute: its value.
        axis: the label of its axis in plots; default: ``label``.
        networks: the networks on whose features it has this name; default: on all.
    """

    name: str
    label: str
    digits: int
    features: Literal["features", "spatial", "logits", "clip"]
    kind: Literal["moments", "features", "neighbours", "nothing", "prompts", "classes"]
    better: Literal["lower", "higher"]
    compute: Callable[[Inputs], float]
    axis: str = ""
    networks: Sequence[str] = ()

    def __post_init__(self):
        object.__setattr__(self, "axis", self.axis or self.label)


def _fid(x: Inputs) -> float:
    return frechet_distance(x.sample["features"], x.moments["features"])


def _sfid(x: Inputs) -> float:
    return frechet_distance(x.sample["spatial"], x.moments["spatial"])


def _is(x: Inputs) -> float:
    return inception_score(x.sample["logits"].double().softmax(1), x.chunk)


def _precision(x: Inputs) -> float:
    return x.precision_recall[0]


def _recall(x: Inputs) -> float:
    return x.precision_recall[1]


def _kid(x: Inputs) -> float:
    return kernel_distance(x.sample["features"], x.reference)


def _clip(x: Inputs) -> float:
    """Mean cosine of images and prompts (Hessel et al. 2021), neither scaled nor cut off at 0."""
    cosines = torch.cosine_similarity(x.sample["clip"].double(), x.prompts.double())
    return cosines.mean().item()


def _agreement(x: Inputs) -> float:
    """Share of the images that are classified as what their prompts name."""
    return (x.sample["logits"].argmax(1) == x.classes).double().mean().item()


# In the order in which they are listed. The Frechet distance of DINOv2's features has a name of its
# own (Stein et al. 2023).
METRICS = {
    metric.name: metric
    for metric in (
        Metric("fid", "FID", 3, "features", "moments", "lower", _fid,
               networks=("inception", "classifier")),
        Metric("fd_dinov2", "FD-DINOv2", 2, "features", "moments", "lower", _fid,
               networks=("dinov2",)),
        Metric("sfid", "sFID", 3, "spatial", "moments", "lower", _sfid),
        Metric("is", "IS", 2, "logits", "nothing", "higher", _is, axis="Inception Score"),
        Metric("precision", "precision", 3, "features", "neighbours", "higher", _precision),
        Metric("recall", "recall", 3, "features", "neighbours", "higher", _recall),
        Metric("kid", "KID", 5, "features", "features", "lower", _kid),
        Metric("clip", "CLIP", 4, "clip", "prompts", "higher", _clip, axis="CLIP score"),
        Metric("agreement", "agreement", 3, "logits", "classes", "higher", _agreement,
               axis="prompt agreement", networks=("classifier",)),
    )
}  # fmt: skip

# What kinds of metrics compare images with.
WITH_PROMPTS = {"prompts", "classes"}
WITHOUT_REFERENCE = {"nothing", *WITH_PROMPTS}


def compute(wanted: Sequence[str], inputs: Inputs) -> dict[str, float]:
    """The ``wanted`` metrics, keys of ``METRICS``, in that order."""
    return {name: METRICS[name].compute(inputs) for name in wanted}


def too_few(count: int, wanted: Sequence[str], neighbours: int) -> str | None:
    """Why ``count`` images, of samples or of a reference, are too few for ``wanted`` metrics."""
    near = sorted({name for name in wanted if METRICS[name].kind == "neighbours"})
    if near and count <= neighbours:
        return f"too few for {', '.join(near)} with eval.neighbours={neighbours}; give more"
    spread = [name for name in wanted if METRICS[name].kind in ("moments", "features")]
    if spread and count < 2:
        return f"too few for {', '.join(spread)}, which need 2 at least; give more"
    return None
