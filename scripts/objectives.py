"""What each kind of network is trained on: batches, losses, and the figure to report.

An objective is an ``nn.Module`` (so that DDP can wrap it) around the network. ``batch`` draws the
global batch of a step from a generator, ``forward`` turns one rank's slice of it into losses,
``evaluate`` measures the finished network on the test split.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import samplers
from eval.datasets import FashionMNIST
from models.errors import InputError
from models.first_stage import to_unit_range
from samplers.loss import draw_timesteps, training_losses


class ClassifierObjective(nn.Module):
    """Cross-entropy on images shifted by up to ``shift`` pixels, flipped half of the time."""

    def __init__(self, network: nn.Module, data: FashionMNIST, shift: int, smoothing: float):
        super().__init__()
        self.network, self.shift, self.smoothing = network, shift, smoothing
        self.images, self.labels = data.images, data.labels

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        images = self.images[indices]
        flip = torch.rand(len(indices), generator=generator) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        size, pad = images.shape[-1], self.shift
        padded = F.pad(images, (pad, pad, pad, pad))
        rows = torch.randint(0, 2 * pad + 1, (len(indices),), generator=generator)
        columns = torch.randint(0, 2 * pad + 1, (len(indices),), generator=generator)
        rows = (rows[:, None] + torch.arange(size))[:, None, :, None]
        columns = (columns[:, None] + torch.arange(size))[:, None, None, :]
        sample = torch.arange(len(indices))[:, None, None, None]
        channel = torch.arange(images.shape[1])[None, :, None, None]
        return padded[sample, channel, rows, columns], self.labels[indices]

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        _, logits = self.network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    @torch.no_grad()
    def evaluate(self, network: nn.Module, test: FashionMNIST, device) -> dict[str, float]:
        correct = sum(
            (network(images.to(device))[1].argmax(1).cpu() == labels).sum().item()
            for images, labels in zip(test.images.split(500), test.labels.split(500), strict=True)
        )
        return {"test_accuracy": correct / len(test.labels)}


class FirstStageObjective(nn.Module):
    """Absolute error of the reconstruction plus a weak KL term (Rombach et al. 2022, app. G)."""

    def __init__(self, network: nn.Module, data: FashionMNIST, kl_weight: float):
        super().__init__()
        self.network, self.kl_weight, self.images = network, kl_weight, data.images

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        shape = (len(indices), *self.network.latent_shape(self.images.shape[1:]))
        return self.images[indices], torch.randn(shape, generator=generator)

    def forward(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        target = to_unit_range(images)
        posterior = self.network.autoencoder.encode(target).latent_dist
        sample = posterior.mean + posterior.std * noise
        output = self.network.autoencoder.decode(sample).sample.float()
        error = (output - target).abs().mean()
        kl = posterior.kl().mean() / target[0].numel()
        return {"loss": error + self.kl_weight * kl, "absolute_error": error, "kl": kl}

    @torch.no_grad()
    def finish(self, network: nn.Module, device: torch.device) -> None:
        """Give the latents zero mean and unit variance in every channel."""
        first = torch.arange(min(10_000, len(self.images)))
        images, noise = self.batch(first, torch.Generator().manual_seed(0))
        latents = torch.cat(
            [
                network.encode(i.to(device), n.to(device)).cpu()
                for i, n in zip(images.split(500), noise.split(500), strict=True)
            ]
        )
        network.normalise(latents.mean((0, 2, 3)), latents.std((0, 2, 3)))

    def evaluate(self, network: nn.Module, test: FashionMNIST, device) -> dict[str, float]:
        return reconstruction(network, test, device)


class DecoderObjective(nn.Module):
    """Absolute error of a first stage whose encoder, and so whose latents, stay as they are.

    The published Stable-Diffusion autoencoders were fine-tuned so, after their denoisers.
    """

    def __init__(self, network: nn.Module, data: FashionMNIST):
        super().__init__()
        self.network, self.images = network, data.images
        self.mean, self.std = _posteriors(network, data.images)
        network.autoencoder.encoder.requires_grad_(False)
        network.autoencoder.quant_conv.requires_grad_(False)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        noise = torch.randn(self.mean[indices].shape, generator=generator)
        return self.images[indices], self.mean[indices] + self.std[indices] * noise

    def forward(self, images: Tensor, latents: Tensor) -> dict[str, Tensor]:
        output = self.network.autoencoder.decode(latents / self.network.scale).sample.float()
        return {"loss": (output - to_unit_range(images)).abs().mean()}

    def evaluate(self, network: nn.Module, test: FashionMNIST, device) -> dict[str, float]:
        return reconstruction(network, test, device)


class PreviewObjective(nn.Module):
    """Absolute error of a small autoencoder that shares another one's latents (as TAESD does).

    Its decoder learns the images from the other one's latents, its encoder those latents.
    """

    def __init__(self, network: nn.Module, data: FashionMNIST, first_stage: nn.Module):
        super().__init__()
        self.network, self.images = network, data.images
        self.mean, self.std = _posteriors(first_stage, data.images)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        mean, std = self.mean[indices], self.std[indices]
        noise = torch.randn(mean.shape, generator=generator)
        return self.images[indices], mean, mean + std * noise

    def forward(self, images: Tensor, mean: Tensor, sample: Tensor) -> dict[str, Tensor]:
        target = to_unit_range(images)
        decoded = self.network.autoencoder.decode(sample).sample.float()
        encoded = self.network.autoencoder.encode(target).latents.float()
        errors = {
            "decoder_error": (decoded - target).abs().mean(),
            "encoder_error": (encoded - mean).abs().mean(),
        }
        return {"loss": sum(errors.values()), **errors}

    def evaluate(self, network: nn.Module, test: FashionMNIST, device) -> dict[str, float]:
        return reconstruction(network, test, device)


class DenoiserObjective(nn.Module):
    """The hybrid diffusion loss on latents, with label dropout for guidance (DiT's training).

    A recipe's ``interval``, if it has one, restricts the timesteps: see ``draw_timesteps``.
    """

    def __init__(
        self,
        network: nn.Module,
        data: FashionMNIST,
        first_stage: nn.Module,
        label_dropout: float,
        interval: list[int] | None = None,
    ):
        super().__init__()
        self.network, self.label_dropout, self.interval = network, label_dropout, interval
        self.schedule = samplers.NoiseSchedule.create(network.spec.schedule)
        self.labels = data.labels
        self.mean, self.std = _posteriors(first_stage, data.images)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        mean, std = self.mean[indices], self.std[indices]
        x_0 = mean + std * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        t = draw_timesteps(len(indices), self.schedule.num_timesteps, generator, self.interval)
        dropped = torch.rand(len(indices), generator=generator) < self.label_dropout
        y = torch.where(dropped, self.network.spec.null_label, self.labels[indices])
        return x_0, noise, t, y

    def forward(self, x_0: Tensor, noise: Tensor, t: Tensor, y: Tensor) -> dict[str, Tensor]:
        x_t = self.schedule.add_noise(x_0, noise, t)
        output = self.network(x_t, t + self.network.spec.timestep_offset, y).float()
        losses = training_losses(output, x_0, noise, t, self.schedule)
        return {name: value.mean() for name, value in losses.items()}

    @torch.no_grad()
    def evaluate(self, network: nn.Module, test: FashionMNIST, device) -> dict[str, float]:
        """Mean squared error of epsilon on the first training latents, the same draws always."""
        first = torch.arange(min(10_000, len(self.labels)))
        drawn = self.batch(first, torch.Generator().manual_seed(0))
        batches = zip(*(part.split(500) for part in drawn), strict=True)
        total = 0.0
        for x_0, noise, t, y in batches:
            x_t = self.schedule.add_noise(x_0, noise, t)
            t_network = t + network.spec.timestep_offset
            output = network(x_t.to(device), t_network.to(device), y.to(device)).float().cpu()
            total += training_losses(output, x_0, noise, t, self.schedule)["mse"].sum().item()
        return {"mse": total / len(first)}


@torch.no_grad()
def reconstruction(network: nn.Module, test: FashionMNIST, device) -> dict[str, float]:
    """PSNR of the reconstructed test split."""
    squared = 0.0
    for images in test.images.split(500):
        images = images.to(device)
        difference = network.decode(network.encode(images)).float() - images.float()
        squared += difference.square().sum().item()
    return {"test_psnr_db": 10 * math.log10(255.0**2 / (squared / test.images.numel()))}


@torch.no_grad()
def _posteriors(first_stage: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled mean and standard deviation of every image's latents, (N, c, h, w) each."""
    device = next(first_stage.parameters()).device
    means, stds = [], []
    for chunk in images.split(500):
        chunk = chunk.to(device)
        mean = first_stage.encode(chunk)
        means.append(mean.cpu())
        stds.append((first_stage.encode(chunk, torch.ones_like(mean)) - mean).cpu())
    return torch.cat(means), torch.cat(stds)


def create(recipe, network: nn.Module, data: FashionMNIST, first_stage) -> nn.Module:
    """The objective of a recipe; ``first_stage`` is called only if latents are needed."""
    if recipe.kind == "classifier":
        return ClassifierObjective(network, data, recipe.shift, recipe.label_smoothing)
    if recipe.kind == "first-stage":
        return FirstStageObjective(network, data, recipe.kl_weight)
    if recipe.kind == "decoder":
        return DecoderObjective(network, data)
    if recipe.kind == "preview":
        return PreviewObjective(network, data, first_stage())
    if recipe.kind == "denoiser":
        return DenoiserObjective(
            network, data, first_stage(), recipe.label_dropout, recipe.get("interval")
        )
    raise InputError(
        f"train.kind={recipe.kind!r} is unknown; known: classifier, first-stage, decoder, preview, "
        "denoiser"
    )
