"""Fitted timesteps, on the closed-form denoiser of Gaussian data, whose exact latents are known."""

import pytest
import torch

import samplers
from models.errors import InputError
from samplers import NoiseSchedule
from stitch.timesteps import fit_timesteps, refuse_noise, relative_error
from tests import gaussian

LINEAR = NoiseSchedule.create("ddpm-linear")
X = gaussian.start()


def exact(end=0, clean=True):
    """The latents at the end of the probability flow: clean, or at the noise level of ``end``."""
    final = gaussian.STD if clean else gaussian.spread(LINEAR, end)
    return final / gaussian.spread(LINEAR, 999) * X


def fit(name, steps, target, iterations=10, **options):
    """The sampler, the timesteps found, their errors in order, and the number of walks."""
    plain = samplers.create(name, steps, LINEAR, **options)
    errors, walks = [], 0

    def walk(timesteps):
        nonlocal walks
        walks += 1
        sampler = samplers.create(name, steps, LINEAR, spacing=timesteps, **options)
        return sampler(gaussian.denoise(LINEAR, sampler.timesteps), X)

    start = samplers.timesteps_of(plain)
    found = fit_timesteps(
        walk,
        target,
        start,
        LINEAR,
        start[-1] in plain.timesteps,
        iterations,
        lambda error, timesteps: errors.append((error, timesteps)),
    )
    assert relative_error(walk(found), target) == pytest.approx(errors[-1][0])
    return plain, found, errors, walks - 1


@pytest.mark.parametrize(
    "name, clean, options, left",
    [
        ("ddim", True, {}, 0.5),
        ("dpm_solver", False, {}, 0.02),
        ("dpm_solver", False, {"order": 1}, 0.6),
        ("unipc", True, {}, 0.05),
        ("unipc", True, {"order": 3}, 0.02),
        ("heun", True, {}, 0.25),
    ],
)
def test_the_error_falls_and_the_timesteps_still_fit_the_sampler(name, clean, options, left):
    plain, found, errors, walks = fit(name, 6, exact(clean=clean), **options)
    assert errors[-1][0] < left * errors[0][0]
    assert [error for error, _ in errors] == sorted((e for e, _ in errors), reverse=True)
    assert len(found) == len(samplers.timesteps_of(plain))
    assert found[0] == samplers.timesteps_of(plain)[0]
    assert walks <= 1 + 10 * (len(found) + 1)
    if name == "ddim":
        assert {type(t) for t in found} == {int}
    if name == "dpm_solver":
        assert found[-1] == 0  # where sampling stops


def test_a_fit_is_the_same_every_time():
    assert fit("unipc", 5, exact())[1] == fit("unipc", 5, exact())[1]


def test_timesteps_that_cannot_be_improved_stay_as_they_are():
    start = [999.0, 500.0, 100.0]
    same = fit_timesteps(lambda timesteps: X, 2 * X, start, LINEAR, True)
    assert same == start
    assert fit_timesteps(lambda timesteps: X, 2 * X, [999.0], LINEAR, True) == [999.0]


def test_whole_timesteps_stay_apart_where_there_is_little_room():
    start = samplers.create("ddim", 40, LINEAR).timesteps
    seen = []

    def walk(timesteps):
        seen.append(timesteps)
        return X * (1 + sum(timesteps) / 1000)  # drives all of them towards 0

    found = fit_timesteps(walk, X, start, LINEAR, True)
    assert sum(found) < sum(start) / 3
    for timesteps in seen:
        samplers.create("ddim", 40, LINEAR, spacing=timesteps)  # refuses what does not decrease


@pytest.mark.parametrize(
    "name, options",
    [("ddpm", {}), ("ddpm", {"variance": "fixed-small"}), ("ddim", {"eta": 0.5})],
)
def test_samplers_that_add_noise_are_refused(name, options):
    with pytest.raises(InputError, match="adds noise at its steps"):
        refuse_noise(samplers.create(name, 5, LINEAR, **options))


@pytest.mark.parametrize("name", ["ddim", "pndm", "heun", "dpm_solver", "unipc"])
def test_samplers_that_add_none_are_not(name):
    refuse_noise(samplers.create(name, 5, LINEAR))


def test_the_relative_error_is_of_norms():
    target = torch.tensor([3.0, 4.0], dtype=torch.float64).view(1, 1, 1, 2)
    assert relative_error(1.5 * target.float(), target) == pytest.approx(0.5)
