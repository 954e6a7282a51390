"""UniPC against diffusers' scheduler in float64, and what it promises at ends and switches."""

import diffusers
import pytest
import torch

import samplers
from models.errors import InputError
from samplers import NoiseSchedule
from tests import golden

SCHEDULE = NoiseSchedule.create("stable-diffusion")
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
Y = torch.tensor([3, 7])
X = torch.from_numpy(golden.normal("input:unipc", (2, 4, 8, 8))).double()


@pytest.fixture
def in_float64():
    """Their scheduler makes a constant of the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def create(steps, **options):
    return samplers.create("unipc", steps, SCHEDULE, **options)


def ours(sampler, x=X, switches=(), callback=None):
    def denoise(x, step):
        return golden.analytic_denoiser(x, sampler.timesteps[step], Y)

    return sampler(denoise, x, switches=switches, callback=callback)


def theirs(steps, final, **options):
    scheduler = diffusers.UniPCMultistepScheduler(**BETAS, final_sigmas_type=final, **options)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    alpha, sigma, _ = SCHEDULE.at([*timesteps, 0])
    sigmas = torch.from_numpy(sigma / alpha)
    if final == "zero":
        sigmas[-1] = 0
    torch.testing.assert_close(scheduler.sigmas.double(), sigmas, rtol=1e-4, atol=0)
    if final == "zero" and (options["solver_type"], options["predict_x0"]) != ("bh2", True):
        sigmas[-1] = 1e-13  # at 0, theirs multiplies 0 by infinity
    scheduler.sigmas = sigmas  # theirs are rounded to float32
    x = X
    for t in scheduler.timesteps:
        x = scheduler.step(golden.analytic_denoiser(x, float(t), Y)[:, :4], t, x).prev_sample
    return x, timesteps


def compare(steps, order, variant, corrector, predict_x0, final, lower_order_final=True):
    expected, timesteps = theirs(
        steps,
        final,
        solver_order=order,
        solver_type=variant,
        predict_x0=predict_x0,
        disable_corrector=[] if corrector else list(range(steps)),
        lower_order_final=lower_order_final,
    )
    sampler = create(
        steps,
        spacing=timesteps,
        order=order,
        variant=variant,
        corrector=corrector,
        predict_x0=predict_x0,
        lower_order_final=lower_order_final,
        set_alpha_to_one=final == "zero",
    )
    assert expected.dtype == torch.float64
    torch.testing.assert_close(ours(sampler), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("predict_x0", [True, False])
@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.usefixtures("in_float64")
def test_latents_are_diffusers(steps, order, variant, corrector, predict_x0, final):
    compare(steps, order, variant, corrector, predict_x0, final)


@pytest.mark.parametrize("predict_x0", [True, False])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.usefixtures("in_float64")
def test_latents_are_diffusers_with_full_order_to_the_end(order, predict_x0):
    compare(10, order, "bh2", True, predict_x0, "sigma_min", lower_order_final=False)


@pytest.mark.parametrize("steps", [1, 5, 10, 20, 50])
def test_default_timesteps_are_diffusers_before_they_are_rounded(steps):
    scheduler = diffusers.UniPCMultistepScheduler(**BETAS)
    scheduler.set_timesteps(steps)
    timesteps = create(steps).timesteps
    assert len(timesteps) == steps
    difference = torch.tensor(timesteps).double() - scheduler.timesteps
    assert difference.abs().max() <= 0.5


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("lower_order_final", [True, False])
def test_the_last_step_to_clean_latents_is_the_last_prediction(order, lower_order_final):
    told = []
    options = dict(order=order, lower_order_final=lower_order_final)
    final = ours(create(7, **options), callback=lambda **step: told.append(step))
    assert torch.equal(final, told[-1]["x_0"])


@pytest.mark.parametrize("predict_x0", [True, False])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_the_uncorrected_first_order_is_ddim(predict_x0, set_alpha_to_one):
    options = dict(spacing=[999, 700, 400, 250, 90, 20], set_alpha_to_one=set_alpha_to_one)
    ddim = samplers.create("ddim", 6, SCHEDULE, **options)
    sampler = create(6, order=1, corrector=False, predict_x0=predict_x0, **options)
    torch.testing.assert_close(ours(sampler), ours(ddim), rtol=1e-10, atol=1e-10)


def test_history_restarts_at_a_switch_as_if_sampling_began_there():
    states = []
    sampler = create(12, order=3, history="restart")
    final = ours(sampler, switches=[5], callback=lambda x, **_: states.append(x))
    rest = create(7, order=3, spacing=sampler.timesteps[5:])
    assert torch.equal(ours(rest, x=states[4]), final)
    assert not torch.equal(ours(create(12, order=3)), final)
    assert torch.equal(ours(create(12, order=3), switches=[5]), ours(create(12, order=3)))


def test_with_a_switch_at_every_step_a_restarted_history_is_of_first_order():
    every = range(1, 12)
    first = ours(create(12, order=1, corrector=False))
    assert torch.equal(ours(create(12, order=3, history="restart"), switches=every), first)


def test_walking_again_gives_the_same_latents_to_the_bit():
    sampler = create(8, order=3)
    assert torch.equal(ours(sampler), ours(sampler))
    assert torch.equal(ours(sampler, X.float()), ours(create(8, order=3), X.float()))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(order=4), "sampler.order=4 must be 1, 2 or 3"),
        (dict(variant="bh3"), "sampler.variant='bh3' is unknown; known: .*bh1.*bh2"),
        (dict(history="x"), "sampler.history='x' is unknown; known: .*keep.*restart"),
        (dict(corrector=1), "sampler.corrector=1 must be of type bool"),
        (dict(spacing="leading"), "unknown sampler.spacing='leading'; known: time-uniform"),
        (dict(spacing=[9, 5]), "lists 2 timesteps; sampler unipc with sampler.steps=3 needs 3"),
        (dict(spacing=[9, 5, 0], set_alpha_to_one=False), "set_alpha_to_one=false ends at timest"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(InputError, match=message):
        create(3, **options)
