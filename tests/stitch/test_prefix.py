"""Shared beginnings of trajectories: the same images to the bit, for fewer evaluations."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
import samplers
import stitch
from samplers import Guidance
from stitch import Allocation, SharedPrefix, Trajectory
from tests.gaussian import Denoiser, start

LABELS = [3, 1, 4, 1]


@pytest.fixture(scope="module")
def zoo():
    return models.load_zoo("fashion")


def by_steps(allocations):
    return sorted(allocations, key=lambda allocation: allocation.steps)


@pytest.mark.parametrize(
    "name, options",
    [
        ("ddim", {}),
        ("ddim", {"eta": 1.0}),
        ("ddpm", {}),
        ("pndm", {"history": "keep"}),
        ("pndm", {"history": "restart"}),
        ("heun", {}),
        ("dpm_solver", {"order": 3}),
        ("unipc", {"order": 3}),
        ("unipc", {"order": 2, "history": "restart"}),
        ("dpm_solver", {"order": 3, "history": "restart"}),
        ("dpm_solver", {"order": 2, "method": "singlestep", "algorithm": "dpmsolver"}),
    ],
)
@pytest.mark.parametrize(
    "guidance",
    [Guidance(1.5, 4), Guidance(1.5, 4, "DiT-S"), Guidance(2.0, 4, steps=(1, 3))],
    ids=["null class", "autoguidance", "interval"],
)
def test_images_are_those_of_trajectories_walked_alone(zoo, name, options, guidance):
    sampler = samplers.create(name, 4, zoo.schedule, **options)
    steps = len(sampler.timesteps)
    allocations = [
        Allocation.from_fractions({"DiT-S": share, "DiT-B": 1 - share}, steps)
        for share in (0, 0.5, 0.75, 1)
    ]
    allocations.append(Allocation.interleave({"DiT-S": 0.5, "DiT-B": 0.5}, steps))
    prefix = SharedPrefix()
    batch = dict(labels=LABELS, seed=5, indices=range(7, 11), guidance=guidance)
    for allocation in by_steps(allocations):
        shared = stitch.sample(zoo, sampler, allocation, wrappers=[prefix], **batch)
        assert np.array_equal(shared, stitch.sample(zoo, sampler, allocation, **batch))
    log_snr = sampler.schedule.log_snr(sampler.timesteps)
    walked = [stitch.evaluations(allocation, guidance, log_snr) for allocation in allocations]
    assert prefix.evaluated == len(stitch.shared_evaluations(walked))
    assert prefix.evaluated + prefix.saved == sum(len(step) for steps in walked for step in steps)
    assert prefix.saved > 0


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.text("abc", min_size=6, max_size=6), min_size=1, max_size=6), st.booleans())
def test_latents_and_evaluations_are_right_for_any_allocations_in_any_order(names, in_order):
    denoisers = {name: Denoiser("ddpm-linear") for name in "abc"}
    sampler = samplers.create("dpm_solver", 6, "ddpm-linear", order=3, history="restart")
    allocations = [Allocation.explicit(steps) for steps in names]
    prefix, walked = SharedPrefix(), []
    for allocation in by_steps(allocations) if in_order else allocations:
        trajectory = Trajectory(
            denoisers, allocation, sampler.timesteps, torch.tensor([0]), Guidance()
        )
        walk = dict(x=start(), switches=allocation.switches)
        assert torch.equal(
            sampler(prefix.wrap(trajectory, trajectory), **walk), sampler(trajectory, **walk)
        )
        walked.append(trajectory.evaluations)
    assert prefix.evaluated + prefix.saved == 6 * len(names)
    least = len(stitch.shared_evaluations(walked))
    assert prefix.evaluated == least if in_order else prefix.evaluated >= least


def test_another_state_is_never_answered_with_the_kept_prediction(zoo):
    sampler, allocation = (
        samplers.create("ddim", 3, zoo.schedule),
        Allocation.explicit(["DiT-S"] * 3),
    )
    prefix = SharedPrefix()
    for seed in (0, 1):
        shared = stitch.sample(zoo, sampler, allocation, LABELS, seed, wrappers=[prefix])
        assert np.array_equal(shared, stitch.sample(zoo, sampler, allocation, LABELS, seed))
    assert prefix.saved == 0


def figure(*series, steps):
    """(evaluations, evaluations with shared beginnings) of series of denoisers, a tenth apart."""
    allocations = dict.fromkeys(
        Allocation.from_fractions(dict(zip(names, fractions, strict=True)), steps)
        for names in series
        for fractions in stitch.simplex(len(names), 10)
    )
    walked = [stitch.evaluations(a, Guidance(1.5), [0.0] * steps) for a in allocations]
    return sum(len(s) for steps in walked for s in steps), stitch.shared_evaluations(walked)


def test_what_the_papers_figures_save():
    # Figure 5: three pairs share their pure trajectories as well; 30 runs.
    unshared, shared = figure("SX", "BX", "SB", steps=100)
    assert (unshared, len(shared)) == (2 * 30 * 100, 2 * (300 + 3 * 450))
    # Figure 6: all 66 allocations of three denoisers.
    unshared, shared = figure("SBX", steps=100)
    assert unshared == 2 * 66 * 100
    counts = Counter(shared)
    assert counts["S"] == 2 * 100
    # After each of 10 beginnings of S, one trajectory of B goes on to the end.
    assert counts["B"] == 2 * sum(range(10, 101, 10))
    # Of each of 55 pairs (S's end, B's end), X takes the rest.
    assert counts["X"] == 2 * 10 * sum(k * (11 - k) for k in range(1, 11))
    # Figure 8: one pair, at each number of steps.
    for steps in (10, 20, 50):
        unshared, shared = figure("SX", steps=steps)
        assert (unshared, len(shared)) == (2 * 11 * steps, 2 * (steps + steps * 55 // 10))
