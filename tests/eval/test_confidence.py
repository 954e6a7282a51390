"""The standard error of a Frechet distance, against what drawing again really does to it."""

import numpy as np
import pytest
import torch

from eval.confidence import ENOUGH, frechet_influence, influences, standard_error
from eval.evaluator import Evaluator
from eval.metrics import frechet_distance, moments
from stitch.runs.shards import ShardFolder
from tests.commands import compose


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


def test_enough_samples_for_each_dimension_give_an_error_right_to_a_third_and_one_does_not():
    dimensions, generator = 48, torch.Generator().manual_seed(0)
    mixing, change = torch.randn(2, 48, 48, generator=generator, dtype=torch.float64)

    def features(count, seed, mixing=mixing + 0.3 * change):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
        return (noise @ mixing).relu()  # as networks have them

    def stated_over_true(count):
        draws = [features(count, seed) for seed in range(1, 301)]
        distances = torch.tensor([frechet_distance(draw, reference) for draw in draws])
        errors = [standard_error(frechet_influence(draw, reference)) for draw in draws[:40]]
        return (torch.tensor(errors).mean() / distances.std()).item()

    reference = moments(features(100 * dimensions, 0, mixing))
    assert stated_over_true(dimensions) > 1.4
    assert stated_over_true(ENOUGH * dimensions) == pytest.approx(1, abs=1 / 3)


@pytest.mark.parametrize("count, warned", [(1023, True), (1024, False)])
def test_errors_of_few_images_for_each_dimension_come_with_a_warning(
    count, warned, tmp_path, caplog
):
    folder = ShardFolder(tmp_path / "samples", {"seed": 0}, 1024)
    folder.mark(count)
    noise = np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    folder.write(0, noise, np.zeros(count, np.int64))
    evaluator = Evaluator(compose("search").eval, torch.device("cpu"))
    found = influences({"one": folder}, count, evaluator)
    assert len(found["one"]) == count
    message = f"of {count} images in 128 dimensions: of fewer than 1024 they may be off"
    assert (message in caplog.text) is warned
