"""The training loop: batches in pieces, and how fast it says it is."""

import contextlib

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from models.training.loop import Training

RECIPE = {
    "name": "tiny", "seed": 0, "images": 48, "batch_size": 8, "lr": 0.1, "betas": [0.9, 0.99],
    "weight_decay": 0.0, "warmup_steps": 1, "cooldown": 0.0, "clip_grad_norm": 1.0,
    "ema_decay": 0.5,
}  # fmt: skip


class Regression(nn.Module):
    """Squared error of a linear map, as an objective; notes the sizes that it is called with."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(3, 2, dtype=torch.float64)
        self.x, self.y = torch.randn(20, 5, dtype=torch.float64).split([3, 2], dim=1)
        self.count, self.sizes = 20, []

    def batch(self, indices, generator):
        return self.x[indices], self.y[indices]

    def forward(self, x, y):
        self.sizes.append(len(x))
        error = (self.network(x) - y).square()
        return {"loss": error.mean(), "second": error.mean(1).mean()}


class Averaging(nn.Module):
    """Stands for the wrapper of several processes; notes which calls wait for the others."""

    def __init__(self, objective):
        super().__init__()
        self.objective, self.alone, self.waits = objective, False, []

    @contextlib.contextmanager
    def no_sync(self):
        self.alone = True
        yield
        self.alone = False

    def forward(self, *batch):
        self.waits.append(not self.alone)
        return self.objective(*batch)


def trained(path, micro_batch=None, wrap=lambda objective: objective, **options):
    """A finished training, and what it logged."""
    objective, logged = Regression(), []
    recipe = OmegaConf.create(RECIPE)
    training = Training(
        recipe, {"recipe": RECIPE}, objective.network, objective, path, wrap(objective),
        contextlib.nullcontext(), micro_batch=micro_batch,
    )  # fmt: skip
    training.run(
        48, lambda: False, lambda values, images: logged.append((images, values)), {}, log_every=2,
        **options,
    )  # fmt: skip
    return training, logged


@pytest.mark.parametrize("pieces, sizes", [(3, [3, 3, 2]), (8, [8]), (100, [8])])
def test_a_batch_in_pieces_trains_as_the_whole_batch_does(pieces, sizes, tmp_path):
    (whole, logged), (parts, others) = trained(tmp_path / "a"), trained(tmp_path / "b", pieces)
    assert parts.objective.sizes == 6 * sizes
    for one, other in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    for (_, values), (_, theirs) in zip(logged, others, strict=True):
        assert values["loss"] == pytest.approx(theirs["loss"], rel=1e-12)
        assert values["second"] == pytest.approx(theirs["second"], rel=1e-12)
    assert [images for images, _ in logged] == [16, 32, 48]


def test_processes_wait_for_each_other_once_a_step(tmp_path):
    training, _ = trained(tmp_path / "a", 3, Averaging)
    assert training.forward.waits == 6 * [False, False, True]


def test_the_share_of_the_rate_of_matrix_products_is_logged_if_that_is_known(tmp_path):
    _, logged = trained(tmp_path / "a", peak=1000.0)
    for _, values in logged:
        assert values["images_per_second"] > 0
        assert values["mfu"] == pytest.approx(values["images_per_second"] / 1000)
    _, logged = trained(tmp_path / "b")
    assert not any("mfu" in values for _, values in logged)


def test_weights_that_are_not_finite_do_not_replace_the_state(tmp_path):
    """The loss is looked at only where it is logged."""
    training, _ = trained(tmp_path / "last.pt")
    before = training.path.read_bytes()
    training.recipe.images = 56
    training.objective.y.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="tiny: weights are not finite after 56 images"):
        training.run(56, lambda: False, lambda values, images: None, {})
    assert training.path.read_bytes() == before
