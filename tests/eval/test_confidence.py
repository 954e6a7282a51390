"""The standard error of a Frechet distance, against what drawing again really does to it."""

import pytest
import torch

from eval.confidence import frechet_influence, standard_error
from eval.metrics import frechet_distance, moments


def drawn(count, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return scale * torch.randn(count, 6, generator=generator, dtype=torch.float64) @ mixing + shift


REFERENCE = moments(drawn(4000, 0))


@pytest.mark.parametrize("scale, shift", [(1.3, 0.0), (1.0, 0.7), (0.8, 0.2)])
def test_the_standard_error_is_the_spread_of_many_draws(scale, shift):
    draws = [drawn(500, seed, scale, shift) for seed in range(1, 201)]
    distances = torch.tensor([frechet_distance(draw, REFERENCE) for draw in draws])
    errors = torch.tensor([standard_error(frechet_influence(d, REFERENCE)) for d in draws[:20]])
    assert errors.mean().item() == pytest.approx(distances.std().item(), rel=0.2)


def test_a_difference_of_paired_samples_is_known_better_than_either():
    pairs = [(drawn(500, seed, 1.3), drawn(500, seed, 1.35)) for seed in range(1, 201)]
    differences = torch.tensor(
        [frechet_distance(b, REFERENCE) - frechet_distance(a, REFERENCE) for a, b in pairs]
    )
    one, other = (frechet_influence(samples, REFERENCE) for samples in pairs[0])
    error = standard_error(other - one)
    assert error == pytest.approx(differences.std().item(), rel=0.25)
    assert error < 0.5 * standard_error(one)


def test_it_is_the_derivative_of_the_distance():
    """Weighing one sample more changes the distance by its influence."""
    samples = drawn(300, 5, 1.2, 0.3)
    influence = frechet_influence(samples, REFERENCE)
    for index in (0, 17, 123):
        more = torch.cat([samples, samples[index : index + 1]])
        change = frechet_distance(more, REFERENCE) - frechet_distance(samples, REFERENCE)
        assert change * len(more) == pytest.approx(influence[index].item(), rel=0.15, abs=0.6)
