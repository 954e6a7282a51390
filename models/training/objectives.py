"""Objectives of classifiers and autoencoders: batches, losses and reported metrics.

An objective is an ``nn.Module`` (so that it can be compiled and distributed) around the network,
with ``count`` training images. ``batch`` draws the global batch of a step from a generator, on the
network's device; ``forward`` turns one rank's part of it into losses; ``evaluate`` measures the
averaged network on the test split. ``finish``, if defined, is applied to it at the end. Data are
objects with ``images`` (N, C, H, W) uint8 and ``labels`` (N,).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.first_stage import to_unit_range
from models.training.augment import Augment


class ClassifierObjective(nn.Module):
    """Cross-entropy with label smoothing on augmented images.

    Args:
        mixup: None, or the value of both Beta parameters by which pairs of images and labels are
            mixed (Zhang et al. 2018, mixup), in one proportion per batch.
    """

    def __init__(
        self,
        network: nn.Module,
        data,
        augment: Augment,
        smoothing: float,
        mixup: float | None = None,
    ):
        super().__init__()
        device = device_of(network)
        self.network, self.augment, self.smoothing = network, augment, smoothing
        self.mixup = mixup
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self.count = len(self.labels)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        images, labels = self.augment(self.images[indices], generator), self.labels[indices]
        share = torch.ones(len(indices), device=images.device)
        others = labels
        if self.mixup is not None:
            # A Beta variable from two Gamma variables, which torch can draw from a generator.
            rates = torch.full((2,), self.mixup, device=images.device)
            first, second = torch._standard_gamma(rates, generator)
            share = (first / (first + second)).expand(len(indices))
            mixed = share[0] * images.float() + (1 - share[0]) * images.roll(1, 0).float()
            images, others = mixed.round().to(torch.uint8), labels.roll(1)
        return images, labels, others, share

    def forward(
        self, images: Tensor, labels: Tensor, others: Tensor, share: Tensor
    ) -> dict[str, Tensor]:
        _, logits = self.network(images)
        first, second = (
            F.cross_entropy(logits.float(), y, label_smoothing=self.smoothing, reduction="none")
            for y in (labels, others)
        )
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": (share * first + (1 - share) * second).mean(), "accuracy": accuracy}

    @torch.no_grad()
    def evaluate(self, network: nn.Module, test) -> dict[str, float]:
        device = device_of(network)
        correct = sum(
            (network(images.to(device))[1].argmax(1).cpu() == labels).sum().item()
            for images, labels in zip(test.images.split(500), test.labels.split(500), strict=True)
        )
        return {"test_accuracy": correct / len(test.labels)}


class FirstStageObjective(nn.Module):
    """Absolute error of the reconstruction plus a weak KL term (Rombach et al. 2022, app. G).

    Args:
        kl_weight: of the divergence in nats per image value.
        classifier: a ``ResNetClassifier`` whose ``distance`` is added, or None; the absolute error
            alone blurs the images.
        feature_weight: of that distance.
    """

    def __init__(
        self,
        network: nn.Module,
        data,
        augment: Augment,
        kl_weight: float,
        classifier: nn.Module | None = None,
        feature_weight: float = 0.0,
    ):
        super().__init__()
        self.network, self.augment, self.kl_weight = network, augment, kl_weight
        # In a list, so that it is not a submodule and is not trained.
        self.classifier, self.feature_weight = [classifier], feature_weight
        self.images = data.images.to(device_of(network))
        self.count = len(self.images)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        images = self.augment(self.images[indices], generator)
        shape = (len(indices), *self.network.latent_shape(images.shape[1:]))
        return images, torch.randn(shape, generator=generator, device=images.device)

    def forward(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        target = to_unit_range(images)
        posterior = self.network.posterior(target)
        latents = self.network.scale * (posterior.mean + posterior.std * noise)
        output = self.network(latents).float()
        error = (output - target).abs().mean()
        kl = posterior.kl().mean() / target[0].numel()
        losses = {"loss": error + self.kl_weight * kl, "absolute_error": error, "kl": kl}
        (classifier,) = self.classifier
        if classifier is not None:
            losses["features"] = classifier.distance(output, target)
            losses["loss"] = losses["loss"] + self.feature_weight * losses["features"]
        return losses

    @torch.no_grad()
    def finish(self, network: nn.Module) -> None:
        """Give the latents zero mean and unit variance in every channel."""
        images = self.images[:10_000]
        generator = torch.Generator(images.device).manual_seed(0)
        shape = (len(images), *network.latent_shape(images.shape[1:]))
        noise = torch.randn(shape, generator=generator, device=images.device)
        latents = torch.cat(
            [network.encode(i, n) for i, n in zip(images.split(500), noise.split(500), strict=True)]
        )
        network.normalise(latents.mean((0, 2, 3)), latents.std((0, 2, 3)))

    def evaluate(self, network: nn.Module, test) -> dict[str, float]:
        return reconstruction(network, test)


class DecoderObjective(nn.Module):
    """Absolute error of a first stage with a frozen encoder, and so with unchanged latents.

    The published Stable Diffusion autoencoders were fine-tuned this way, after their denoisers.
    """

    def __init__(self, network: nn.Module, data):
        super().__init__()
        self.network, self.images = network, data.images.to(device_of(network))
        self.count = len(self.images)
        self.mean, self.std = posteriors(network, self.images)
        network.autoencoder.encoder.requires_grad_(False)
        network.autoencoder.quant_conv.requires_grad_(False)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        return self.images[indices], draw_latents(self.mean, self.std, indices, generator)

    def forward(self, images: Tensor, latents: Tensor) -> dict[str, Tensor]:
        output = self.network(latents).float()
        return {"loss": (output - to_unit_range(images)).abs().mean()}

    def evaluate(self, network: nn.Module, test) -> dict[str, float]:
        return reconstruction(network, test)


class PreviewObjective(nn.Module):
    """Absolute error of a small autoencoder that shares another one's latents (as TAESD does).

    Its decoder learns to decode the other one's latents, its encoder to predict them.
    """

    def __init__(self, network: nn.Module, data, first_stage: nn.Module):
        super().__init__()
        self.network, self.images = network, data.images.to(device_of(network))
        self.count = len(self.images)
        self.mean, self.std = posteriors(first_stage, self.images)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        sample = draw_latents(self.mean, self.std, indices, generator)
        return self.images[indices], self.mean[indices], sample

    def forward(self, images: Tensor, mean: Tensor, sample: Tensor) -> dict[str, Tensor]:
        target = to_unit_range(images)
        decoded = self.network(sample).float()
        encoded = self.network.latents(target).float()
        errors = {
            "decoder_error": (decoded - target).abs().mean(),
            "encoder_error": (encoded - mean).abs().mean(),
        }
        return {"loss": sum(errors.values()), **errors}

    def evaluate(self, network: nn.Module, test) -> dict[str, float]:
        return reconstruction(network, test)


@torch.no_grad()
def reconstruction(network: nn.Module, test) -> dict[str, float]:
    """PSNR of the reconstructed test split."""
    device, squared = device_of(network), 0.0
    for images in test.images.split(500):
        images = images.to(device)
        difference = network.decode(network.encode(images)).float() - images.float()
        squared += difference.square().sum().item()
    return {"test_psnr_db": 10 * math.log10(255.0**2 / (squared / test.images.numel()))}


@torch.no_grad()
def posteriors(first_stage: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled mean and standard deviation of every image's latents, (N, c, h, w) each."""
    chunks = tqdm(images.split(500), desc="latents", unit="chunk", leave=False, disable=None)
    means, stds = zip(*map(first_stage.moments, chunks), strict=True)
    return torch.cat(means), torch.cat(stds)


def draw_latents(mean: Tensor, std: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
    """A sample (B, c, h, w) of the posteriors of ``indices``, given those of all images."""
    mean, std = mean[indices], std[indices]
    return mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)


def device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
