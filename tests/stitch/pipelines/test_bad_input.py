"""What cannot be stitched is said in one line that names it, its value and the fix."""

import re

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from models.errors import InputError
from stitch import Allocation
from stitch.pipelines import stitch_pipeline
from tests.stitch.pipelines import tiny

HALVES = {"small": 0.5, "large": 0.5}


def refused(pattern: str):
    """One line that begins with the pattern."""
    return pytest.raises(InputError, match=rf"^{pattern}.*\Z")


def sd() -> StableDiffusionPipeline:
    return tiny.sd(tiny.unet(16), "ddim")


OTHER_CONFIGS = {
    "in_channels": ({"in_channels": 9}, "9", "4"),
    "out_channels": ({"out_channels": 8}, "8", "4"),
    "cross_attention_dim": ({"cross_attention_dim": 32}, "32", "16"),
    "class_embed_type": ({"class_embed_type": "timestep"}, "timestep", "None"),
    "num_class_embeds": ({"num_class_embeds": 10}, "10", "None"),
    "encoder_hid_dim": (
        {"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj"},
        "8",
        "None",
    ),
}


@pytest.mark.parametrize("entry", OTHER_CONFIGS)
def test_the_entry_in_which_u_nets_disagree_is_named_with_both_values(entry):
    settings, theirs, ours = OTHER_CONFIGS[entry]
    pattern = f"others: small has {entry}={theirs} and large {entry}={ours}; they must agree"
    with refused(re.escape(pattern)):
        stitch_pipeline(sd(), {"small": tiny.unet(8, **settings)}, HALVES)


@pytest.mark.parametrize(
    "pipe, settings, entry",
    [
        (tiny.sdxl(tiny.unet_xl(16)), {"addition_embed_type": None}, "addition_embed_type=None"),
        (tiny.dit_pipe(tiny.dit(1)), {"num_embeds_ada_norm": 10}, "num_embeds_ada_norm=10"),
        (tiny.wan_pipe(tiny.wan(1)), {"text_dim": 8}, "text_dim=8"),
    ],
    ids=["sdxl", "dit", "wan"],
)
def test_so_it_is_in_other_pipelines(pipe, settings, entry):
    large = getattr(pipe, "unet", None) or pipe.transformer
    small = type(large).from_config({**large.config, **settings})
    with refused(f"others: small has {entry} and large {entry.split('=')[0]}="):
        stitch_pipeline(pipe, {"small": small}, HALVES)


def test_equal_values_may_be_written_in_two_ways():
    small = tiny.unet(8, cross_attention_dim=(tiny.DIM, tiny.DIM))
    stitch_pipeline(sd(), {"small": small}, HALVES)


def test_a_guidance_embedding_that_the_pipeline_does_not_compute_is_refused():
    small, large = tiny.unet(8, time_cond_proj_dim=8), tiny.unet(16, time_cond_proj_dim=4)
    for pipe, ours in ((tiny.sd(tiny.unet(16), "lcm"), None), (tiny.lcm(large), 4)):
        with refused(f"others: small has time_cond_proj_dim=8 and large time_cond_proj_dim={ours}"):
            stitch_pipeline(pipe, {"small": small}, HALVES)
    stitch_pipeline(tiny.lcm(large), {"small": small}, HALVES, guidance_embedding=False)


def test_an_option_that_would_do_nothing_is_refused():
    with refused("guidance_embedding=False: no denoiser has a time_cond_proj_dim"):
        stitch_pipeline(sd(), {"small": tiny.unet(8)}, HALVES, guidance_embedding=False)


def test_a_denoiser_of_another_kind_is_refused():
    with refused(r"others: small \(DiTTransformer2DModel\) takes no sample, encoder_hidden_states"):
        stitch_pipeline(sd(), {"small": tiny.dit(1)}, HALVES)


def test_other_objects_are_no_denoisers():
    pipe = sd()
    with refused("others: small is a StableDiffusionPipeline; give the denoiser itself"):
        stitch_pipeline(pipe, {"small": sd()}, HALVES)
    with refused("others: small is a str; give"):
        stitch_pipeline(pipe, {"small": "nota-ai/bk-sdm-tiny"}, HALVES)
    with refused("others: small is the pipeline's own denoiser"):
        stitch_pipeline(pipe, {"small": pipe.unet}, HALVES)


