"""Training states: continued, or refused by name."""

import contextlib
import resource

import pytest
import torch
from omegaconf import OmegaConf

from models.errors import InputError
from models.training.loop import Training
from models.weights import save_tensors

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


def test_the_state_before_is_kept_and_stands_in_for_one_that_is_lost_or_damaged(tmp_path, caplog):
    one = training(tmp_path / "last.pt")
    one.save()
    one.images = 4
    one.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before-last.pt", "last.pt"]
    again = training(one.path)
    assert again.resume() and again.images == 4
    one.path.write_bytes(b"")
    assert again.resume() and again.images == 0
    assert "last.pt is damaged" in caplog.text and "before-last.pt" in caplog.text
    one.path.unlink()
    one.images = 8
    assert one.resume() and one.images == 0
    other = training(one.path)
    other.identity = {"recipe": {**RECIPE, "name": "other"}}
    with pytest.raises(InputError, match="recipe.name is tiny there and other here"):
        other.resume()


@contextlib.contextmanager
def files_of_at_most(size):
    """A block in which no file can grow beyond ``size`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_clear_error_and_the_state_before_stays(tmp_path):
    one = training(tmp_path / "last.pt")
    one.save()
    before = one.path.read_bytes()
    with (
        files_of_at_most(1000),
        pytest.raises(
            InputError, match=r"last\.pt cannot be written to: File too large; make room"
        ),
    ):
        one.save()
    assert one.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [one.path]


def test_weights_on_a_full_disk_are_one_clear_error(tmp_path):
    with (
        files_of_at_most(1000),
        pytest.raises(InputError, match="safetensors cannot be written to: File too large"),
    ):
        save_tensors({"w": torch.zeros(1000)}, tmp_path / "w.safetensors", {})
    assert not list(tmp_path.iterdir())
