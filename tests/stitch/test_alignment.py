"""Stitching denoisers of other noise schedules and prediction types, proven on Gaussian data.

The exact denoiser of N(0, s^2) is known on every schedule, and so is where a trajectory must end.
"""

import numpy as np
import pytest
import torch

import samplers
from models.errors import InputError
from samplers import Guidance, NoiseSchedule
from samplers.prediction import PREDICTION_TYPES, convert, from_x_0, to_x_0
from stitch import Allocation, Trajectory
from stitch.alignment import views
from tests import gaussian

LINEAR, SD = "ddpm-linear", "stable-diffusion"
HALVES = Allocation.from_fractions({"first": 0.5, "second": 0.5}, 50)


def error(frame, first, second, aligned=True):
    """Relative distance of a stitched trajectory's end from the exact one."""
    sampler = samplers.create("dpm_solver", 50, frame, spacing="log-snr")
    x = gaussian.start()
    trajectory = Trajectory(
        {"first": first, "second": second},
        HALVES,
        sampler.timesteps,
        torch.zeros(len(x), dtype=torch.int64),
        Guidance(1.0),
        sampler.schedule,
        aligned,
    )
    final = sampler(trajectory, x)
    exact = gaussian.spread(sampler.schedule, 0) / gaussian.spread(sampler.schedule, 999) * x
    return ((final - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize("frame", [LINEAR, SD])
@pytest.mark.parametrize("order", [(LINEAR, SD), (SD, LINEAR)])
def test_a_stitch_across_schedules_ends_where_one_schedule_does_if_aligned(frame, order):
    first, second = (gaussian.Denoiser(schedule) for schedule in order)
    single = error(frame, gaussian.Denoiser(frame), gaussian.Denoiser(frame))
    assert single < 3e-3
    # On the linear schedule, Stable Diffusion's denoiser is asked beyond its own ends as well.
    assert error(frame, first, second) < 1.5 * single
    assert error(frame, first, second, aligned=False) > 10 * single


@pytest.mark.parametrize("name", [LINEAR, SD, "rectified-flow"])
def test_a_schedule_of_fewer_timesteps_is_another_one(name):
    """A denoiser is called at the timestep of its own that has the state's log-SNR."""
    offset = 0.5 if name == "rectified-flow" else 0.0
    spec = gaussian.Denoiser(name, timestep_offset=offset).spec
    own, short = NoiseSchedule.create(name), NoiseSchedule.create(name, 100)
    for view, t in zip(views(spec, short, [99, 50, 10]), [99, 50, 10], strict=True):
        reachable = own.log_snr([999])[0], own.log_snr([0])[0]
        expected = np.clip(short.log_snr([t])[0], *reachable)
        assert own.log_snr([view.t - offset])[0] == pytest.approx(expected, abs=1e-6)
    for view, t in zip(views(spec, own, [999, 500, 100]), [999, 500, 100], strict=True):
        assert view.t == t + offset


def test_on_stable_diffusions_schedule_alignment_is_exact():
    single = error(SD, gaussian.Denoiser(SD), gaussian.Denoiser(SD))
    stitched = error(SD, gaussian.Denoiser(LINEAR), gaussian.Denoiser(SD))
    assert stitched == pytest.approx(single, abs=1e-6)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_what_a_denoiser_predicts_makes_no_difference(kind):
    single = error(LINEAR, gaussian.Denoiser(LINEAR), gaussian.Denoiser(LINEAR))
    for schedule in (LINEAR, SD):
        of_kind = error(LINEAR, gaussian.Denoiser(LINEAR), gaussian.Denoiser(schedule, kind))
        epsilon = error(LINEAR, gaussian.Denoiser(LINEAR), gaussian.Denoiser(schedule))
        assert of_kind == pytest.approx(epsilon, abs=1e-6)
        assert schedule == SD or of_kind == pytest.approx(single, abs=1e-6)


def test_a_rectified_flow_is_shown_the_rescaled_state():
    flow = gaussian.Denoiser("rectified-flow", "velocity", timestep_offset=0.5)
    single = error(LINEAR, gaussian.Denoiser(LINEAR), gaussian.Denoiser(LINEAR))
    assert error(LINEAR, gaussian.Denoiser(LINEAR), flow) == pytest.approx(single, abs=1e-3)
    assert error(LINEAR, flow, gaussian.Denoiser(LINEAR)) == pytest.approx(single, abs=1e-3)
    schedule = NoiseSchedule.create("rectified-flow")
    for view in views(flow.spec, NoiseSchedule.create(LINEAR), [900.0, 500.0, 100.0]):
        sigma = view.t / 1000
        # Between whole timesteps log(alpha) is interpolated.
        np.testing.assert_allclose(view.own, (1 - sigma, sigma), rtol=1e-3)
        assert view.scale == pytest.approx(np.hypot(1 - sigma, sigma), rel=1e-3)
    assert schedule.at([499.5])[2][0] == pytest.approx(0, abs=1e-5)  # half signal, half noise


def test_the_same_log_snr_is_another_timestep():
    sampler = samplers.create("ddim", 50, LINEAR)
    u_vit = gaussian.Denoiser(SD, timestep_offset=1.0)
    found = views(u_vit.spec, sampler.schedule, sampler.timesteps)
    theirs, ours = NoiseSchedule.create(SD), sampler.schedule.log_snr(sampler.timesteps)
    reachable = [2 * theirs.half_log_snr[-1].item(), 2 * theirs.half_log_snr[0].item()]
    for view, log_snr in zip(found, ours, strict=True):
        aligned = theirs.log_snr([view.t - 1])[0]
        assert aligned == pytest.approx(np.clip(log_snr, *reachable), abs=1e-6)
        assert view.scale == 1
    assert found[0].t == 1000 and found[-1].t == 1  # the ends of its own schedule


def test_denoisers_without_fractional_timesteps_get_the_nearest():
    whole = gaussian.Denoiser(SD, fractional_timesteps=False)
    found = views(whole.spec, NoiseSchedule.create(LINEAR), [700.0, 300.0])
    fractional = views(gaussian.Denoiser(SD).spec, NoiseSchedule.create(LINEAR), [700.0, 300.0])
    for view, exact in zip(found, fractional, strict=True):
        assert view.t == round(exact.t) != exact.t
    single = error(LINEAR, gaussian.Denoiser(LINEAR), gaussian.Denoiser(LINEAR))
    assert error(LINEAR, gaussian.Denoiser(LINEAR), whole) < single + 1e-2


def test_the_samplers_own_denoisers_are_left_alone():
    sampler = samplers.create("dpm_solver", 20, LINEAR)
    denoiser, x = gaussian.Denoiser(LINEAR), gaussian.start()
    for view, t in zip(
        views(denoiser.spec, sampler.schedule, sampler.timesteps), sampler.timesteps, strict=True
    ):
        assert view.t == t
        assert view.state(x) is x and view.epsilon(x, x) is x


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("alpha, sigma", [(0.8, 0.6), (0.3, 0.7), (0.05, 1.0)])
def test_predictions_convert_into_one_another(kind, alpha, sigma):
    x_0, epsilon = gaussian.start(), gaussian.start().flip(0)
    x = alpha * x_0 + sigma * epsilon
    expected = {
        "epsilon": epsilon,
        "x0": x_0,
        "v": alpha * epsilon - sigma * x_0,
        "velocity": epsilon - x_0,
    }
    torch.testing.assert_close(to_x_0(expected[kind], x, alpha, sigma, kind), x_0)
    torch.testing.assert_close(from_x_0(x_0, x, alpha, sigma, kind), expected[kind])
    for other in PREDICTION_TYPES:
        torch.testing.assert_close(
            convert(expected[kind], x, alpha, sigma, kind, other), expected[other]
        )


def test_an_unknown_prediction_type_is_refused():
    x = torch.zeros(1)
    for function in (to_x_0, from_x_0):
        with pytest.raises(InputError, match="unknown prediction type 'score'.*velocity"):
            function(x, x, 0.6, 0.8, "score")
    denoisers = {"first": gaussian.Denoiser(LINEAR), "second": gaussian.Denoiser(LINEAR, "score")}
    with pytest.raises(InputError, match="second predicts 'score'"):
        Trajectory(denoisers, HALVES, range(50), x, Guidance(), NoiseSchedule.create(LINEAR))
