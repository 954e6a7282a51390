"""What only a GPU can show. Where there is none, these tests are reported as skipped."""

import pytest
import torch

import models
import samplers
import stitch
from models.training import ema
from models.training.loop import batch_indices
from samplers import Guidance
from samplers.objective import DenoiserObjective
from stitch.sampling import sample_latents

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@torch.no_grad()
@pytest.mark.parametrize("wrappers", [[], [stitch.Forecast(2, 1, 1)]], ids=["alone", "cached"])
@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm_solver"])
def test_the_host_never_waits_inside_a_trajectory(name, wrappers):
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
        sample_latents(*arguments, callback=callback, wrappers=wrappers)

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


def test_the_host_never_waits_inside_a_training_step():
    device = torch.device("cuda")
    sizes = dict(latent_shape=(4, 8, 8), width=32, depth=2, num_heads=2, num_classes=5)
    network, average = (models.create("DiT", **sizes).to(device) for _ in range(2))
    mean = torch.randn(2, 50, 4, 8, 8, device=device)
    labels = torch.arange(50) % 5
    objective = DenoiserObjective(network, mean, mean.abs(), labels, 0.1, None, "min-snr-5")
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def step(number: int) -> None:
        generator = torch.Generator(device).manual_seed(number)
        batch = objective.batch(batch_indices(0, 8 * number, 8, 50, device), generator)
        with torch.autocast("cuda", torch.bfloat16):
            losses = objective(*batch)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(average, network, 0.9)

    step(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
