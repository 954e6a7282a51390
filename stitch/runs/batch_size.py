"""What ``batch_size=auto`` stands for: as much as fits, noted in the folder of a run and kept."""

import functools
import os
from pathlib import Path

import torch

import models
from models.cost import activation_bytes
from models.quantise import quantise
from samplers import Guidance
from stitch.runs import distributed, memory
from stitch.runs.owner import read_owner

# Of the free memory. What is left is for what is not counted: the decoder, cached beginnings of
# trajectories, the buffers of compiled networks.
SHARE = 0.8
# Of 10 to 500 images at once, 100 took the least CPU time an image, 500 from 24 to 39 % more:
# fashion's DiT-S and DiT-XL in float32, DiT-XL in bf16, one thread of a busy AMD EPYC.
ON_CPU = 100
PROBED = 4, 8  # images


def automatic(zoo: models.Zoo, path: str | Path, shard_size: int, probe: bool) -> int:
    """The batch size of a run: the one noted at its first start, or the largest that fits.

    It depends on the zoo's largest denoiser and not on the allocation, so that runs that could
    share the beginnings of their trajectories are of one size.

    Args:
        path: the folder of the run, where ``ShardFolder.mark`` notes it.
        shard_size: a multiple of the batch size.
        probe: whether a GPU's memory is measured, or only estimated, as for a plan. All ranks
            measure together: the main one's result counts.
    """

    def choose() -> int:
        noted = (read_owner(Path(path)) or {}).get("batch_size")
        return noted or largest_divisor(shard_size, fitting(zoo, probe))

    return distributed.from_main(choose) if probe else choose()


def largest_divisor(of: int, most: int) -> int:
    """The largest divisor that is ``most`` at most, and 1 at least."""
    return max(size for size in range(1, of + 1) if of % size == 0 and size <= max(1, most))


@functools.cache
def fitting(zoo: models.Zoo, probe: bool) -> int:
    """How many images a zoo's largest denoiser can compute at once, guided."""
    skeletons = {name: zoo.skeleton(name).to(zoo.dtype) for name in zoo.specs}
    activations = {name: activation_bytes(network) for name, network in skeletons.items()}
    largest = max(activations, key=activations.get)
    per_image = 2 * activations[largest]
    if probe and memory.counts_peaks(zoo.device):
        per_image = _probed(zoo, largest)
    memory.release(zoo.device)
    weights = sum(p.nbytes for network in skeletons.values() for p in network.parameters())
    on_cpu = zoo.device.type == "cpu"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if on_cpu else 1  # in one memory
    images = int(SHARE * memory.free_bytes(zoo.device) / processes - weights) // per_image
    return min(images, ON_CPU) if on_cpu else images


@torch.no_grad()
def _probed(zoo: models.Zoo, name: str) -> int:
    """Bytes by which the peak of a guided evaluation grows with every image, measured."""
    network = zoo.skeleton(name).to(zoo.dtype).to_empty(device=zoo.device).eval()
    network = network.to(memory_format=torch.channels_last)
    if zoo.quantisation is not None:
        quantise(network, zoo.quantisation)
    guidance = Guidance(2.0, zoo.guidance_channels)

    def evaluate(images: int) -> None:
        x = torch.zeros(images, *network.spec.latent_shape, device=zoo.device)
        y = torch.zeros(images, dtype=torch.int64, device=zoo.device)
        guidance(network, x, torch.zeros(1, device=zoo.device), y, 0)

    evaluate(PROBED[0])  # what libraries allocate once is no part of the growth
    few, many = (memory.peak_during(lambda n=n: evaluate(n), zoo.device) for n in PROBED)
    return max(1, (many - few) // (PROBED[1] - PROBED[0]))
