"""Samplers against diffusers' schedulers on the same timesteps, where they mean the same.

Where they do not:

- ``DPMSolverMultistepScheduler`` takes a state's noise level at integer timesteps from its table,
  but for its own ``karras`` and ``lu_lambdas`` spacings rounds the timestep only, so the two are
  compared on integer timesteps; its ``final_sigmas_type="zero"`` ends with a step to clean latents
  that DPM-Solver's reference does not have; ``lower_order_final`` acts below 15 steps, not 10.
- ``PNDMScheduler`` starts with Runge-Kutta unless ``skip_prk_steps``, and knows the previous
  timestep as ``t - T // steps``, which is right for ``leading`` only.
- ``DDPMScheduler`` and ``DDIMScheduler`` also step to ``t - T // steps``: the spacings compared are
  those whose timesteps are that far apart. Clipping of x_0 is off.
"""

import diffusers
import pytest
import torch

import samplers
from samplers import NoiseSchedule
from tests import golden

SCHEDULE = NoiseSchedule.create("stable-diffusion")
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
Y = torch.tensor([3, 7])
X = torch.from_numpy(golden.normal("input:diffusers", (2, 4, 8, 8)))


def network(x, t):
    return golden.analytic_denoiser(x, float(t), Y)


def theirs(scheduler, steps, learned=False, **options):
    scheduler.set_timesteps(steps)
    x = X
    for t in scheduler.timesteps:
        output = network(x, t)
        x = scheduler.step(output if learned else output[:, :4], t, x, **options).prev_sample
    return x, scheduler.timesteps.tolist()


def ours(sampler, noise=None):
    denoise = lambda x, step: network(x, sampler.timesteps[step])  # noqa: E731
    return sampler(denoise, X, noise=noise)


def same_noise():
    """Their generator, and our noise that draws the same numbers from another, in order."""
    mine = torch.Generator().manual_seed(5)
    return torch.Generator().manual_seed(5), lambda step: torch.randn(X.shape, generator=mine)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("spacing, steps", [("leading", 20), ("trailing", 20), ("leading", 30)])
def test_ddim(eta, set_alpha_to_one, spacing, steps):
    scheduler = diffusers.DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=set_alpha_to_one, timestep_spacing=spacing
    )
    generator, noise = same_noise()
    expected, timesteps = theirs(scheduler, steps, eta=eta, generator=generator)
    sampler = samplers.create(
        "ddim", steps, SCHEDULE, spacing=spacing, eta=eta, set_alpha_to_one=set_alpha_to_one
    )
    assert sampler.timesteps == timesteps
    torch.testing.assert_close(ours(sampler, noise), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variance", ["learned-range", "fixed-small", "fixed-large"])
def test_ddpm(variance):
    scheduler = diffusers.DDPMScheduler(
        **BETAS, clip_sample=False, variance_type=variance.replace("-", "_")
    )
    generator, noise = same_noise()
    learned = variance == "learned-range"
    expected, timesteps = theirs(scheduler, 50, learned, generator=generator)
    sampler = samplers.create("ddpm", 50, SCHEDULE, spacing="leading", variance=variance)
    assert sampler.timesteps == timesteps
    torch.testing.assert_close(ours(sampler, noise), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["dpmsolver++", "dpmsolver"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [8, 20])
def test_dpm_solver_multistep(algorithm, order, steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS,
        algorithm_type=algorithm,
        solver_order=order,
        final_sigmas_type="sigma_min",
        timestep_spacing="linspace",
    )
    expected, timesteps = theirs(scheduler, steps)
    sampler = samplers.create(
        "dpm_solver", steps, SCHEDULE, spacing=[*timesteps, 0], order=order, algorithm=algorithm
    )
    torch.testing.assert_close(ours(sampler), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("steps", [10, 50])
def test_pndm(set_alpha_to_one, steps):
    scheduler = diffusers.PNDMScheduler(
        **BETAS, skip_prk_steps=True, set_alpha_to_one=set_alpha_to_one
    )
    expected, timesteps = theirs(scheduler, steps)
    sampler = samplers.create("pndm", steps, SCHEDULE, set_alpha_to_one=set_alpha_to_one)
    assert sampler.timesteps == timesteps
    torch.testing.assert_close(ours(sampler), expected, rtol=1e-4, atol=1e-4)


def test_heun():
    # Their step to clean latents is ours; timesteps and sigmas are given by their table.
    scheduler = diffusers.HeunDiscreteScheduler(**BETAS, timestep_spacing="linspace")
    scheduler.set_timesteps(12)
    timesteps = scheduler.timesteps.tolist()
    visited = [timesteps[0], *timesteps[1::2]]
    sampler = samplers.create("heun", 12, SCHEDULE, spacing=visited)
    assert sampler.timesteps == timesteps
    x = X * scheduler.init_noise_sigma
    # Our x is theirs over sqrt(1 + sigma^2), which is 1 / alpha.
    start = x / (scheduler.sigmas[0] ** 2 + 1).sqrt()
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t)[:, :4]
        x = scheduler.step(output, t, x).prev_sample
    final = sampler(lambda x, step: network(x, sampler.timesteps[step]), start)
    torch.testing.assert_close(final, x, rtol=1e-3, atol=1e-3)
