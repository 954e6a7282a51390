"""What makes the host wait for a device, found without one.

Tensors on the meta device have no values: whatever asks for one raises, as it would make the host
wait on a GPU. Copies that are not by ``onto`` are counted, for they are waited for, too.
"""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import models
import samplers
from samplers import Guidance
from stitch import Allocation, Forecast, sampling
from stitch.runs import build
from stitch.runs import run as run_module
from stitch.sampling import decoded, launch_latents
from tests.commands import compose

SAMPLERS = [
    ("ddim", {}),
    ("ddim", {"eta": 1.0}),
    ("ddpm", {}),
    ("pndm", {}),
    ("heun", {}),
    ("dpm_solver", {"order": 3}),
    ("dpm_solver", {"order": 2, "method": "singlestep"}),
    ("unipc", {}),
]
GUIDANCES = {
    "none": Guidance(1.0, 4),
    "null class": Guidance(1.5, 4),
    "autoguidance": Guidance(1.5, 4, "DiT-S"),
}


class Copies(TorchDispatchMode):
    """The operators that take tensors of the host and give tensors of the meta device."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        taken, given = (
            {x.device.type for x in tree_leaves(part) if isinstance(x, torch.Tensor)}
            for part in ((args, kwargs), result)
        )
        if "cpu" in taken and "meta" in given:
            self.found.append(str(function))
        return result


class Coming:
    """In place of ``Arriving``: the copy of a flag that is looked at when a walk is over."""

    def __init__(self, tensor):
        assert tensor.shape == ()

    def wait(self):
        return torch.tensor(True)


@pytest.fixture(scope="module")
def zoo():
    return models.load_zoo("fashion")


def there(x, device):
    """In place of ``onto``, whose copies nobody waits for."""
    return torch.empty(x.shape, dtype=x.dtype, device=device)


@pytest.fixture(autouse=True)
def copied_by_onto(monkeypatch):
    monkeypatch.setattr(sampling, "onto", there)
    monkeypatch.setattr(sampling, "Arriving", Coming)


def walked(zoo, name, options, guidance, wrappers=()) -> list[str]:
    """The copies of a walk of two images."""
    denoisers = {one: zoo.skeleton(one) for one in zoo.specs}
    sampler = samplers.create(name, 4, zoo.schedule, **options)
    steps = len(sampler.timesteps)
    allocation = Allocation.from_fractions({"DiT-S": 0.5, "DiT-B": 0.5}, steps)
    labels, seen = torch.empty(2, dtype=torch.int64, device="meta"), []
    with Copies() as copies:
        walk = launch_latents(
            denoisers,
            sampler,
            allocation,
            labels,
            guidance,
            seed=0,
            indices=range(2),
            callback=lambda step, **_: seen.append(step),
            wrappers=wrappers,
        )
        walk.check()
    assert seen == list(range(steps))
    assert walk.latents.device.type == "meta"
    return copies.found


@pytest.mark.parametrize("guidance", GUIDANCES.values(), ids=GUIDANCES)
@pytest.mark.parametrize("name, options", SAMPLERS)
def test_nothing_in_a_trajectory_waits_for_the_device(zoo, name, options, guidance):
    assert walked(zoo, name, options, guidance) == []


def test_a_cache_does_not_wait_for_the_device(zoo):
    assert walked(zoo, "ddim", {}, GUIDANCES["null class"], [Forecast(interval=2)]) == []


@pytest.mark.parametrize("name", ["LDM", "U-ViT"])
def test_no_network_waits_for_the_device(zoo, name):
    network = zoo.skeleton(name)
    x = torch.empty(2, *network.spec.latent_shape, device="meta")
    y = torch.empty(2, dtype=torch.int64, device="meta")
    with torch.no_grad(), Copies() as copies:
        assert network(x, torch.empty(1, device="meta"), y).device.type == "meta"
    assert copies.found == []


def test_decoding_does_not_wait_for_the_device(zoo):
    latents = torch.empty(2, *zoo.card.latent_shape, device="meta")
    with Copies() as copies:
        stage = SimpleNamespace(first_stage=zoo.skeleton("first-stage"))
        assert decoded(stage, latents).shape == (2, 28, 28, 1)
    assert copies.found == []


class Asks:
    """A wrapper that asks a question at every step."""

    def __init__(self, question):
        self.question = question

    def wrap(self, denoise, trajectory):
        def answer(x, step):
            self.question(x)
            return denoise(x, step)

        return answer


@pytest.mark.parametrize(
    "question",
    [
        lambda x: x.sum().item(),
        lambda x: x[0].tolist(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x.clone()),
        lambda x: x.cpu(),
    ],
    ids=["item", "tolist", "bool", "mask", "equal", "cpu"],
)
def test_what_waits_is_found(zoo, question):
    with pytest.raises((RuntimeError, NotImplementedError)):
        walked(zoo, "ddim", {}, GUIDANCES["none"], [Asks(question)])


def test_a_copy_that_waits_is_found(zoo):
    asks = Asks(lambda x: torch.ones(3).to(x.device))
    assert walked(zoo, "ddim", {}, GUIDANCES["none"], [asks]) == ["aten._to_copy.default"] * 4


def test_a_run_is_launched_without_waiting_for_the_device(zoo, monkeypatch):
    config = compose("sample", "sampler.steps=2", "batch_size=2", "shard_size=2")
    run = build.create(config, zoo)
    on_meta = SimpleNamespace(
        denoisers={one: zoo.skeleton(one) for one in zoo.specs},
        first_stage=zoo.skeleton("first-stage"),
        device=torch.device("meta"),
        num_classes=zoo.num_classes,
    )
    arriving, brought = [], []

    def onto(x, device):
        brought.append(x)
        return there(x, device)

    monkeypatch.setattr(run_module, "onto", onto)
    monkeypatch.setattr(run_module, "Arriving", arriving.append)
    with Copies() as copies:
        dataclasses.replace(run, zoo=on_meta).launch(range(2))
    assert copies.found == []
    # A list becomes a tensor on the meta device without a copy, which is not the case on a GPU.
    assert [labels.tolist() for labels in brought] == [run.labels(range(2))]
    assert [tuple(images.shape) for images in arriving] == [(2, 28, 28, 1)]
