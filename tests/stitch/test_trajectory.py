"""Stitched trajectories, and the noise and labels of sample indices."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
import samplers
import stitch
from models.classes import Classes
from models.errors import InputError
from samplers import Guidance
from samplers.noise import initial_noise, random_labels, step_noise
from stitch import Allocation, Trajectory
from tests import golden

SHAPE = (3, 4, 4)
derandomized = settings(derandomize=True, deadline=None)


def tiny(width=16, **overrides):
    sizes = dict(latent_shape=SHAPE, patch_size=2, depth=1, num_heads=2, num_classes=5)
    network = models.create("DiT", width=width, **{**sizes, **overrides}).eval()
    golden.fill(network)
    return network


@pytest.fixture(scope="module")
def zoo():
    denoisers = {"S": tiny(16), "L": tiny(24)}
    return SimpleNamespace(
        denoisers=denoisers,
        specs={name: denoiser.spec for name, denoiser in denoisers.items()},
        first_stage=models.create("first-stage-identity"),
        schedule="ddpm-linear",
        classes=Classes(5),
        guidance_channels=3,
        unconditional="null-class",
        device=torch.device("cpu"),
    )


def sampler(name="ddim", steps=4, **options):
    return samplers.create(name, steps, "ddpm-linear", **options)


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm_solver"])
def test_each_step_calls_its_owner_with_the_samplers_timestep(zoo, name):
    calls, walker = [], sampler(name)
    hooks = [
        network.register_forward_pre_hook(lambda _, inputs, name=name: calls.append((name, inputs)))
        for name, network in zoo.denoisers.items()
    ]
    allocation = Allocation.explicit(["L", "S", "S", "L"])
    labels = torch.tensor([1, 4])
    trajectory = Trajectory(zoo.denoisers, allocation, walker.timesteps, labels, Guidance(1.0))
    walker(trajectory, torch.ones(2, *SHAPE), noise=lambda step: torch.zeros(2, *SHAPE))
    for hook in hooks:
        hook.remove()
    assert tuple(owner for owner, _ in calls) == allocation.steps
    for (_, (_, t, y)), timestep in zip(calls, walker.timesteps, strict=True):
        assert t.tolist() == pytest.approx([timestep])  # one for all images
        assert torch.equal(y, labels)


@torch.no_grad()
def test_unguided_stitch_of_one_denoiser_is_that_denoiser_alone(zoo):
    walker, network, y = sampler(), zoo.denoisers["S"], torch.tensor([0, 3])
    x = initial_noise(0, range(2), SHAPE)
    alone = walker(lambda x, i: network(x, torch.full((1,), float(walker.timesteps[i])), y), x)
    for denoisers, steps in (({"S": network}, "SSSS"), ({"a": network, "b": network}, "aabb")):
        allocation = Allocation.explicit(steps)
        trajectory = Trajectory(denoisers, allocation, walker.timesteps, y, Guidance(1.0))
        assert torch.equal(walker(trajectory, x), alone)


@torch.no_grad()
def test_guided_steps_ask_the_owner_for_both_predictions(zoo):
    allocation, y, x = Allocation.explicit("SL"), torch.tensor([2]), torch.ones(1, *SHAPE)
    trajectory = Trajectory(zoo.denoisers, allocation, [900.0, 100.0], y, Guidance(3.0))
    for step, (name, t) in enumerate([("S", 900.0), ("L", 100.0)]):
        network, t = zoo.denoisers[name], torch.tensor([t])
        conditional, null = network(x, t, y), network(x, t, torch.tensor([5]))
        expected = null + 3 * (conditional - null)
        output = trajectory(x, step)
        torch.testing.assert_close(output[:, :3], expected[:, :3], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output[:, 3:], conditional[:, 3:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "steps, message",
    [
        ("SMLX", "unknown denoiser M, X; known: S, L"),
        ("SSL", r"S\*2\+L\*1 has 3 steps, the sampler has 4"),
    ],
)
def test_an_allocation_that_cannot_be_sampled_is_refused(zoo, steps, message):
    allocation = Allocation.explicit(steps)
    with pytest.raises(InputError, match=message):
        Trajectory(zoo.denoisers, allocation, [3, 2, 1, 0], torch.tensor([0]), Guidance())


@pytest.mark.parametrize(
    "fact, value, here",
    [
        ("latent_shape", (3, 8, 8), SHAPE),
        ("num_classes", 7, 5),
        ("schedule", "ldm", "ddpm-linear"),
    ],
)
def test_denoisers_that_do_not_fit_are_refused_with_what_differs(fact, value, here):
    denoisers = {"S": tiny(), "other": tiny(**{fact: value})}
    allocation = Allocation.from_fractions({"S": 0.5, "other": 0.5}, 4)
    message = f"S and other cannot be stitched: their {fact} differ, {here} and {value}"
    with pytest.raises(InputError, match=re.escape(message)):
        Trajectory(denoisers, allocation, [3, 2, 1, 0], torch.tensor([0]), Guidance())


def test_a_guidance_interval_without_a_step_is_refused_before_the_first_one(zoo):
    allocation, guidance = Allocation.explicit("SSLL"), Guidance(2.0, steps=(4, 9))
    with pytest.raises(InputError, match=r"guidance.steps=\(4, 9\).* contain none of the 4 steps"):
        Trajectory(zoo.denoisers, allocation, [3, 2, 1, 0], torch.tensor([0]), guidance)


def test_a_denoiser_that_owns_no_step_need_not_fit():
    denoisers = {"S": tiny(), "other": tiny(num_classes=7)}
    allocation = Allocation.from_fractions({"S": 1.0, "other": 0.0}, 4)
    Trajectory(denoisers, allocation, [3, 2, 1, 0], torch.tensor([0]), Guidance())


HALF = Allocation.explicit("SSLL")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(labels=[]), r"labels=\[\] is empty; give at least one class"),
        (dict(labels=[0, 5]), r"labels \[5\] are not classes.*0 to 4"),
        (dict(labels=[-1]), r"labels \[-1\] are not classes"),
        (dict(labels=[0.5]), r"labels \[0.5\] are not classes"),
        (dict(labels=[True]), r"labels \[True\] are not classes"),
        (dict(labels=[1, 2], indices=[7]), "2 labels but 1 indices"),
        (dict(labels=[1], indices=[0.5]), "index=0.5 must be a whole number from 0"),
        (dict(labels=[1], indices=[-1]), "index=-1 must be a whole number from 0"),
        (
            dict(labels=[1], seed=0.5),
            "seed=0.5 must be a whole number from 0 to 18446744",
        ),
        (dict(labels=[1], seed=True), "seed=True must be a whole number"),
        (dict(labels=[1], seed=-1), "seed=-1 must be a whole number"),
        (dict(labels=[1], seed=2**64), "seed=18446744073709551616 must be a whole number"),
        (dict(labels=[1], guidance_channels=2.5), "guidance.channels=2.5 must be a whole number"),
        (dict(labels=[1], guidance_scale=True), "guidance.scale=True must be a number"),
        (dict(labels=[1], guidance_scale=float("inf")), "guidance.scale=inf must be"),
        (
            dict(labels=[1], guidance_scale=1.5, guidance_channels=5),
            r"guidance.channels=5, but the latents of S have \d",
        ),
        (
            dict(labels=[1], guidance_channels=0),
            "guidance.channels=0 must be a whole number, 1",
        ),
        (dict(labels=[1], alignment="t"), "alignment='t' is unknown; known: log-snr, timestep"),
        (dict(labels=[1], sampler=sampler(steps=5)), "has 4 steps, the sampler has 5"),
    ],
)
def test_sampling_refuses_what_does_not_fit(zoo, options, message):
    with pytest.raises(InputError, match=message):
        stitch.sample(**{"zoo": zoo, "sampler": sampler(), "allocation": HALF, **options})


@pytest.mark.parametrize("name, options", [("ddim", {}), ("ddim", {"eta": 1.0}), ("ddpm", {})])
def test_an_image_depends_on_its_index_and_label_not_on_its_batch(zoo, name, options):
    walker = sampler(name, **options)
    together = stitch.sample(
        zoo, walker, HALF, [1, 2, 3], seed=4, guidance_scale=1.5, indices=[9, 11, 10]
    )
    assert together.shape == (3, 4, 4, 3) and together.dtype == np.uint8
    alone = stitch.sample(zoo, walker, HALF, [2], seed=4, guidance_scale=1.5, indices=[11])
    # Another batch size may round differently.
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    assert np.abs(together[0].astype(int) - alone[0]).max() > 1


seeds = st.integers(0, 2**64 - 1)
index_lists = st.lists(st.integers(0, 2**40), min_size=1, max_size=5)


@derandomized
@given(seeds, index_lists, st.integers(0, 999))
def test_draws_of_an_index_do_not_depend_on_the_batch_they_are_made_in(seed, indices, step):
    noise, later = initial_noise(seed, indices, (2, 3)), step_noise(seed, indices, (2, 3), step)
    labels = random_labels(seed, indices, 10)
    for b, index in enumerate(indices):
        assert torch.equal(noise[b], initial_noise(seed, [index], (2, 3))[0])
        assert torch.equal(later[b], step_noise(seed, [index], (2, 3), step)[0])
        assert labels[b] == random_labels(seed, [index], 10)[0]


@derandomized
@given(seeds, st.integers(0, 2**40), st.integers(0, 998))
def test_draws_differ_between_seeds_indices_and_steps(seed, index, step):
    draws = [initial_noise(s, [i], (4,)) for s in (seed, seed ^ 1) for i in (index, index + 1)]
    draws += [step_noise(s, [index], (4,), i) for s in (seed, seed ^ 1) for i in (step, step + 1)]
    assert len({draw.numpy().tobytes() for draw in draws}) == len(draws)


def test_noise_is_standard_normal_and_unrelated_between_indices_and_steps():
    noise = torch.cat(
        [
            initial_noise(0, range(100), (256,)),
            initial_noise(1, range(100), (256,)),
            *(step_noise(0, range(100), (256,), step) for step in range(2)),
        ]
    )
    assert noise.dtype == torch.float32
    count = noise.numel()
    assert abs(noise.mean()) < 4 / count**0.5
    assert abs(noise.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs(noise.pow(4).mean() - 3) < 4 * (96 / count) ** 0.5
    correlations = torch.corrcoef(noise) - torch.eye(len(noise))
    assert correlations.abs().max() < 6 / 256**0.5


def test_random_labels_are_uniform_over_the_classes():
    counts = random_labels(0, range(5000), 10).bincount(minlength=10)
    assert len(counts) == 10
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi-squared of 9 degrees, p = 0.001
