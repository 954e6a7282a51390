"""What only a GPU can show. Where there is none, these tests are reported as skipped."""

import pytest
import torch

import models
import samplers
import stitch
from samplers import Guidance
from stitch.sampling import sample_latents

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm_solver"])
def test_the_host_never_waits_inside_a_trajectory(name):
    zoo = models.load_zoo("fashion", "cuda")
    sampler = samplers.create(name, 4, zoo.schedule)
    allocation = stitch.Allocation.from_fractions({"DiT-S": 0.5, "DiT-XL": 0.5}, 4)
    labels, guidance = torch.arange(8, device="cuda"), Guidance(1.5, 4)

    def last_state(trajectory_only: bool) -> None:
        def callback(step, **_):
            # The end of the walk is asked whether it is finite, which has to wait.
            if trajectory_only and step == 3:
                torch.cuda.set_sync_debug_mode("default")

        arguments = zoo.denoisers, sampler, allocation, labels, guidance, 0, range(8)
        sample_latents(*arguments, callback=callback)

    last_state(trajectory_only=False)  # loads networks and kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        last_state(trajectory_only=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_images_of_a_gpu_are_those_of_a_cpu_up_to_rounding():
    allocation = stitch.Allocation.from_fractions({"DiT-S": 0.5, "DiT-XL": 0.5}, 4)
    images = []
    for device in ("cpu", "cuda"):
        zoo = models.load_zoo("fashion", device)
        sampler = samplers.create("ddim", 4, zoo.schedule)
        images.append(stitch.sample(zoo, sampler, allocation, range(8), guidance_scale=1.5))
    difference = abs(images[0].astype(int) - images[1].astype(int))
    assert (difference > 2).mean() < 0.001
