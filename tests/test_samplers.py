"""Schedules and samplers against the reference implementations and closed forms."""

import math

import pytest
import torch

import samplers
from samplers import Guidance, NoiseSchedule
from samplers.loss import training_losses
from samplers.spacing import trailing_inclusive
from tests import golden

LINEAR = NoiseSchedule.create("ddpm-linear")


def tensors(name):
    return {key: torch.from_numpy(value) for key, value in golden.arrays(name).items()}


def walk(sampler, fixture, noise=None):
    """Run a sampler on the analytic denoiser; return final, states and x_0 after every step."""
    states, predictions = [], []

    def denoise(x, step):
        return golden.analytic_denoiser(x, sampler.timesteps[step], fixture["y"])

    def keep(step, t, x, x_0):
        assert step == len(states) and t == sampler.timesteps[step]
        states.append(x)
        predictions.append(x_0)

    final = sampler(denoise, fixture["x_T"], noise=noise, callback=keep)
    return final, states, predictions


def test_schedule_equals_the_reference():
    full = tensors("diffusion_schedule")
    process = LINEAR.respaced(list(range(999, -1, -1)))
    tables = {
        "full_betas": LINEAR.betas,
        "full_alphas_cumprod": LINEAR.alphas_cumprod,
        "full_alphas_cumprod_prev": process.alphas_cumprod_prev.flip(0),
        "full_posterior_variance": process.posterior_variance.flip(0),
        "full_posterior_log_variance_clipped": process.posterior_log_variance_clipped.flip(0),
        "full_posterior_mean_coef1": process.posterior_mean_coef1.flip(0),
        "full_posterior_mean_coef2": process.posterior_mean_coef2.flip(0),
    }
    for name, table in tables.items():
        torch.testing.assert_close(table, full[name], rtol=1e-9, atol=1e-12, msg=name)


