"""Optimisers of trainings: which weights each takes, and going on with one or the other."""

import contextlib
import math

import pytest
import torch
from omegaconf import OmegaConf

from models import create
from models.errors import InputError
from models.training import optimizers
from models.training.loop import Training

RECIPE = {
    "name": "DiT-S", "seed": 0, "images": 32, "batch_size": 4, "lr": 1e-2, "betas": [0.9, 0.99],
    "weight_decay": 0.0, "warmup_steps": 1, "cooldown": 0.0, "clip_grad_norm": 1.0,
    "ema_decay": 0.5,
}  # fmt: skip
MUON = {**RECIPE, "optimizer": "muon"}


def network():
    torch.manual_seed(0)
    sizes = {"latent_shape": [4, 4, 4], "patch_size": 2, "width": 16, "depth": 2, "num_heads": 2}
    return create("DiT", num_classes=3, prediction_type="epsilon", schedule="ddpm-linear", **sizes)


class Noise(torch.nn.Module):
    """The squared error of predicted noise, as an objective."""

    def __init__(self):
        super().__init__()
        self.network, self.count = network(), 32

    def batch(self, indices, generator):
        return torch.randn(2, len(indices), 4, 4, 4, generator=generator).unbind()

    def forward(self, x, noise):
        y = torch.zeros(len(x), dtype=torch.int64)
        error = self.network(x + noise, torch.full((1,), 500.0), y)[:, :4] - noise
        return {"loss": error.square().mean()}


def training(path, recipe):
    objective = Noise()
    return Training(
        OmegaConf.create(recipe), {"recipe": recipe}, objective.network, objective, path, objective,
        contextlib.nullcontext(),
    )  # fmt: skip


def run(one, until):
    """Train until so many images have been seen; the loss of every step."""
    losses = []
    log = lambda values, _: losses.append(values["loss"])  # noqa: E731
    one.run(until, lambda: False, log, {}, log_every=1)
    return losses


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_all_other_weights():
    net = network()
    found = optimizers.create(OmegaConf.create(MUON), net)
    names = {id(p): name for name, p in net.named_parameters()}
    taken = {
        optimizer: [names[id(p)] for group in one.param_groups for p in group["params"]]
        for optimizer, one in found.items()
    }
    everything = [name for name, p in net.named_parameters() if p.requires_grad]
    assert sorted(taken["muon"] + taken["optimizer"]) == sorted(everything)
    matrices = [n for n, p in net.named_parameters() if n.startswith("blocks.") and p.ndim == 2]
    assert taken["muon"] == matrices and len(matrices) == 2 * 5
    assert list(optimizers.create(OmegaConf.create(RECIPE), net)) == ["optimizer"]


def test_a_step_of_muon_is_as_large_as_one_of_adamw(tmp_path):
    """Its root mean square is 0.2 of the learning rate, and AdamW's first step at most 1."""
    one = training(tmp_path / "last.pt", MUON)
    run(one, 12)  # DiT's last layer and gates are zero at first: no gradient reaches the blocks
    before = one.network.blocks[0].mlp.fc1.weight.detach().clone()
    run(one, 16)
    step = one.network.blocks[0].mlp.fc1.weight - before
    assert step.square().mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.2)


@pytest.mark.parametrize("recipe", [RECIPE, MUON], ids=["adamw", "muon"])
def test_either_optimiser_learns_and_resumes_to_the_bit(recipe, tmp_path):
    whole = training(tmp_path / "whole.pt", recipe)
    losses = run(whole, 32)
    assert math.fsum(losses[-3:]) < 0.95 * math.fsum(losses[:3])
    run(training(tmp_path / "last.pt", recipe), 16)
    again = training(tmp_path / "last.pt", recipe)
    assert again.resume() and again.images == 16
    run(again, 32)
    pairs = zip(whole.network.parameters(), again.network.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_state_of_the_other_optimiser_is_refused_and_weights_are_gone_on_from(tmp_path):
    one = training(tmp_path / "last.pt", RECIPE)
    run(one, 4)
    other = training(tmp_path / "last.pt", MUON)
    with pytest.raises(InputError, match="is of train.optimizer=adamw, not muon; move it away"):
        other.resume()
    other.network.load_state_dict(one.average.state_dict())
    other.go_on_from(one.images, one.parts)
    run(other, 8)
    assert other.images == 8


@pytest.mark.parametrize(
    "recipe, net, message",
    [
        (MUON, torch.nn.Linear(3, 4), "train.optimizer=muon: Linear has no matrices in blocks"),
        ({**RECIPE, "optimizer": "sgd"}, torch.nn.Linear(3, 4), "sgd is unknown; known: adamw, m"),
    ],
)
def test_what_cannot_be_optimised_is_refused(recipe, net, message):
    with pytest.raises(InputError, match=message):
        optimizers.create(OmegaConf.create(recipe), net)
