"""Denoisers that predict something else than the scheduler expects."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from models.errors import InputError
from stitch.pipelines import stitch_pipeline
from tests.stitch.pipelines import tiny

HALVES = {"small": 0.5, "large": 0.5}


class InAnotherType(UNet2DConditionModel):
    """A U-Net of noise that says what its answer amounts to in another type."""

    def forward(self, sample, timestep, *args, **kwargs):
        epsilon = super().forward(sample, timestep, *args, **kwargs)[0]
        alpha_bar = tiny.SCHEDULERS["ddim"]().alphas_cumprod[timestep.long()].double()
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        x_0 = (sample - sigma * epsilon) / alpha
        return (x_0 if self.kind == "sample" else alpha * epsilon - sigma * x_0,)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "unipc"])
def test_predictions_are_converted_to_what_the_scheduler_expects(scheduler, kind):
    small, large = tiny.unet(8), tiny.unet(16)
    pipe = tiny.sd(large, scheduler).to(torch.float64)
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        expected = tiny.latents(pipe)
    small.__class__, small.kind = InAnotherType, kind
    with stitch_pipeline(pipe, {"small": small}, HALVES, predicts={"small": kind}):
        torch.testing.assert_close(tiny.latents(pipe), expected, rtol=1e-5, atol=1e-5)
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        assert (tiny.latents(pipe) - expected).abs().max() > 0.1


def test_the_schedulers_own_type_is_left_alone():
    pipe = tiny.sd(tiny.unet(16), "ddim")
    with stitch_pipeline(pipe, {"small": tiny.unet(8)}, HALVES):
        expected = tiny.latents(pipe)
    own = {"small": "epsilon", "large": "epsilon"}
    with stitch_pipeline(pipe, {"small": tiny.unet(8)}, HALVES, predicts=own):
        assert torch.equal(tiny.latents(pipe), expected)


def test_an_unknown_type_and_an_unknown_denoiser_are_refused():
    pipe = tiny.sd(tiny.unet(16), "ddim")
    for predicts, message in (
        ({"small": "noise"}, "predicts: small='noise' cannot be converted; known: epsilon, sample"),
        ({"tiny": "epsilon"}, "predicts: there is no denoiser tiny; known: small, large"),
    ):
        with pytest.raises(InputError, match=f"^{message}"):
            stitch_pipeline(pipe, {"small": tiny.unet(8)}, HALVES, predicts=predicts)


def test_where_there_is_only_noise_epsilon_says_nothing():
    pipe = tiny.sd(tiny.unet(16), "ddim")
    pipe.scheduler = type(pipe.scheduler).from_config(
        pipe.scheduler.config,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )
    with (
        stitch_pipeline(pipe, {"small": tiny.unet(8)}, HALVES, predicts={"small": "epsilon"}),
        pytest.raises(
            InputError, match="^predicts=epsilon: at timestep 999 of DDIMScheduler there"
        ),
    ):
        tiny.latents(pipe)


def test_schedulers_without_such_noise_levels_are_refused():
    pipe = tiny.wan_pipe(tiny.wan(2))
    predicts = {"small": "v_prediction"}
    with (
        stitch_pipeline(pipe, {"small": tiny.wan(1)}, HALVES, predicts=predicts),
        pytest.raises(
            InputError, match="it cannot be converted to flow_prediction; stitch denoise"
        ),
    ):
        tiny.video(pipe)
