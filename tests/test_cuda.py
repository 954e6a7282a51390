"""What only a GPU can show. Where there is none, these tests are reported as skipped."""

import contextlib

import numpy as np
import pytest
import torch

import models
import samplers
import stitch
from eval.metrics import moments
from eval.precision_recall import precision_recall
from models.training import ema
from models.training.loop import batch_indices
from samplers.objective import DenoiserObjective
from stitch.runs import batch_size, build, memory
from tests.commands import compose

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

CUDA = torch.device("cuda", 0)


@contextlib.contextmanager
def waiting_is_an_error():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("cache", [[], ["cache=forecast", "cache.interval=2"]], ids=["", "cached"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm_solver", "pndm", "heun"])
def test_the_host_never_waits_for_what_it_launches(sampler, cache):
    config = compose("sample", f"sampler={sampler}", "sampler.steps=4", "batch_size=8", *cache)
    run = build.create(config, build.load_zoo(config, CUDA))
    expected, _ = run.images(range(8))  # loads networks and kernels
    with waiting_is_an_error():
        wait = run.launch(range(8))
        wait_for_next = run.launch(range(8, 16))
    images, labels = wait()
    assert np.array_equal(images, expected) and labels == run.labels(range(8))
    assert wait_for_next()[0].shape == images.shape


def test_a_probe_foresees_how_memory_grows():
    zoo = models.load_zoo("fashion", CUDA)
    per_image = batch_size._probed(zoo, "DiT-XL")
    network = zoo.denoisers["DiT-XL"]

    @torch.no_grad()
    def evaluate(rows):
        x = torch.zeros(rows, *network.spec.latent_shape, device=CUDA)
        network(x, torch.zeros(1, device=CUDA), torch.zeros(rows, dtype=torch.long, device=CUDA))

    few, many = (memory.peak_during(lambda n=n: evaluate(n), CUDA) for n in (256, 512))
    assert (many - few) / 128 == pytest.approx(per_image, rel=0.25)  # guided: two rows an image


def test_metrics_of_a_gpu_are_those_of_a_cpu():
    features = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
    here, there = moments(features), moments(features.to(CUDA))
    assert there.mean.device.type == "cpu"
    torch.testing.assert_close(tuple(there), tuple(here), rtol=1e-10, atol=1e-12)
    pairs = [(features[:1500].to(d), features[1500:].to(d)) for d in ("cpu", CUDA)]
    here, there = (precision_recall(*pair) for pair in pairs)
    assert there == pytest.approx(here, abs=2e-3)


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
    with waiting_is_an_error():
        step(1)
