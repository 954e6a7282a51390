"""Training states: continued, or refused by name."""

import contextlib

import pytest
import torch
from omegaconf import OmegaConf

from models.errors import InputError
from models.training.loop import Training

RECIPE = {"name": "tiny", "images": 8, "batch_size": 4, "lr": 0.1, "betas": [0.9, 0.99]}


def training(path):
    network = torch.nn.Linear(3, 4)
    recipe = OmegaConf.create({**RECIPE, "weight_decay": 0.0})
    return Training(
        recipe, {"recipe": RECIPE}, network, network, path, network, contextlib.nullcontext()
    )


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:],
        lambda data: data[: len(data) // 3] + b"x" + data[len(data) // 3 :],
        lambda data: b"<html>",
    ],
)
def test_a_damaged_training_state_is_named(harm, tmp_path):
    path = tmp_path / "last.pt"
    training(path).save()
    assert training(path).resume()
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(InputError, match=r"last\.pt is damaged"):
        training(path).resume()
