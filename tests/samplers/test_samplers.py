"""Schedules and samplers against the reference implementations and closed forms."""

import inspect
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import samplers
from models.errors import InputError
from samplers import Guidance, NoiseSchedule, Sampler
from samplers.dpm_solver import group_orders
from samplers.loss import draw_timesteps, training_losses
from samplers.spacing import equal_parts, grid, trailing_inclusive, visits
from tests import gaussian, golden

LINEAR = NoiseSchedule.create("ddpm-linear")


def tensors(name):
    return {key: torch.from_numpy(value) for key, value in golden.arrays(name).items()}


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


def test_ldm_and_stable_diffusion_schedules_equal_the_references():
    for name, file in (("ldm", "ldm_ddim_schedule"), ("stable-diffusion", "uvit_schedule")):
        schedule, fixture = NoiseSchedule.create(name), tensors(file)
        for table in ("betas", "alphas_cumprod"):
            torch.testing.assert_close(
                getattr(schedule, table), fixture[table].double(), rtol=1e-6, atol=1e-9
            )


@pytest.mark.parametrize("steps", [20, 50, 100, 200])
@pytest.mark.parametrize("eta", [0, 1])
def test_the_tables_of_ldm_ddim_equal_the_reference(steps, eta):
    fixture = tensors("ldm_ddim_schedule")
    sampler = samplers.create(
        "ddim", steps, "ldm", spacing="ldm", set_alpha_to_one=False, eta=float(eta)
    )
    assert sampler.timesteps[::-1] == fixture[f"S{steps}_timesteps"].tolist()
    last = sampler.schedule.alphas_cumprod[0].item()
    process = sampler.schedule.respaced(sampler.timesteps, last)
    tables = {
        "alphas": process.alphas_cumprod,
        "alphas_prev": process.alphas_cumprod_prev,
        f"sigmas_eta{eta}": eta * process.posterior_variance.sqrt(),
        "sqrt_one_minus_alphas": (1 - process.alphas_cumprod).sqrt(),
    }
    for name, table in tables.items():
        # The reference's sigmas come from float32 alphas.
        expected = fixture[f"S{steps}_{name}"].double()
        torch.testing.assert_close(table.flip(0), expected, rtol=0, atol=2e-5, msg=name)


def test_the_times_of_dpm_solvers_equal_the_references():
    fixture = tensors("dpmpp_multistep2_20_time_uniform")
    sampler = samplers.create("dpm_solver", steps=20, schedule="ddpm-linear")
    assert (torch.tensor(sampler.timesteps) - fixture["model_t_inputs"]).abs().max() < 1e-3
    fixture = tensors("uvit_dpm_singlestep3_10")
    sampler = samplers.create("dpm_solver", 10, "stable-diffusion", order=3, method="singlestep")
    # U-ViT counts its timesteps from 1.
    assert (torch.tensor(sampler.timesteps) + 1 - fixture["model_t_inputs"]).abs().max() < 1e-3
    times = (torch.tensor(sampler.times) + 1) / 1000
    assert (times - fixture["timesteps_continuous"]).abs().max() < 1e-6
    assert group_orders(10, 3) == fixture["step_orders"].tolist()


def test_ldm_ddim_adds_noise_at_its_last_step():
    sampler = samplers.create("ddim", 5, "ldm", spacing="ldm", set_alpha_to_one=False, eta=1.0)
    asked = []

    def noise(step):
        asked.append(step)
        return torch.zeros(1, 4, 2, 2)

    sampler(lambda x, step: x, torch.ones(1, 4, 2, 2), noise=noise)
    assert asked == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "name, options",
    [("ddim", {}), ("dpm_solver", {}), ("dpm_solver", {"order": 1}), ("pndm", {}), ("heun", {}),
     ("unipc", {}), ("unipc", {"predict_x0": False, "order": 3})],
)  # fmt: skip
def test_deterministic_samplers_end_at_the_exact_solution_of_a_gaussian(name, options):
    sampler = samplers.create(name, steps=500, schedule=LINEAR, **options)
    x = gaussian.start()
    final = sampler(gaussian.denoise(LINEAR, sampler.timesteps), x)
    # The probability flow maps x_T to data_std * x_T (up to the signal left at T).
    torch.testing.assert_close(final, gaussian.STD * x, rtol=2e-2, atol=1e-3)


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
        gaussian.denoise(LINEAR, sampler.timesteps),
        x,
        noise=lambda step: torch.randn(x.shape, dtype=x.dtype, generator=generator),
    )
    assert final.std().item() == pytest.approx(gaussian.STD, rel=0.03)


