"""How certain a Frechet distance is: the influence of every sample on it."""

import logging
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from eval.evaluator import Evaluator
from eval.extraction import Pass
from eval.images import ShardImages
from eval.metrics import Moments, moments
from stitch.runs import distributed
from stitch.runs.shards import ShardFolder

log = logging.getLogger("confidence")

ENOUGH = 8  # samples for each dimension: of fewer, the delta method's errors may be far off


def influences(
    samples: Mapping[Hashable, ShardFolder], num_images: int, evaluator: Evaluator
) -> dict[Hashable, Tensor]:
    """``frechet_influence`` of the first images of sample folders; empty for all but one rank.

    To be called by all ranks. Fewer than ``ENOUGH`` images for each dimension give a warning.
    """
    found, reference = {}, evaluator.reference.moments["features"]
    dimensions = len(reference.mean)
    if num_images < ENOUGH * dimensions and distributed.is_main():
        log.warning(
            "FID's standard errors are of %d images in %d dimensions: of fewer than %d they may "
            "be off by a third or more, in either direction; give the last round more (images=)",
            num_images,
            dimensions,
            ENOUGH * dimensions,
        )
    shown = None if distributed.is_main() else True
    for name, folder in tqdm(samples.items(), desc="confidence", unit="run", disable=shown):
        size = evaluator.config.batch_size
        seen = Pass(evaluator.extractor, ShardImages(folder), num_images, size, ["features"])
        features = seen.whole()
        if features is not None:
            found[name] = frechet_influence(features.features["features"], reference)
    return found


def frechet_influence(features: Tensor, reference: Moments) -> Tensor:
    """(N,) influence of every sample on ``frechet_distance``, of mean 0 (the delta method).

    Their standard deviation over the root of N is the standard error of the distance. The
    difference of the influences of two sets of samples with the same seeds is that of the
    difference of their distances, which is known better than either: seeds are paired.

    With mean m and covariance S of the samples, mu and R of the reference, the distance changes
    by 2 (m - mu) dm + tr((I - A) dS), where A = R^1/2 (R^1/2 S R^1/2)^-1/2 R^1/2 is the linear map
    that transports the one Gaussian onto the other (Knott & Smith 1984).

    The estimate's bias, which falls with 1 / N and is alike for alike samples, is not in it.

    Args:
        features: (N, D), N well above D (see ``ENOUGH``): the method is one of many samples, and
            of no more than D, S has no inverse.
    """
    sample = moments(features)
    centred = features.double().cpu() - sample.mean
    root = _power(reference.covariance, 0.5)
    inner = root @ sample.covariance @ root
    transport = root @ _power(inner, -0.5) @ root
    shape = torch.eye(len(transport), dtype=torch.float64) - transport
    linear = 2 * centred @ (sample.mean - reference.mean)
    squared = ((centred @ shape) * centred).sum(1)
    influence = linear + squared
    return influence - influence.mean()


def standard_error(influence: Tensor) -> float:
    """Of a mean with these influences, or of a difference with theirs."""
    return (influence.std() / len(influence) ** 0.5).item()


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a covariance; its flat directions, which carry nothing, stay zero."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    solid = values > 1e-10 * values.max()
    powers = torch.where(solid, values.clamp(min=1e-300) ** exponent, 0.0)
    return (vectors * powers) @ vectors.T
