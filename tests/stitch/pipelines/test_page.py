"""docs/pipelines.md: its code runs, on tiny pipelines, and its messages are those one gets."""

import re

import diffusers
import pytest
import torch
from PIL import Image

from models.errors import InputError
from stitch import Allocation
from stitch.pipelines import stitch_pipeline
from tests import ROOT
from tests.stitch.pipelines import tiny

PAGE = (ROOT / "docs" / "pipelines.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
MESSAGES = re.findall(r"^\| [^|]+ \| `(.+)` \|$", PAGE, re.MULTILINE)
HALVES = {"small": 0.5, "large": 0.5}


def xl(unet=None, controlnet=None, **_):
    unet = unet or tiny.unet_xl(16)
    if controlnet is None:
        return tiny.sdxl(unet)
    return tiny.sdxl(unet, "StableDiffusionXLControlNetPipeline", controlnet=controlnet)


def wan_pipe(*_, transformer, **__):
    return tiny.wan_pipe(transformer)


# Repository -> what stands for it here, by what is loaded from it.
DENOISERS = {
    "nota-ai/bk-sdm-tiny": lambda: tiny.unet(8),
    "segmind/SSD-1B": lambda: tiny.unet_xl(16, seed=2),
    "diffusers/controlnet-canny-sdxl-1.0": lambda: tiny.controlnet(tiny.unet_xl(16)),
    "latent-consistency/lcm-sdxl": lambda: tiny.unet_xl(16, time_cond_proj_dim=8),
    "latent-consistency/lcm-ssd-1b": lambda: tiny.unet_xl(8),
    "dit-s": lambda: tiny.dit(1),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": lambda: tiny.wan(1),
    "stabilityai/stable-diffusion-2-1": lambda: tiny.unet(8),
}
PIPELINES = {
    "CompVis/stable-diffusion-v1-4": lambda **_: tiny.sd(tiny.unet(16)),
    "nitrosocke/Ghibli-Diffusion": lambda **_: tiny.sd(
        tiny.unet(16), kind="StableDiffusionImg2ImgPipeline"
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": xl,
    "stabilityai/stable-diffusion-2-1-base": lambda **_: tiny.sd(tiny.unet(16)),
    "facebook/DiT-XL-2-256": lambda **_: tiny.dit_pipe(tiny.dit(2)),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": wan_pipe,
}


def call(pipe):
    """Call a pipeline as its kind is called."""
    kind = type(pipe).__name__
    if kind == "DiTPipeline":
        tiny.photograph(pipe)
    elif kind == "WanPipeline":
        tiny.video(pipe)
    elif "ControlNet" in kind:
        tiny.latents(pipe, image=tiny.PICTURE, height=8, width=8)
    else:
        tiny.latents(pipe, **({"image": tiny.PICTURE} if "Img2Img" in kind else {}))


def test_the_code_of_the_page_runs(monkeypatch, capsys):
    loads = dict.fromkeys(
        (
            diffusers.UNet2DConditionModel,
            diffusers.ControlNetModel,
            diffusers.DiTTransformer2DModel,
            diffusers.WanTransformer3DModel,
        ),
        lambda name, **_: DENOISERS[name](),
    ) | dict.fromkeys(
        (diffusers.DiffusionPipeline, diffusers.AutoPipelineForImage2Image),
        lambda name, **parts: PIPELINES[name](**parts),
    )
    for kind, load in loads.items():
        monkeypatch.setattr(kind, "from_pretrained", load)
    names = {}
    assert len(BLOCKS) == 9
    for block in BLOCKS:
        exec(block, names)
        call(names["pipe"])
        assert len(names["stitched"].allocation.denoisers) == 2, block
        names["stitched"].remove()
    assert isinstance(names["image"], Image.Image)
    assert capsys.readouterr().out == "small*10+large*16\n"


def of_call(pipe, others=None, shares=HALVES, ask=call, **options):
    with stitch_pipeline(pipe, others or {"small": tiny.unet(8)}, shares, **options):
        ask(pipe)


def at_step_37(pipe):
    pipe.scheduler.set_timesteps(4)
    pipe.unet(torch.zeros(1, 4, 8, 8), 37, torch.zeros(1, 7, tiny.DIM))


def with_features(pipe):
    pipe.scheduler.set_timesteps(4)
    pipe.unet(
        torch.zeros(1, 4, 8, 8),
        pipe.scheduler.timesteps[0],
        torch.zeros(1, 7, tiny.DIM),
        down_intrablock_additional_residuals=[torch.zeros(1, 16, 4, 4)],
    )


def with_magcache():
    large = tiny.wan(2)
    settings = dict(threshold=0.1, num_inference_steps=6, mag_ratios=[1.0] * 6)
    large.enable_cache(diffusers.MagCacheConfig(**settings))
    of_call(tiny.wan_pipe(large), {"small": tiny.wan(1)})


def compiled(**options):
    pipe = tiny.sd(tiny.unet(16))
    if options:
        pipe.unet.forward = torch.compile(pipe.unet.forward, backend="eager")
    else:
        pipe.unet.compile(backend="eager")
    of_call(pipe, **options)


# In the order of the page's table.
CASES = [
    lambda: of_call(tiny.sd(tiny.unet(16)), {"small": tiny.unet(8, cross_attention_dim=32)}),
    lambda: of_call(tiny.sd(tiny.unet(16)), {"small": tiny.dit(1)}),
    lambda: of_call(tiny.sd(tiny.unet(16)), {"small": tiny.unet(8, time_cond_proj_dim=8)}),
    lambda: of_call(
        xl(controlnet=tiny.controlnet(tiny.unet_xl(16))),
        {"small": tiny.unet_xl(16, layers_per_block=2)},
    ),
    lambda: of_call(tiny.sd(tiny.unet(16)), ask=with_features),
    lambda: of_call(tiny.sd(tiny.unet(16)), slot="transformer"),
    lambda: of_call(tiny.sd(tiny.unet(16)), shares={"small": 0.4, "large": 0.5}),
    lambda: of_call(tiny.sd(tiny.unet(16)), shares={"tiny": 0.4, "large": 0.6}),
    lambda: of_call(tiny.sd(tiny.unet(16)), shares=Allocation.parse("small*2+large*3")),
    lambda: of_call(tiny.sd(tiny.unet(16)), ask=at_step_37),
    lambda: of_call(
        tiny.wan_pipe(tiny.wan(1), transformer_2=tiny.wan(1), boundary_ratio=0.875),
        {"small": tiny.wan(1, seed=1)},
    ),
    compiled,
    with_magcache,
    lambda: compiled(deep={"large": 2}),
    lambda: of_call(tiny.dit_pipe(tiny.dit(2)), {"small": tiny.dit(1)}, deep=2),
]


def pattern(message: str) -> str:
    """A message of the page, in which capital words stand for values."""
    return re.sub(r"(?<![\w-])[A-Z]{4,}(?!\w)", ".+", re.escape(message))


def test_the_messages_of_the_page_are_those_one_gets():
    assert MESSAGES[-1].startswith("tome: the ratio of NAME=VALUE needs tomesd")  # test_without.py
    for message, case in zip(MESSAGES[:-1], CASES, strict=True):
        with pytest.raises(InputError) as caught:
            case()
        assert re.fullmatch(pattern(message), str(caught.value)), (message, str(caught.value))
