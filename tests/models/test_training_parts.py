"""Parts of the training: averages, augmentation, weights of the loss, what makes it this one."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import models
from models.errors import InputError
from models.training import augment, ema
from models.training.loop import batch_indices, check_same
from models.training.snapshots import Snapshots
from samplers import NoiseSchedule
from samplers.loss import training_losses
from samplers.objective import DenoiserObjective, loss_weights


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("batch_size", [1, 10])
def test_the_average_is_as_wide_as_it_says_relative_to_the_training(width, batch_size):
    total, network, average = 4000, nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    shares = torch.zeros(total // batch_size)  # of every step in the average
    for step in range(len(shares)):
        decay = ema.power_decay((step + 1) * batch_size, batch_size, width)
        shares *= decay
        shares[step] += 1 - decay
    times = (torch.arange(len(shares)) + 1) / len(shares)
    assert shares.sum().item() == pytest.approx(1)
    mean = (shares * times).sum()
    spread = (shares * (times - mean).square()).sum().sqrt()
    assert spread.item() == pytest.approx(width, rel=0.02)
    # The first step leaves nothing of the initial weights.
    ema.update(average, network, ema.power_decay(batch_size, batch_size, width))
    assert torch.equal(average.weight, network.weight)


def gradient(size: int = 16) -> torch.Tensor:
    """One image whose columns are 0, 10, 20, ..."""
    return (torch.arange(size) * 10).to(torch.uint8).expand(1, 3, size, size)


def test_crops_of_the_whole_area_are_the_image_or_its_mirror():
    image = gradient().expand(50, -1, -1, -1)
    square = augment.cropped(image, (1.0, 1.0), torch.Generator().manual_seed(0))
    assert square.dtype == torch.uint8 and square.shape == image.shape
    # Proportions other than 1 cannot keep all; most of the width is kept.
    kept = (square[:, 0, 0].float().amax(1) - square[:, 0, 0].float().amin(1)) / 150
    assert kept.min() > 0.7
    rising = square[:, 0, 0, -1] > square[:, 0, 0, 0]
    assert 10 < rising.sum() < 40


def test_crops_are_parts_of_the_image_each_its_own():
    image = gradient().expand(20, -1, -1, -1)
    crops = augment.cropped(image, (0.1, 0.3), torch.Generator().manual_seed(0))
    again = augment.cropped(image, (0.1, 0.3), torch.Generator().manual_seed(0))
    assert torch.equal(crops, again)
    spans = crops[:, 0, 0].float().amax(1) - crops[:, 0, 0].float().amin(1)
    assert spans.max() < 110 and len(crops.flatten(1).unique(dim=0)) == 20


def test_an_unknown_augmentation_names_the_known_ones():
    with pytest.raises(InputError, match=r"augment.name='blur' is unknown; known: shift, crop"):
        augment.create({"name": "blur"})


@pytest.mark.parametrize("kind", ["epsilon", "v", "x0"])
def test_min_snr_weights_the_error_of_x_0_by_the_snr_up_to_its_limit(kind):
    """The same error of x_0 costs the same, whatever is predicted."""
    schedule = NoiseSchedule.create("ddpm-linear")
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([0, 20, 300, 700, 999])
    x_0, noise, error = (
        torch.randn(5, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    alpha, sigma = (scale[:, None, None, None] for scale in schedule.scales(t))
    x_t, wrong = schedule.add_noise(x_0, noise, t), x_0 + error
    output = {
        "epsilon": (x_t - alpha * wrong) / sigma,
        "v": alpha * (x_t - alpha * wrong) / sigma - sigma * wrong,
        "x0": wrong,
    }[kind]
    losses = training_losses(output, x_0, noise, t, schedule, kind)
    weighted = loss_weights("min-snr-5", schedule, kind)[t] * losses["mse"]
    snr = (alpha / sigma).flatten() ** 2
    expected = snr.clamp(max=5) * error.square().flatten(1).mean(1)
    torch.testing.assert_close(weighted, expected)


def test_the_bound_does_not_depend_on_what_is_predicted():
    schedule = NoiseSchedule.create("ddpm-linear")
    t, (x_0, noise, logits) = torch.tensor([0, 1, 500]), torch.randn(3, 3, 4, 2, 2).double()
    alpha, sigma = (scale[:, None, None, None] for scale in schedule.scales(t))
    of_epsilon, of_v = (
        training_losses(torch.cat([prediction, logits], 1), x_0, noise, t, schedule, kind)
        for kind, prediction in (("epsilon", noise), ("v", alpha * noise - sigma * x_0))
    )
    torch.testing.assert_close(of_epsilon["vb"], of_v["vb"])
    assert of_v["mse"].max() < 1e-20


@pytest.mark.parametrize("weighting", ["snr", "min-snr", "min-snr-x", "5"])
def test_an_unknown_weighting_is_refused(weighting):
    with pytest.raises(InputError, match=f"train.weighting={weighting} "):
        loss_weights(weighting, NoiseSchedule.create("ddpm-linear"))


def test_what_differs_between_two_trainings_is_named_and_what_a_machine_chooses_is_not(tmp_path):
    ours = {"recipe": {"lr": 1, "seed": 0, "images": 5}, "network": {"width": 8}, "data": "a"}
    other = {"recipe": {"lr": 2, "seed": 0, "images": 9}, "network": {"width": 8}, "data": "a"}
    check_same(ours, {**other, "anything": "else"}, tmp_path)
    other = {"recipe": {"lr": 2, "seed": 1, "images": 9}, "network": {"width": 6}, "data": "a"}
    with pytest.raises(
        InputError, match="network.width is 6 there and 8 here; recipe.seed is 1 there and 0 here"
    ):
        check_same(ours, other, tmp_path)


def test_a_first_stage_of_patches_has_the_latents_of_its_factor():
    sizes = dict(block_out_channels=[8], down_block_types=["DownEncoderBlock2D"], norm_num_groups=4)
    stage = models.create(
        "first-stage-kl", scale=2.0, patch_size=4, in_channels=48, out_channels=48,
        latent_channels=4, up_block_types=["UpDecoderBlock2D"], **sizes,
    )  # fmt: skip
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    latents = stage.encode(images)
    assert latents.shape == (2, 4, 4, 6) == (2, *stage.latent_shape((3, 16, 24)))
    assert stage.decode(latents).shape == images.shape
    # One latent sees one patch only through the convolutions around it: all of it is used.
    patches = torch.nn.functional.pixel_unshuffle(images / 127.5 - 1, 4)
    expected = 2 * stage.autoencoder.encode(patches).latent_dist.mean
    torch.testing.assert_close(latents, expected)


def test_the_distance_of_a_classifier_is_zero_for_equal_images_only():
    classifier = models.create("classifier-resnet", widths=[8, 8, 8, 8]).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert classifier.distance(images, images).item() == 0
    noisy = (images + 0.1 * torch.randn_like(images)).requires_grad_()
    distance = classifier.distance(noisy, images)
    distance.backward()
    assert distance.item() > 0 and noisy.grad.abs().sum() > 0


def test_every_epoch_shows_every_image_once_and_batches_go_over_its_end():
    device = torch.device("cpu")
    shown = torch.cat([batch_indices(3, start, 8, 20, device) for start in range(0, 40, 8)])
    first, second = shown[:20], shown[20:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(20))
    assert not torch.equal(first, second)
    # The order does not depend on how it is cut into batches.
    assert torch.equal(shown, batch_indices(3, 0, 40, 20, device))


@torch.no_grad()
def test_a_photograph_and_its_mirror_have_the_same_features():
    classifier = models.create("classifier-resnet", widths=[8, 8, 8, 8]).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for ours, mirrored in zip(classifier(images), classifier(images.flip(-1)), strict=True):
        torch.testing.assert_close(ours, mirrored)


@pytest.mark.parametrize("count", [3, 10, 11, 3999, 9469])
def test_errors_are_of_images_all_over_the_data_which_may_be_class_by_class(count):
    mean = torch.zeros(1, count, 1, 1, 1)
    network = models.create(
        "DiT", latent_shape=[1, 2, 2], num_classes=2, patch_size=2, width=4, depth=1, num_heads=1,
        prediction_type="v", schedule="ddpm-linear",
    )  # fmt: skip
    labels = torch.zeros(count, dtype=torch.int64)
    chosen = DenoiserObjective(network, mean, mean, labels, 0.0).spread(10)
    assert len(chosen.unique()) == len(chosen) == min(10, count)
    gaps = torch.tensor([*chosen, count]).diff()
    assert chosen[0] == 0 and gaps.max() - gaps.min() <= 1


def snapshots_due(images, trained, now, folder):
    """What is due of age 40 after ``images`` images, in batches of ``trained``, then of ``now``."""
    recipe = OmegaConf.create({"name": "DiT-S", "batch_size": now})
    parts = [{"recipe.batch_size": 1024}, {"recipe.batch_size": trained}] if trained else []
    training = SimpleNamespace(recipe=recipe, images=images, parts=parts)
    return Snapshots([40], lambda name: folder / name).due(training)


def test_a_snapshot_is_of_the_first_step_at_its_age_whatever_batches_a_training_resumes_with(
    tmp_path,
):
    assert snapshots_due(48, 16, 4, tmp_path) == ["DiT-S@40"]
    assert snapshots_due(48, None, 16, tmp_path) == ["DiT-S@40"]
    assert snapshots_due(32, 16, 4, tmp_path) == []
    with pytest.raises(InputError, match="40 images have passed, DiT-S has seen 56"):
        snapshots_due(56, 8, 32, tmp_path)