@pytest.mark.parametrize("others", [{}, {"large": tiny.unet(8)}])
def test_others_are_named_and_not_large(others):
    with refused(re.escape(f"others={list(others)} must name at least one denoiser")):
        stitch_pipeline(sd(), others, HALVES)


@pytest.mark.parametrize(
    "shares, pattern",
    [
        ({"small": 0.4, "large": 0.5}, r"shares=\[0.4, 0.5\] sum to 0.9; they must sum to 1"),
        ({"small": -0.5, "large": 1.5}, "shares: the fraction of small is -0.5; it must be 0"),
        ({"small": "half", "large": 0.5}, "shares: the fraction of small='half' must be a number"),
        ({"tiny": 0.5, "large": 0.5}, "shares: there is no denoiser tiny; known: small, large"),
        (Allocation.parse("tiny*3+large*3"), "shares: there is no denoiser tiny; known: small"),
        (0.4, "shares=0.4 must be a mapping such as {'small': 0.4, 'large': 0.6}, an Alloc"),
    ],
)
def test_shares_that_do_not_fit_are_refused_before_anything_is_changed(shares, pattern):
    pipe = sd()
    before = set(vars(pipe.unet))
    with refused(pattern):
        stitch_pipeline(pipe, {"small": tiny.unet(8)}, shares)
    assert set(vars(pipe.unet)) == before


@pytest.mark.parametrize(
    "shares, pattern",
    [
        (
            Allocation.parse("small*3+large*4"),
            r"shares=small\*3\+large\*4 is for 7 steps, and the scheduler has 6 timesteps",
        ),
        (lambda timesteps: {"small": 1}, "shares gave {'small': 1}; the function must give an"),
        (
            lambda timesteps: Allocation.parse("tiny*6"),
            "shares: there is no denoiser tiny; known: small, large",
        ),
    ],
)
def test_shares_that_do_not_fit_a_call_are_refused_at_its_first_step(shares, pattern):
    pipe = sd()
    with stitch_pipeline(pipe, {"small": tiny.unet(8)}, shares), refused(pattern):
        tiny.latents(pipe)
    tiny.latents(pipe)


def test_an_unknown_rule_is_named():
    with refused("rule='ceil' is unknown; known: round, floor"):
        stitch_pipeline(sd(), {"small": tiny.unet(8)}, HALVES, rule="ceil")


def test_a_pipeline_without_that_slot_or_a_scheduler_is_refused():
    small, pipe = tiny.unet(8), sd()
    message = (
        "has no such denoiser, or no scheduler; give a diffusers pipeline with a scheduler, and"
    )
    with refused(
        f"slot=transformer: StableDiffusionPipeline {message} .*: vae, text_encoder, unet"
    ):
        stitch_pipeline(pipe, {"small": small}, HALVES, slot="transformer")
    with refused(f"slot=None: UNet2DConditionModel {message} one of its modules as slot: none"):
        stitch_pipeline(pipe.unet, {"small": small}, HALVES)
    pipe.register_modules(scheduler=None)
    with refused(f"slot=unet: StableDiffusionPipeline {message}"):
        stitch_pipeline(pipe, {"small": small}, HALVES)


def test_a_module_that_is_no_denoiser_is_refused():
    with refused("slot=vae: AutoencoderKL of StableDiffusionPipeline takes no timestep"):
        stitch_pipeline(sd(), {"small": tiny.unet(8)}, HALVES, slot="vae")


def test_a_pipeline_is_stitched_once():
    pipe = sd()
    first = stitch_pipeline(pipe, {"small": tiny.unet(8)}, HALVES)
    with refused(r"slot=unet: StableDiffusionPipeline is stitched already; call remove\(\)"):
        stitch_pipeline(pipe, {"small": tiny.unet(8)}, HALVES)
    first.remove()
    stitch_pipeline(pipe, {"small": tiny.unet(8)}, HALVES)


def test_residuals_that_diffusers_would_truncate_are_refused():
    large = tiny.unet_xl(16)
    net = tiny.controlnet(large)
    pipe = tiny.sdxl(large, "StableDiffusionXLControlNetPipeline", controlnet=net)
    shallow = tiny.unet_xl(16, layers_per_block=2)
    narrow = tiny.unet_xl(8)
    for small, counts in (
        (shallow, r"4 residuals of channels \[16, 16, 16, 32\] and small has 6 skips of"),
        (narrow, r"4 residuals of channels \[16, 16, 16, 32\] and small has 4 skips of"),
    ):
        with (
            stitch_pipeline(pipe, {"small": small}, {"small": 0.1, "large": 0.9}),
            refused(f"the ControlNet gives {counts}"),
        ):
            tiny.latents(pipe, steps=10, image=tiny.PICTURE, height=8, width=8)


