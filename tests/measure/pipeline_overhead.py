"""What stitching a pipeline costs a step: ``python -m tests.measure.pipeline_overhead``.

A pipeline's loop calls denoisers that have as many modules as Stable Diffusion's U-Net and compute
nothing, stitched and untouched in turn. What differs is the hook: finding the step and its owner,
and, once in a trajectory, the allocation and the checks. It is measured in CPU time of the thread,
which other programs hardly change. Exit code 1 if it is above 50 microseconds a step.
"""

import argparse
import statistics
import sys
import time

import torch
from diffusers import UNet2DConditionModel

from stitch.pipelines import stitch_pipeline
from tests.stitch.pipelines import tiny

MOST = 50.0  # microseconds a step


class Idle(UNet2DConditionModel):
    """Of Stable Diffusion's layout, narrow; answers without computing."""

    def forward(self, sample, timestep, encoder_hidden_states, return_dict=True):
        return (sample,)


def idle(seed: int) -> Idle:
    return tiny.seeded(
        seed,
        Idle,
        sample_size=8,
        block_out_channels=(16, 32, 32, 32),
        norm_num_groups=4,
        cross_attention_dim=tiny.DIM,
        attention_head_dim=4,
    )


@torch.no_grad()
def trajectory(pipe, steps: int) -> float:
    """CPU microseconds a step of one loop over the timesteps."""
    x, text = torch.zeros(2, 4, 8, 8), torch.zeros(2, 7, tiny.DIM)
    pipe.scheduler.set_timesteps(steps)
    began = time.thread_time()
    for t in pipe.scheduler.timesteps:
        pipe.unet(x, t, encoder_hidden_states=text, return_dict=False)
    return (time.thread_time() - began) / len(pipe.scheduler.timesteps) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repetitions", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe, small = tiny.sd(idle(0)), idle(1)
    modules = len(list(pipe.unet.modules()))
    taken = {"untouched": [], "stitched": []}
    for repetition in range(-5, arguments.repetitions):
        plain = trajectory(pipe, arguments.steps)
        with stitch_pipeline(pipe, {"small": small}, {"small": 0.4, "large": 0.6}):
            trajectory(pipe, arguments.steps)
            stitched = trajectory(pipe, arguments.steps)
        if repetition >= 0:
            taken["untouched"].append(plain)
            taken["stitched"].append(stitched)
    untouched, stitched = (statistics.median(times) for times in taken.values())
    overhead = stitched - untouched
    print(
        f"{overhead:.1f} us a step: {stitched:.1f} stitched, {untouched:.1f} untouched; median of "
        f"{arguments.repetitions} trajectories of {arguments.steps} steps, {modules} modules"
    )
    return int(overhead > MOST)


if __name__ == "__main__":
    sys.exit(main())
