"""Caches in stitched pipelines: what they compute, and that they begin anew."""

import contextlib
import functools
from collections.abc import Iterator

import pytest
import tomesd
import torch
from diffusers.hooks import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    apply_faster_cache,
    apply_pyramid_attention_broadcast,
    apply_taylorseer_cache,
)

from models.errors import InputError
from stitch import Allocation
from stitch.pipelines import stitch_pipeline
from tests import golden
from tests.stitch.pipelines import tiny

THERE_AND_BACK = Allocation.parse("small*2+large*2+small*2")
HALVES = {"small": 0.5, "large": 0.5}
BROADCAST = PyramidAttentionBroadcastConfig(
    spatial_attention_block_skip_range=100, current_timestep_callback=lambda: 500
)


def denoisers():
    return tiny.unet(8), tiny.unet(16)


@contextlib.contextmanager
def computed(modules: dict) -> Iterator[list[str]]:
    """The names of modules, as often as they compute."""
    calls = []
    hooks = [
        module.register_forward_hook(functools.partial(lambda name, *_: calls.append(name), name))
        for name, module in modules.items()
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def hold(unet, full: list[bool]) -> None:
    """Compute everything, but let the last layer go on from held features where not ``full``."""
    block, held = unet.up_blocks[-1], []
    source = getattr(block, "attentions", block.resnets)[-2]
    steps = iter(full)

    def replace(module, inputs, output):
        if next(steps):
            held[:] = [output]
        return held[0]

    source.register_forward_hook(replace)


# ---- the deep cache ----


@pytest.mark.parametrize("interval", [2, 3, 5])
@pytest.mark.parametrize("scheduler", ["pndm", "heun", "ddim"])
def test_the_deep_cache_is_deepcache(scheduler, interval):
    unet = tiny.unet(16).double()
    golden.fill(unet, keep=())
    text, noise = (
        torch.from_numpy(golden.normal(f"deepcache/{name}", shape)).double()
        for name, shape in (("text", (2, 7, tiny.DIM)), ("noise", (1, 4, 8, 8)))
    )
    pipe = tiny.sd(unet, scheduler).to(torch.float64)
    with stitch_pipeline(pipe, {"small": tiny.unet(8)}, {"large": 1}, deep=interval):
        made = tiny.latents(
            pipe,
            steps=10,
            prompt=None,
            prompt_embeds=text[1:],
            negative_prompt_embeds=text[:1],
            latents=noise,
        )
    expected = torch.from_numpy(golden.arrays("deepcache_branch0")[f"{scheduler}_{interval}"])
    limit = golden.LIMITS[torch.float64]
    torch.testing.assert_close(made, expected, rtol=limit, atol=limit)


def test_the_deep_cache_needs_no_middle_block():
    unet = tiny.unet(16, mid_block_type=None)
    pipe = tiny.sd(unet, "ddim")
    with stitch_pipeline(pipe, {"small": tiny.unet(8)}, {"large": 1}, deep={"large": 3}):
        made = tiny.latents(pipe)
    hold(unet, [True, False, False, True, False, False])
    assert torch.equal(made, tiny.latents(pipe))


def test_the_deep_cache_works_with_controlnets_and_blocks_without_attention():
    unet = tiny.unet_xl(16)
    net = tiny.controlnet(unet)
    pipe = tiny.sdxl(unet, "StableDiffusionXLControlNetPipeline", controlnet=net)
    settings = dict(image=tiny.PICTURE, height=8, width=8)
    with stitch_pipeline(pipe, {"small": tiny.unet_xl(8)}, {"large": 1}, deep=2):
        made = tiny.latents(pipe, **settings)
    hold(unet, [True, False] * 3)
    assert torch.equal(made, tiny.latents(pipe, **settings))


def test_the_deep_cache_begins_anew_at_switches_and_trajectories():
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    deep = {"small": small.mid_block, "large": large.mid_block}
    with (
        stitch_pipeline(pipe, {"small": small}, THERE_AND_BACK, deep={"small": 2, "large": 5}),
        computed(deep) as calls,
    ):
        first = tiny.latents(pipe)
        assert calls == ["small", "large", "small"]
        assert torch.equal(tiny.latents(pipe), first)
        assert calls == ["small", "large", "small"] * 2
    hold(small, [True, False] * 2)
    hold(large, [True, False])
    with stitch_pipeline(pipe, {"small": small}, THERE_AND_BACK):
        assert torch.equal(tiny.latents(pipe), first)


def test_a_change_of_the_scale_of_an_adapter_reaches_held_steps_too():
    """Weights are shared: what is loaded later into the large denoiser counts at all its steps."""
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    with stitch_pipeline(pipe, {"small": small}, {"large": 1}, deep=6):
        before = tiny.latents(pipe)
        with torch.no_grad():
            large.conv_in.weight.mul_(1.5)
            large.up_blocks[-1].resnets[-1].conv1.weight.mul_(1.5)
        after = tiny.latents(pipe)
    assert not torch.equal(before, after)
    hold(large, [True] + [False] * 5)
    assert torch.equal(tiny.latents(pipe), after)


def test_the_deep_cache_refuses_several_calls_at_one_step():
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    pipe.scheduler.set_timesteps(4)
    call = functools.partial(
        pipe.unet,
        torch.zeros(1, 4, 8, 8),
        pipe.scheduler.timesteps[0],
        encoder_hidden_states=torch.zeros(1, 7, tiny.DIM),
    )
    with stitch_pipeline(pipe, {"small": small}, HALVES, deep={"small": 2}):
        call()
        with pytest.raises(InputError, match="^deep=2: this pipeline calls small more than once"):
            call()


# ---- token merging ----


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_tokens_are_merged_by_tomesd(kind):
    unet, pipeline = (tiny.unet, tiny.sd) if kind == "sd" else (tiny.unet_xl, tiny.sdxl)
    small, large = unet(8), unet(16)
    pipe = pipeline(large)
    untouched = tiny.latents(pipe)
    with stitch_pipeline(pipe, {"small": small}, {"large": 1}, tome=0.5):
        merged = tiny.latents(pipe)
        assert torch.equal(tiny.latents(pipe), merged)
    assert not torch.equal(merged, untouched)
    assert torch.equal(tiny.latents(pipe), untouched)
    tomesd.apply_patch(large, ratio=0.5, max_downsample=1 if kind == "sd" else 2)
    large._tome_info["args"]["generator"] = torch.Generator().manual_seed(0)
    assert torch.equal(tiny.latents(pipe), merged)


def test_equal_seeds_are_equal_images_also_where_others_have_patched():
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    tomesd.apply_patch(large, ratio=0.5)
    assert not torch.equal(tiny.latents(pipe), tiny.latents(pipe))
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        assert torch.equal(tiny.latents(pipe), tiny.latents(pipe))


def test_tokens_of_one_denoiser_alone_can_be_merged():
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    untouched = tiny.latents(pipe)
    with stitch_pipeline(pipe, {"small": small}, {"large": 1}, tome={"small": 0.5}):
        assert torch.equal(tiny.latents(pipe), untouched)
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        stitched = tiny.latents(pipe)
    with stitch_pipeline(pipe, {"small": small}, HALVES, tome={"small": 0.5}):
        assert not torch.equal(tiny.latents(pipe), stitched)


# ---- caches of diffusers ----


def test_caches_of_diffusers_begin_anew_at_switches_and_trajectories():
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    queries = {}
    for name, denoiser in (("small", small), ("large", large)):
        apply_pyramid_attention_broadcast(denoiser, BROADCAST)
        queries[name] = denoiser.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    with (
        stitch_pipeline(pipe, {"small": small}, THERE_AND_BACK),
        computed(queries) as calls,
    ):
        first = tiny.latents(pipe)
        assert calls == ["small", "large", "small"]
        assert torch.equal(tiny.latents(pipe), first)
        assert calls == ["small", "large", "small"] * 2


@pytest.mark.parametrize(
    "config",
    [
        BROADCAST,
        FirstBlockCacheConfig(threshold=1.0),
        TaylorSeerCacheConfig(
            cache_interval=4, disable_cache_before_step=1, cache_identifiers=[r".*attn\d$"]
        ),
    ],
    ids=lambda config: type(config).__name__,
)
def test_caches_that_ask_for_the_kind_of_call_work_in_all_members(config):
    small, large = tiny.wan(2, seed=1), tiny.wan(3, seed=2)
    pipe = tiny.wan_pipe(large)
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        untouched = tiny.video(pipe)
    made = {}
    for members in ([small], [small, large]):
        members[-1].enable_cache(config)
        with stitch_pipeline(pipe, {"small": small}, HALVES):
            made[len(members)] = tiny.video(pipe)
            assert torch.equal(tiny.video(pipe), made[len(members)])
    assert not torch.equal(made[1], untouched)
    assert not torch.equal(made[2], made[1])


def test_u_nets_whose_pipelines_name_no_kind_of_call_can_have_taylorseer():
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    apply_taylorseer_cache(
        large,
        TaylorSeerCacheConfig(
            cache_interval=3, disable_cache_before_step=1, cache_identifiers=[r".*attn\d$"]
        ),
    )
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        assert torch.equal(tiny.latents(pipe), tiny.latents(pipe))


FASTER = FasterCacheConfig(
    spatial_attention_block_skip_range=2,
    current_timestep_callback=lambda: 500,
    tensor_format="BCHW",
)


@pytest.mark.parametrize(
    "config, message",
    [
        (FASTER, "FasterCache on large changes batches"),
        (
            MagCacheConfig(threshold=0.5, num_inference_steps=6, mag_ratios=[1.0] * 6),
            "MagCache on large is calibrated on whole trajectories",
        ),
        (
            TaylorSeerCacheConfig(cache_interval=2),
            "TaylorSeerCacheConfig on large has found no block and does nothing",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_caches_that_fail_or_do_nothing_are_refused_by_name(config, message):
    large = tiny.wan(2)
    pipe = tiny.wan_pipe(large)
    large.enable_cache(config)
    with (
        stitch_pipeline(pipe, {"small": tiny.wan(1)}, HALVES),
        pytest.raises(InputError, match=f"^{message}"),
    ):
        tiny.video(pipe)


def test_fastercache_on_a_u_net_is_refused_by_name():
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    apply_faster_cache(small, FASTER)
    with (
        stitch_pipeline(pipe, {"small": small}, HALVES),
        pytest.raises(InputError, match="^FasterCache on small changes batches"),
    ):
        tiny.latents(pipe)


def test_a_cache_that_would_stand_before_the_stitch_is_refused():
    large = tiny.wan(2)
    pipe = tiny.wan_pipe(large)
    with stitch_pipeline(pipe, {"small": tiny.wan(1)}, HALVES):
        large.enable_cache(SeaCacheConfig())
        with pytest.raises(InputError, match="^SeaCacheRootHook was put on large after the stitch"):
            tiny.video(pipe)