def test_ddim_with_eta_1_is_ddpm_with_fixed_small_variance():
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    noises = torch.randn(20, 3, 4, 5, 5, generator=torch.Generator().manual_seed(1)).double()
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
    torch.testing.assert_close(*finals, rtol=1e-9, atol=1e-9)


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
        (lambda: samplers.create("ddim", 300, LINEAR, spacing="stride"), "no stride.*steps=300"),
        (lambda: samplers.create("ddim", 30, LINEAR, spacing="ldm"), "steps=30 to divide 1000"),
        (lambda: samplers.create("ddim", 9, LINEAR, spacing="x"), "unknown.*'x'.*leading"),
        (lambda: samplers.create("heun", 9, LINEAR, spacing="leading"), "unknown.*karras"),
        (
            lambda: samplers.create("heun", 9, LINEAR, spacing="x"),
            "in a list or in a .json or .txt",
        ),
        (lambda: samplers.create("ddim", 900, LINEAR, spacing="karras"), "visits a timestep twice"),
        (lambda: samplers.create("ddim", 3, LINEAR, spacing=[9, 5]), "lists 2 .* needs 3"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=5), "spacing=5 must be a sequence"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=True), "=True must be a sequence"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing={9: 1, 5: 0}), "must be a sequence"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=iter([9, 5])), "must be a sequence"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=b"ab"), "must be a sequence"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=np.array(9)), "must be a sequence"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=np.ones((2, 1))), "must be a number"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=["9", "5"]), "='9' must be a number"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=[True, 0]), "=True must be a number"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=[5, 5]), "must decrease, but 5 comes"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=[1000, 5]), "from 1000 to 5 leave"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=[5, -1]), "leave the schedule's 0 to"),
        (lambda: samplers.create("ddim", 2, LINEAR, spacing=[5.5, 1]), "must be a list of int"),
        (lambda: samplers.create("dpm_solver", 9, LINEAR, order=4), "order=4 must be 1, 2 or 3"),
        (lambda: samplers.create("dpm_solver", 9, LINEAR, order=0), "order=0 must be 1, 2 or 3"),
        (lambda: samplers.create("dpm_solver", 9, LINEAR, method="x"), "unknown.*singlestep"),
        (lambda: samplers.create("dpm_solver", 9, LINEAR, algorithm="x"), "unknown.*dpmsolver"),
        (
            lambda: samplers.create(
                "dpm_solver", 9, LINEAR, method="singlestep", history="restart"
            ),
            "restart needs sampler.method=multistep",
        ),
        (
            lambda: samplers.create("dpm_solver", 9, LINEAR, order=2, exact_curvature=True),
            "exact_curvature=true needs .*order=3",
        ),
        (lambda: samplers.create("pndm", 9, LINEAR, history="x"), "unknown; known: keep, restart"),
        (lambda: samplers.create("ddpm", 9, LINEAR, fallback="x"), "fallback='x' .*refuse, fixed-"),
        (lambda: NoiseSchedule.create("cosine"), "unknown noise schedule 'cosine'.*ddpm-linear"),
        (lambda: Guidance(-1.0), "guidance.scale=-1"),
    ],
)
def test_bad_settings_are_named_with_the_valid_ones(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_learned_range_without_learned_sigma_says_what_to_use():
    sampler = samplers.create("ddpm", steps=5, schedule=LINEAR)
    with pytest.raises(InputError, match="fixed-small"):
        sampler(lambda x, i: x, torch.zeros(1, 4, 2, 2), noise=lambda i: torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize("fallback", ["fixed-small", "fixed-large"])
def test_denoisers_with_and_without_learned_variance_take_turns(fallback):
    """Every step has the variance that its denoiser's outputs allow, whatever the others are."""
    x, y = golden_start(), torch.tensor([3, 7])
    noises = torch.randn(10, *x.shape, generator=torch.Generator().manual_seed(0))

    def states(channels, **options):
        sampler = samplers.create("ddpm", 10, LINEAR, **options)
        kept = [x]
        sampler(
            # From the same state at every step, so that steps can be compared one by one.
            lambda _, i: golden.analytic_denoiser(x, sampler.timesteps[i], y)[:, : channels(i)],
            x,
            noise=lambda step: noises[step],
            callback=lambda step, t, x, x_0: kept.append(x),
        )
        return kept

    mixed = states(lambda i: 8 if i < 5 else 4, fallback=fallback)
    learned, fixed = states(lambda i: 8), states(lambda i: 4, variance=fallback)
    assert all(torch.equal(mixed[i], learned[i]) for i in range(6))
    assert not torch.equal(mixed[6], learned[6])
    again = states(lambda i: 4, fallback=fallback)
    assert all(torch.equal(one, other) for one, other in zip(again, fixed, strict=True))


def test_time_uniform_ends_at_zero_and_has_one_more_time_than_steps():
    times = samplers.create("dpm_solver", 7, LINEAR).times
    assert times == [999 * (1 - i / 7) for i in range(8)]


@pytest.mark.parametrize("steps", [10, 20, 25, 50, 100, 200, 250])
def test_stride_spacing_is_the_references(steps):
    expected = golden.facts("timestep_maps")[f"ddim{steps}"]
    assert visits("stride", steps, LINEAR)[::-1] == expected


@pytest.mark.parametrize(
    "listed", [(9, 5, 1), range(9, 0, -4), np.arange(9, 0, -4), torch.tensor([9, 5, 1])]
)
def test_any_sequence_of_numbers_is_a_spacing(listed):
    sampler = samplers.create("ddim", 3, LINEAR, spacing=listed)
    assert sampler.timesteps == [9, 5, 1]
    assert {type(t) for t in sampler.timesteps} == {int}


def test_spacings_by_hand():
    assert visits("ldm", 5, LINEAR) == [801, 601, 401, 201, 1]
    assert visits("leading", 3, LINEAR) == [666, 333, 0]
    assert visits("trailing", 3, LINEAR) == [999, 666, 332]
    assert visits("linspace", 4, LINEAR) == [999, 666, 333, 0]
    assert visits("stride", 30, LINEAR) == list(range(0, 1000, 34))[::-1]
    assert visits("karras", 2, LINEAR) == [999, 0]
    assert grid("time-uniform", equal_parts(3), LINEAR) == pytest.approx([999, 666, 333, 0])
    # sqrt(1000) = 31.62 to 1, halfway 16.31; squared, and counted from 0.
    assert grid("quadratic", equal_parts(2), LINEAR) == pytest.approx([999, 265.06, 0], abs=0.01)


@pytest.mark.parametrize("name", ["time-uniform", "quadratic", "log-snr", "karras"])
def test_what_a_grid_makes_even_is_even(name):
    times = np.array(grid(name, equal_parts(8), LINEAR))
    assert times[0] == pytest.approx(999) and times[-1] == pytest.approx(0, abs=1e-9)
    half_log_snr = LINEAR.at(times)[2]
    even = {
        "time-uniform": times,
        "quadratic": np.sqrt(times + 1),
        "log-snr": half_log_snr,
        "karras": np.exp(-half_log_snr / 7),
    }[name]
    np.testing.assert_allclose(np.diff(even), np.diff(even).mean(), rtol=1e-6)


def test_time_is_inverted_by_log_snr():
    times = np.linspace(0, 999, 77)
    np.testing.assert_allclose(LINEAR.time_at(LINEAR.at(times)[2]), times, atol=1e-7)
    assert LINEAR.time_at(np.array([100.0, -100.0])).tolist() == [0, 999]


@pytest.mark.parametrize(
    "steps, order, orders",
    [
        (9, 3, [3, 3, 2, 1]), (10, 3, [3, 3, 3, 1]), (11, 3, [3, 3, 3, 2]), (3, 3, [2, 1]),
        (4, 2, [2, 2]), (5, 2, [2, 2, 1]), (3, 1, [1, 1, 1]), (50, 3, [3] * 16 + [2]),
    ],
)  # fmt: skip
def test_singlestep_groups_use_up_the_evaluations(steps, order, orders):
    assert group_orders(steps, order) == orders


def test_singlestep_makes_groups_equal_in_log_snr():
    sampler = samplers.create(
        "dpm_solver", 7, LINEAR, spacing="log-snr", order=3, method="singlestep"
    )
    half_log_snr = LINEAR.at(sampler.times)[2]
    np.testing.assert_allclose(np.diff(half_log_snr[[0, 3, 6, 7]], 2), 0, atol=1e-6)


def test_solvers_of_first_order_are_ddim():
    x, y = golden_start(), torch.tensor([3, 7])
    visited = trailing_inclusive(12)
    finals = []
    for name, steps, options in (
        ("ddim", 12, dict(set_alpha_to_one=False, spacing=visited)),
        ("dpm_solver", 11, dict(order=1, spacing=visited)),
        ("dpm_solver", 11, dict(order=1, spacing=visited, algorithm="dpmsolver")),
        ("dpm_solver", 11, dict(order=1, spacing=visited, method="singlestep")),
    ):
        sampler = samplers.create(name, steps, LINEAR, **options)
        assert sampler.timesteps == visited[: len(sampler.timesteps)]
        finals.append(
            sampler(
                lambda x, i, s=sampler: golden.analytic_denoiser(x, s.timesteps[i], y), x.double()
            )
        )
    for final in finals[1:]:
        torch.testing.assert_close(final, finals[0], rtol=1e-6, atol=1e-6)


def test_restarted_history_is_of_order_1_at_the_switch():
    """With a switch at every step, a multistep solver that restarts is DDIM."""
    x, y = golden_start(), torch.tensor([3, 7])

    def final(name, switches, **options):
        sampler = samplers.create(name, 12, LINEAR, **options)
        return sampler(
            lambda x, i: golden.analytic_denoiser(x, sampler.timesteps[i], y), x, switches=switches
        )

    every = range(1, 13)
    first = final("dpm_solver", (), order=1)
    assert torch.equal(final("dpm_solver", every, order=3, history="restart"), first)
    assert not torch.equal(final("dpm_solver", every, order=3), first)
    kept, restarted = (final("pndm", [5], history=h) for h in ("keep", "restart"))
    assert not torch.equal(kept, restarted)
    assert torch.equal(kept, final("pndm", ()))


@pytest.mark.parametrize("name", ["ddim", "ddpm", "pndm", "heun", "dpm_solver", "unipc"])
def test_every_sampler_is_called_as_the_protocol_says(name):
    sampler = samplers.create(name, 6, LINEAR)
    assert sampler.schedule is LINEAR
    expected = inspect.signature(Sampler.__call__).parameters
    found = inspect.signature(type(sampler).__call__).parameters
    assert list(found) == list(expected)
    assert found["denoise"].annotation == expected["denoise"].annotation
    optional = {"callback": None, "switches": ()} | ({} if name == "ddpm" else {"noise": None})
    defaults = {key: p.default for key, p in found.items() if p.default is not p.empty}
    assert defaults == optional


def test_a_new_sampler_is_its_class_and_a_line_of_the_registry(monkeypatch):
    @dataclass(frozen=True, eq=False)
    class Toy:
        default_spacing: ClassVar[str] = "even"

        schedule: NoiseSchedule
        timesteps: list[int]
        stretch: int = 1

        @staticmethod
        def place(spacing, steps, schedule, stretch=1):
            assert spacing in ("even", "odd")
            return [2 * i * stretch + (spacing == "odd") for i in range(steps)][::-1]

    monkeypatch.setitem(samplers._SAMPLERS, "toy", Toy)
    assert samplers.create("toy", 3, LINEAR).timesteps == [4, 2, 0]
    toy = samplers.create("toy", 3, "ddpm-linear", spacing="odd", stretch=2)
    assert toy.timesteps == [9, 5, 1] and toy.stretch == 2
    assert samplers.create("toy", 3, LINEAR, spacing=[3, 2, 1]).timesteps == [3, 2, 1]
    with pytest.raises(InputError, match="sampler toy has no option eta; known: stretch, spacing"):
        samplers.create("toy", 3, LINEAR, eta=1)
    with pytest.raises(InputError, match="unknown sampler 'euler'; known: .*toy"):
        samplers.create("euler", 3, LINEAR)


@pytest.mark.parametrize(
    "name, steps, evaluations",
    [("pndm", 10, 11), ("heun", 10, 19), ("dpm_solver", 10, 10), ("unipc", 10, 10)],
)
def test_every_evaluation_is_a_step(name, steps, evaluations):
    sampler = samplers.create(name, steps, LINEAR)
    asked, told = [], []

    def denoise(x, step):
        asked.append(step)
        return x

    sampler(denoise, golden_start(), callback=lambda **step: told.append(step))
    assert asked == list(range(evaluations)) == [entry["step"] for entry in told]
    assert [entry["t"] for entry in told] == sampler.timesteps
    assert all(entry["x"].shape == entry["x_0"].shape == (2, 4, 8, 8) for entry in told)


@pytest.mark.parametrize(
    "name, options",
    [
        ("ddim", {}),
        ("ddim", {"eta": 1.0}),
        ("ddpm", {}),
        ("dpm_solver", {"order": 3}),
        ("dpm_solver", {"order": 3, "method": "singlestep", "algorithm": "dpmsolver"}),
        ("pndm", {}),
        ("heun", {}),
        ("unipc", {"order": 3}),
    ],
)
def test_samplers_stay_in_the_states_precision(name, options):
    for dtype in (torch.float32, torch.float64):
        sampler = samplers.create(name, 6, LINEAR, **options)
        final = sampler(
            lambda x, step: torch.cat([x, torch.zeros_like(x)], 1),
            golden_start().to(dtype),
            noise=lambda step, dtype=dtype: golden_start().to(dtype),
            callback=lambda step, t, x, x_0, dtype=dtype: dtype_is(x, dtype),
        )
        assert final.dtype == dtype


def dtype_is(x, dtype):
    assert x.dtype == dtype


def golden_start():
    return torch.from_numpy(golden.normal("input:samplers", (2, 4, 8, 8)))


def test_training_timesteps_are_uniform_over_their_interval():
    def draw(interval, count=50_000):
        return draw_timesteps(count, 1000, torch.Generator().manual_seed(0), interval)

    plain = torch.randint(0, 1000, (50,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(None, 50), plain) and torch.equal(draw((0, 1000), 50), plain)
    counts = draw((300, 310)).bincount(minlength=1000)
    assert counts[300:310].sum() == 50_000 and (counts[300:310] - 5000).abs().max() < 400


@pytest.mark.parametrize("interval", [(500, 500), (600, 500), (-1, 10), (0, 1001)])
def test_an_interval_without_timesteps_is_refused(interval):
    with pytest.raises(InputError, match=r"train.interval=\[-?\d+, \d+\] must be timesteps"):
        draw_timesteps(1, 1000, torch.Generator(), interval)


def test_the_loss_of_a_denoiser_without_learned_sigma_is_its_squared_error():
    fixture = tensors("train_losses_a")
    output = golden.normal("input:output", fixture["noise"].shape)
    losses = training_losses(
        torch.from_numpy(output), fixture["x_start"], fixture["noise"], fixture["t"], LINEAR
    )
    assert torch.equal(losses["loss"], losses["mse"]) and losses["vb"].abs().sum() == 0


@pytest.mark.parametrize("name", ["ddim", "ddpm", "pndm", "heun", "dpm_solver", "unipc"])
def test_the_timesteps_of_a_sampler_are_what_its_spacing_lists(name):
    plain = samplers.create(name, 7, LINEAR)
    listed = samplers.timesteps_of(plain)
    again = samplers.create(name, 7, LINEAR, spacing=listed)
    assert samplers.timesteps_of(again) == listed
    assert list(again.timesteps) == list(plain.timesteps)