def test_respaced_tables_equal_the_reference():
    fixture = tensors("diffusion_schedule")
    process = LINEAR.respaced(trailing_inclusive(100))
    for name in (
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "posterior_variance",
        "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
    ):  # fmt: skip
        table = getattr(process, name).flip(0)
        torch.testing.assert_close(table, fixture[f"r100_{name}"], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("steps", [10, 20, 25, 50, 100, 250])
def test_default_spacing_is_the_papers(steps):
    assert trailing_inclusive(steps)[::-1] == golden.facts("timestep_maps")[str(steps)]


def test_ddim_50_equals_the_reference():
    fixture = tensors("ddim_50_eta0")
    sampler = samplers.create("ddim", steps=50, schedule="ddpm-linear")
    assert sampler.timesteps == fixture["timestep_map"].flip(0).tolist()
    final, states, predictions = walk(sampler, fixture)
    assert (final - fixture["final"]).abs().max() < 2e-5
    for j, step in enumerate(fixture["state_index"].tolist()):
        assert (states[step] - fixture["states"][j]).abs().max() < 2e-5
        assert (predictions[step] - fixture["pred_xstart_states"][j]).abs().max() < 1e-3


def test_ddpm_100_equals_the_reference_with_its_noise():
    fixture = tensors("ddpm_100")
    sampler = samplers.create("ddpm", steps=100, schedule="ddpm-linear")
    final, states, predictions = walk(sampler, fixture, noise=lambda step: fixture["noise"][step])
    assert (final - fixture["final"]).abs().max() < 2e-5
    for j, step in enumerate(fixture["state_index"].tolist()):
        assert (states[step] - fixture["states"][j]).abs().max() < 2e-5
        assert (predictions[step] - fixture["pred_xstart_states"][j]).abs().max() < 1e-3


def test_dpm_solver_pp_2m_equals_the_reference():
    fixture = tensors("dpmpp_multistep2_20_time_uniform")
    sampler = samplers.create("dpm_solver", steps=20, schedule="ddpm-linear")
    inputs = torch.tensor(sampler.timesteps)
    assert (inputs - fixture["model_t_inputs"]).abs().max() < 1e-3
    final, states, _ = walk(sampler, fixture)
    assert (final - fixture["final"]).abs().max() < 1e-4
    for j, index in enumerate(fixture["state_index"].tolist()):
        state = states[index - 1] if index else fixture["x_T"]
        assert (state - fixture["states"][j]).abs().max() < 1e-4


def test_training_loss_and_its_gradient_equal_the_reference():
    fixture = tensors("train_losses_a")
    x_t = LINEAR.add_noise(fixture["x_start"], fixture["noise"], fixture["t"])
    assert (x_t - fixture["x_t"]).abs().max() < 2e-6
    output = torch.cat(
        [
            golden.analytic_denoiser(x[None], t, y[None])
            for x, t, y in zip(x_t, fixture["t"], fixture["y"], strict=True)
        ]
    ).requires_grad_()
    losses = training_losses(output, fixture["x_start"], fixture["noise"], fixture["t"], LINEAR)
    assert (losses["mse"] - fixture["mse"]).abs().max() < 2e-6
    assert (losses["vb"] - fixture["vb"]).abs().max() < 5e-5
    assert (losses["loss"] - fixture["loss"]).abs().max() < 5e-5
    losses["loss"].mean().backward()
    assert (output.grad - fixture["grad_model_output"]).abs().max() < 1e-6


# A Gaussian N(0, s^2) has an exact denoiser, so every sampler's limit is known.
DATA_STD = 0.5


def gaussian_denoiser(sampler):
    log_alpha = 0.5 * LINEAR.alphas_cumprod.log()

    def denoise(x, step):
        t = sampler.timesteps[step]
        low = min(int(t), len(log_alpha) - 2)
        log_a = torch.lerp(log_alpha[low], log_alpha[low + 1], t - low).item()
        alpha, sigma = math.exp(log_a), math.sqrt(-math.expm1(2 * log_a))
        epsilon = sigma * x / (alpha**2 * DATA_STD**2 + sigma**2)
        return torch.cat([epsilon, torch.zeros_like(x)], dim=1)

    return denoise


@pytest.mark.parametrize(
    "name, options", [("ddim", {}), ("dpm_solver", {}), ("dpm_solver", {"order": 1})]
)
def test_deterministic_samplers_end_at_the_exact_solution_of_a_gaussian(name, options):
    sampler = samplers.create(name, steps=500, schedule=LINEAR, **options)
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    final = sampler(gaussian_denoiser(sampler), x)
    # The probability flow maps x_T to data_std * x_T (up to the signal left at T).
    torch.testing.assert_close(final, DATA_STD * x, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_converges_with_its_order_on_a_gaussian(order):
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def solve(steps):
        sampler = samplers.create("dpm_solver", steps=steps, schedule=LINEAR, order=order)
        return sampler(gaussian_denoiser(sampler), x)

    limit = solve(1000)
    coarse, fine = ((solve(steps) - limit).abs().max() for steps in (100, 200))
    # Halving the steps divides the error by 2 ** order (a little more, as the limit is near).
    assert 1.8**order < coarse / fine < 2.4**order


@pytest.mark.parametrize(
    "name, options",
    [
        ("ddpm", {"variance": "fixed-small"}),
        ("ddpm", {"variance": "fixed-large"}),
        ("ddpm", {"variance": "learned-range"}),
        ("ddim", {"eta": 1.0}),
        ("ddim", {"eta": 0.5}),
    ],
)
def test_stochastic_samplers_have_the_variance_of_a_gaussian(name, options):
    sampler = samplers.create(name, steps=250, schedule=LINEAR, **options)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, 1, 1, dtype=torch.float64, generator=generator)
    final = sampler(
        gaussian_denoiser(sampler),
        x,
        noise=lambda step: torch.randn(x.shape, dtype=x.dtype, generator=generator),
    )
    assert final.std().item() == pytest.approx(DATA_STD, rel=0.03)


def test_ddim_with_eta_1_is_ddpm_with_fixed_small_variance():
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    noises = torch.randn(20, 3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([1, 2, 3])
    finals = []
    for name, options in (("ddim", {"eta": 1.0}), ("ddpm", {"variance": "fixed-small"})):
        sampler = samplers.create(name, steps=20, schedule=LINEAR, **options)
        finals.append(
            sampler(
                lambda x, i, s=sampler: golden.analytic_denoiser(x, s.timesteps[i], y),
                x,
                noise=lambda step: noises[step],
            )
        )
    torch.testing.assert_close(*finals, rtol=1e-4, atol=1e-4)


def test_guidance_of_all_channels_leaves_the_variance_logits_conditional():
    def denoiser(x, t, y):
        return torch.cat([x * y.view(-1, 1, 1, 1), 10.0 + x * y.view(-1, 1, 1, 1)], dim=1)

    x, t, y = torch.ones(2, 4, 1, 1), torch.zeros(2), torch.tensor([1, 2])
    output = Guidance(3.0, channels=4)(denoiser, x, t, y, null_label=5)
    assert output[:, :4, 0, 0].tolist() == [[5 + 3 * (1 - 5)] * 4, [5 + 3 * (2 - 5)] * 4]
    assert output[:, 4:, 0, 0].tolist() == [[11.0] * 4, [12.0] * 4]


def test_guidance_scale_1_evaluates_the_conditional_half_only():
    batches = []

    def denoiser(x, t, y):
        batches.append(len(x))
        return x

    Guidance(1.0)(denoiser, torch.zeros(3, 4, 1, 1), torch.zeros(3), torch.zeros(3).long(), 9)
    assert batches == [3]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: samplers.create("euler", 10, LINEAR), "unknown sampler 'euler'.*ddim.*dpm_solver"),
        (lambda: samplers.create("ddim", 10, LINEAR, etta=1), "no option etta; known: eta"),
        (lambda: samplers.create("ddim", 10, LINEAR, eta=2), "sampler.eta=2"),
        (lambda: samplers.create("ddim", 1001, LINEAR), "sampler.steps=1001"),
        (lambda: samplers.create("dpm_solver", 0, LINEAR), "sampler.steps=0"),
        (lambda: samplers.create("ddpm", 10, LINEAR, variance="x"), "learned-range, fixed-small"),
        (lambda: NoiseSchedule.create("cosine"), "unknown noise schedule 'cosine'.*ddpm-linear"),
        (lambda: Guidance(-1.0), "guidance.scale=-1"),
    ],
)
def test_bad_settings_are_named_with_the_valid_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_learned_range_without_learned_sigma_says_what_to_use():
    sampler = samplers.create("ddpm", steps=5, schedule=LINEAR)
    with pytest.raises(ValueError, match="fixed-small"):
        sampler(lambda x, i: x, torch.zeros(1, 4, 2, 2), noise=lambda i: torch.zeros(1, 4, 2, 2))


def test_time_uniform_ends_at_zero_and_has_one_more_time_than_steps():
    times = samplers.create("dpm_solver", 7, LINEAR).times
    assert times == [999 * (1 - i / 7) for i in range(8)]