def test_features_of_an_adapter_for_another_layout_are_refused():
    small, large = tiny.unet(8), tiny.unet(16)
    pipe = tiny.sd(large, "ddim")
    pipe.scheduler.set_timesteps(4)
    features = [torch.zeros(1, 16, 4, 4), torch.zeros(1, 32, 4, 4)]
    with (
        stitch_pipeline(pipe, {"small": small}, HALVES),
        refused(
            r"the adapter is for block_out_channels=\(16, 32\) of large and small has block_out"
        ),
    ):
        large(
            torch.zeros(1, 4, 8, 8),
            pipe.scheduler.timesteps[0],
            torch.zeros(1, 7, tiny.DIM),
            down_intrablock_additional_residuals=features,
        )


def test_a_timestep_that_is_none_of_the_schedulers_is_refused():
    pipe = sd()
    pipe.scheduler.set_timesteps(4)
    with (
        stitch_pipeline(pipe, {"small": tiny.unet(8)}, HALVES),
        refused("timestep=37 is none of the scheduler's 4, 751 to 1"),
    ):
        pipe.unet(torch.zeros(1, 4, 8, 8), 37, torch.zeros(1, 7, tiny.DIM))


def test_steps_that_a_pipeline_asks_of_its_other_expert_are_refused():
    pipe = tiny.wan_pipe(tiny.wan(1), transformer_2=tiny.wan(1, seed=1), boundary_ratio=0.875)
    message = "shares gives small timestep .* boundary_ratio=0.875 asks transformer_2; stitch slot="
    with stitch_pipeline(pipe, {"small": tiny.wan(1, seed=2)}, HALVES), refused(message):
        tiny.video(pipe, steps=10)


@pytest.mark.parametrize(
    "options, pattern",
    [
        ({"deep": 0}, "deep: the interval of small=0 must be a whole number, 1 or more"),
        ({"deep": {"tiny": 2}}, "deep: there is no denoiser tiny; known: small, large"),
        ({"tome": 0.9}, "tome: the ratio of small=0.9 must be above 0 and at most 0.75"),
        ({"tome": {"large": 0}}, "tome: the ratio of large=0 must be above 0"),
        ({"tome": {"tiny": 0.5}}, "tome: there is no denoiser tiny; known: small, large"),
    ],
)
def test_settings_of_caches_are_checked(options, pattern):
    with refused(pattern):
        stitch_pipeline(sd(), {"small": tiny.unet(8)}, HALVES, **options)


def test_caches_of_u_nets_are_refused_for_others():
    pipe = tiny.dit_pipe(tiny.dit(2))
    for option, value, what in (("deep", 2, "has no deep branch"), ("tome", 0.5, "has no tokens")):
        with refused(f"{option}.*: DiTTransformer2DModel {what}"):
            stitch_pipeline(pipe, {"small": tiny.dit(1)}, HALVES, **{option: {"large": value}})
    plain = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    unet = tiny.unet(16, mid_block_type=None, **plain)
    with refused("tome: the ratio of large=0.5: UNet2DConditionModel has no tokens"):
        stitch_pipeline(tiny.sd(unet), {"small": tiny.unet(8)}, HALVES, tome={"large": 0.5})


def test_tokens_that_are_merged_already_are_not_merged_again():
    import tomesd

    pipe = sd()
    tomesd.apply_patch(pipe.unet, ratio=0.5)
    with refused("tome: the ratio of large=0.5: tomesd has patched this denoiser already"):
        stitch_pipeline(pipe, {"small": tiny.unet(8)}, HALVES, tome=0.5)


def test_a_block_that_something_else_has_wrapped_cannot_be_held():
    pipe = sd()
    block = pipe.unet.up_blocks[-1]
    block.forward = nn.Module.forward.__get__(block)
    with refused("deep=2: large: something else, such as group offloading by blocks, has wrapped"):
        stitch_pipeline(pipe, {"small": tiny.unet(8)}, HALVES, deep={"large": 2})
