"""Without the optional packages, and without diffusers' import where it is not needed."""

import subprocess
import sys

from tests import ROOT

HIDE = """
import sys
from importlib.machinery import PathFinder

class Finder:
    find_distributions = PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        hidden = ("transformers", "tokenizers", "tomesd", "peft", "accelerate")
        return None if name.split(".")[0] in hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
WITHOUT = (
    HIDE
    + """
import stitch
assert "diffusers" not in sys.modules, "import stitch imports diffusers"

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers import UNet2DConditionModel
from models.errors import InputError
from stitch.pipelines import stitch_pipeline

def dit(layers):
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4,
        num_layers=layers, sample_size=4
    )

vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
pipe = DiTPipeline(dit(2), vae, DDIMScheduler())
pipe.set_progress_bar_config(disable=True)
with stitch_pipeline(pipe, {"small": dit(1)}, {"small": 0.5, "large": 0.5}) as stitched:
    pipe(class_labels=[1], num_inference_steps=2)
print(stitched.allocation)

settings = dict(
    block_out_channels=(8, 8), norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1,
)
pipe.register_modules(unet=UNet2DConditionModel(**settings))
small = UNet2DConditionModel(**settings)
try:
    stitch_pipeline(pipe, {"small": small}, {"small": 1}, tome=0.5)
except InputError as error:
    print(error)
"""
)


def test_the_rest_works_and_the_message_says_what_to_install():
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "small*1+large*1",
        "tome: the ratio of small=0.5 needs tomesd: pip install -r requirements-pipelines.txt",
    ]
