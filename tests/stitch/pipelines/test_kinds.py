"""Kinds of pipelines: each can be stitched, and is left as it was."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stitch import Allocation
from stitch.pipelines import stitch_pipeline
from tests.stitch.pipelines import tiny


@dataclass
class Kind:
    """A kind of pipeline.

    Attributes:
        make: a pipeline of a denoiser.
        run: what it makes in six steps; more arguments are the pipeline's.
        members: denoisers that fit, the pipeline's own last.
        entries: of the scheduler's timesteps.
    """

    make: Callable[[Any], Any]
    run: Callable[..., Tensor]
    members: Callable[[], list]
    entries: int = 6


def sds() -> list:
    return [tiny.unet(8), tiny.unet(16)]


def xls(**settings) -> list:
    return [tiny.unet_xl(8, **settings), tiny.unet_xl(12, seed=1), tiny.unet_xl(16, **settings)]


def sd(scheduler: str) -> Callable[[Any], Any]:
    return lambda denoiser: tiny.sd(denoiser, scheduler)


def edits(kind: str, **arguments) -> Kind:
    """Image to image from half of the noise on."""
    return Kind(
        lambda denoiser: tiny.sd(denoiser, "pndm", kind),
        lambda pipe, **more: tiny.latents(
            pipe, image=tiny.PICTURE, strength=0.5, **arguments, **more
        ),
        sds,
        entries=7,
    )


def controlled() -> Kind:
    net = tiny.controlnet(tiny.unet_xl(16))
    return Kind(
        lambda denoiser: tiny.sdxl(denoiser, "StableDiffusionXLControlNetPipeline", controlnet=net),
        lambda pipe, **more: tiny.latents(pipe, image=tiny.PICTURE, height=8, width=8, **more),
        lambda: [tiny.unet_xl(16, seed=3), tiny.unet_xl(16)],
    )


KINDS = {
    "pndm": Kind(sd("pndm"), tiny.latents, sds, entries=7),
    "ddim": Kind(sd("ddim"), tiny.latents, sds),
    "heun": Kind(sd("heun"), tiny.latents, sds, entries=11),
    "dpm++": Kind(sd("dpm++"), tiny.latents, sds),
    "unipc": Kind(sd("unipc"), tiny.latents, sds),
    "img2img": edits("StableDiffusionImg2ImgPipeline"),
    "inpaint": edits("StableDiffusionInpaintPipeline", mask_image=tiny.MASK),
    "sdxl": Kind(tiny.sdxl, tiny.latents, xls),
    "sdxl-controlnet": controlled(),
    "lcm": Kind(sd("lcm"), tiny.latents, sds),
    "lcm-embedding": Kind(
        tiny.lcm,
        tiny.latents,
        lambda: [tiny.unet(8), tiny.unet(16, time_cond_proj_dim=8)],
    ),
    "dit": Kind(tiny.dit_pipe, tiny.photograph, lambda: [tiny.dit(1), tiny.dit(2)]),
    "wan": Kind(tiny.wan_pipe, tiny.video, lambda: [tiny.wan(1), tiny.wan(2)]),
}


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


def named(members: list) -> dict[str, Any]:
    """Denoisers by name, as they are called in stitches."""
    return dict(zip(("small", "middle"), members[:-1], strict=False)) | {"large": members[-1]}


def others(named: dict[str, Any]) -> dict[str, Any]:
    return {name: denoiser for name, denoiser in named.items() if name != "large"}


@contextlib.contextmanager
def recorded(denoisers: dict[str, Any]) -> Iterator[list[str]]:
    """The denoisers that compute anything, in order, by name."""
    calls, handles = [], []
    for name, denoiser in denoisers.items():
        first = next(m for m in denoiser.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
        hook = functools.partial(lambda name, *_: calls.append(name), name)
        handles.append(first.register_forward_hook(hook))
    yield calls
    for handle in handles:
        handle.remove()


def test_one_denoiser_alone_makes_what_it_makes_in_its_own_pipeline(kind):
    members = named(kind.members())
    large = members["large"]
    pipe = kind.make(large)
    untouched = kind.run(pipe)
    for name, denoiser in members.items():
        with stitch_pipeline(pipe, others(members), {name: 1}) as stitched:
            made = kind.run(pipe)
        assert stitched.allocation == Allocation.from_runs([(name, kind.entries)])
        if denoiser is large:
            assert torch.equal(made, untouched)
        elif denoiser.config.get("time_cond_proj_dim") == large.config.get("time_cond_proj_dim"):
            assert torch.equal(made, kind.run(kind.make(denoiser)))
    assert torch.equal(kind.run(pipe), untouched)


def test_each_step_is_computed_by_its_owner(kind):
    members = named(kind.members())
    pipe = kind.make(members["large"])
    shares = dict.fromkeys(members, 1 / len(members))
    with stitch_pipeline(pipe, others(members), shares) as stitched:
        with recorded(members) as calls:
            first = kind.run(pipe)
        assert torch.equal(kind.run(pipe), first)
        assert not torch.equal(kind.run(pipe, seed=1), first)
    assert stitched.allocation == Allocation.from_fractions(shares, kind.entries)
    calls_per_step = 2 if kind.run is tiny.video else 1
    owners = calls[::calls_per_step]
    assert calls == [name for name in owners for _ in range(calls_per_step)]
    assert len(owners) == kind.entries or "Img2Img" in repr(pipe) or "Inpaint" in repr(pipe)
    assert tuple(owners) == stitched.allocation.steps[-len(owners) :]


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("dit", "lcm-embedding")])
def test_it_is_what_exchanging_the_denoiser_between_steps_gives(name):
    kind = KINDS[name]
    members = named(kind.members())
    pipe = kind.make(members["large"])
    slot = "transformer" if name == "wan" else "unet"
    owners = Allocation.from_fractions(dict.fromkeys(members, 1 / len(members)), kind.entries).steps

    def exchange(pipe, step, t, arguments):
        passed = len(pipe.scheduler.timesteps) - pipe.num_timesteps
        if passed + step + 1 < kind.entries:
            setattr(pipe, slot, members[owners[passed + step + 1]])
        return arguments

    passed = kind.entries - kind.entries // 2 - 1 if name in ("img2img", "inpaint") else 0
    setattr(pipe, slot, members[owners[passed]])
    exchanged = kind.run(pipe, callback_on_step_end=exchange)
    setattr(pipe, slot, members["large"])
    with stitch_pipeline(pipe, others(members), Allocation(owners)):
        assert torch.equal(kind.run(pipe), exchanged)


@pytest.mark.parametrize("scheduler", ["pndm", "heun", "unipc"])
def test_the_official_rule_rounds_down(scheduler):
    small, large = sds()
    pipe = tiny.sd(large, scheduler)
    for rule, count in (("floor", math.floor), ("round", round)):
        with stitch_pipeline(pipe, {"small": small}, {"large": 0.5, "small": 0.5}, rule=rule) as it:
            tiny.latents(pipe)
        steps = {"pndm": 7, "heun": 11, "unipc": 6}[scheduler]
        assert it.allocation.counts["small"] == count(steps / 2)


def test_shares_may_be_a_function_of_the_timesteps():
    small, large = sds()
    pipe = tiny.sd(large, "ddim")

    def shares(timesteps):
        return Allocation.from_threshold({"small": 0.3, "large": 0.7}, timesteps)

    with stitch_pipeline(pipe, {"small": small}, shares) as stitched:
        for steps in (6, 10):
            tiny.latents(pipe, steps)
            assert stitched.allocation == shares(pipe.scheduler.timesteps.tolist())
            assert len(stitched.allocation.counts) == 2


def test_wans_two_experts_are_an_allocation():
    high, low, small = tiny.wan(1, seed=1), tiny.wan(1, seed=2), tiny.wan(1, seed=3)
    experts = tiny.wan_pipe(high, transformer_2=low, boundary_ratio=0.875)
    expected = tiny.video(experts, steps=10)

    def boundary(timesteps):
        return Allocation.from_threshold({"high": 1 - 0.875, "large": 0.875}, timesteps)

    pipe = tiny.wan_pipe(low)
    with stitch_pipeline(pipe, {"high": high}, boundary) as stitched:
        assert torch.equal(tiny.video(pipe, steps=10), expected)
    assert min(stitched.allocation.counts.values()) > 1

    # A third, smaller one before them: in one pipeline, and in that of the two experts.
    shares = {"small": 0.2, "high": 0.2, "large": 0.6}
    with stitch_pipeline(pipe, {"small": small, "high": high}, shares):
        three = tiny.video(pipe, steps=10)
    two = {"small": 0.2, "large": 0.8}
    counts = {name: share * 10 for name, share in shares.items()}
    assert stitched.allocation.counts["high"] == counts["small"] + counts["high"]
    with (
        stitch_pipeline(experts, {"small": small}, two, slot="transformer"),
        stitch_pipeline(experts, {"small": small}, two, slot="transformer_2"),
    ):
        assert torch.equal(tiny.video(experts, steps=10), three)


def test_the_guidance_embedding_can_be_withheld():
    small, large = tiny.unet(8), tiny.unet(16, time_cond_proj_dim=8)
    pipe = tiny.lcm(large)
    untouched = tiny.latents(pipe)
    with stitch_pipeline(pipe, {"small": small}, {"large": 1}, guidance_embedding=False):
        withheld = tiny.latents(pipe)
        assert torch.equal(tiny.latents(pipe, guidance_scale=2.0), withheld)
    assert not torch.equal(withheld, untouched)
    assert not torch.equal(tiny.latents(pipe, guidance_scale=2.0), untouched)


def test_denoisers_come_to_the_precision_of_the_large_one():
    small, large = sds()
    pipe = tiny.sd(large, "ddim").to(torch.bfloat16)
    with stitch_pipeline(pipe, {"small": small}, {"small": 0.5, "large": 0.5}):
        assert tiny.latents(pipe).dtype == torch.bfloat16
    assert small.dtype == torch.bfloat16


def test_a_stitched_pipeline_saves_the_large_denoiser(tmp_path):
    small, large = sds()
    pipe = tiny.sd(large, "ddim")
    untouched = tiny.latents(pipe)
    with stitch_pipeline(pipe, {"small": small}, {"small": 0.5, "large": 0.5}):
        pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(tiny.latents(loaded), untouched)


def test_removing_leaves_no_trace():
    small, large = sds()
    pipe = tiny.sd(large, "ddim")
    before = [(set(vars(m)), type(m)) for net in (small, large) for m in net.modules()]
    handle = stitch_pipeline(pipe, {"small": small}, {"small": 0.5, "large": 0.5}, deep=2, tome=0.5)
    assert handle.allocation is None
    tiny.latents(pipe)
    handle.remove()
    handle.remove()
    after = [(set(vars(m)), type(m)) for net in (small, large) for m in net.modules()]
    assert after == before
    assert str(handle.allocation) == "small*3+large*3"
