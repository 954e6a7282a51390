"""What denoisers are trained on: noisy latents, the loss and its weight."""

import torch
from torch import Tensor, nn

from models.errors import InputError
from samplers.loss import draw_timesteps, training_losses
from samplers.schedule import NoiseSchedule


class DenoiserObjective(nn.Module):
    """The hybrid diffusion loss on latents, with label dropout for guidance (DiT's training).

    An objective as ``models.training.objectives`` describes them.

    Args:
        network: a denoiser, whose spec names its noise schedule.
        mean, std: (M, N, C, H, W) of the latents' posteriors, for N images in M versions (flipped
            or not), on the network's device; or what is indexed like these.
        labels: (N,) int64.
        label_dropout: share of the labels that become the null class.
        interval: (low, high), the timesteps to train on; None: all (see ``draw_timesteps``).
        weighting: of the squared error, see ``loss_weights``.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Tensor,
        std: Tensor,
        labels: Tensor,
        label_dropout: float,
        interval: list[int] | None = None,
        weighting: str | None = None,
    ):
        super().__init__()
        self.network, self.label_dropout, self.interval = network, label_dropout, interval
        self.schedule = NoiseSchedule.create(network.spec.schedule)
        self.mean, self.std, self.labels = mean, std, labels.to(mean.device)
        self.count = len(labels)
        weights = loss_weights(weighting, self.schedule, network.spec.prediction_type)
        self.weights = weights.to(mean.device, torch.float32)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        count, device = len(indices), self.mean.device
        version = torch.zeros_like(indices)
        if len(self.mean) > 1:
            version = torch.randint(len(self.mean), (count,), generator=generator, device=device)
        mean, std = self.mean[version, indices], self.std[version, indices]
        x_0 = mean + std * torch.randn(mean.shape, generator=generator, device=device)
        noise = torch.randn(mean.shape, generator=generator, device=device)
        t = draw_timesteps(count, self.schedule.num_timesteps, generator, self.interval)
        dropped = torch.rand(count, generator=generator, device=device) < self.label_dropout
        y = torch.where(dropped, self.network.spec.null_label, self.labels[indices])
        return x_0, noise, t, y

    def forward(
        self, x_0: Tensor, noise: Tensor, t: Tensor, y: Tensor, **options
    ) -> dict[str, Tensor]:
        x_t = self.schedule.add_noise(x_0, noise, t)
        output = self.network(x_t, t + self.network.spec.timestep_offset, y, **options).float()
        losses = self._losses(output, x_0, noise, t)
        loss = self.weights[t] * losses["mse"] + losses["vb"]
        return {"loss": loss.mean(), "mse": losses["mse"].mean(), "vb": losses["vb"].mean()}

    def compile(self, **options) -> None:
        """Compile the network, but not the look-ups in tables, which would break its graph.

        On a GPU, a transformer's blocks are compiled instead of the whole network: they share one
        program, which saves minutes. On a CPU, the whole network is compiled, which trains faster
        (DiT-XL of imagenette64: 138 images/s against 103).
        """
        blocks = getattr(self.network, "blocks", None) if self.mean.device.type != "cpu" else None
        for part in blocks or [self.network]:
            part.compile(**options)

    def evaluate(self, network: nn.Module, test: "DenoiserObjective | None") -> dict[str, float]:
        """Mean squared error of predictions for training and test latents, always the same draws.

        Args:
            test: the same objective on latents that the network was not trained on; None: there
                are none.
        """
        errors = {"mse": self.error(network)}
        return errors if test is None else {**errors, "test_mse": test.error(network)}

    @torch.no_grad()
    def error(self, network: nn.Module, count: int = 2000) -> float:
        """Mean squared error of predictions for at most ``count`` images, evenly spread."""
        indices = self.spread(count)
        generator = torch.Generator(self.mean.device).manual_seed(0)
        batches = zip(*(part.split(500) for part in self.batch(indices, generator)), strict=True)
        total = 0.0
        for x_0, noise, t, y, *_ in batches:
            x_t = self.schedule.add_noise(x_0, noise, t)
            output = network(x_t, t + network.spec.timestep_offset, y).float()
            total += self._losses(output, x_0, noise, t)["mse"].sum().item()
        return total / len(indices)

    def spread(self, count: int) -> Tensor:
        """Indices of at most ``count`` images, evenly spread: data may be class by class."""
        count = min(count, self.count)
        return torch.arange(count, device=self.mean.device) * self.count // count

    def _losses(self, output: Tensor, x_0: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        kind = self.network.spec.prediction_type
        return training_losses(output, x_0, noise, t, self.schedule, kind)


def loss_weights(
    weighting: str | None, schedule: NoiseSchedule, prediction_type: str = "epsilon"
) -> Tensor:
    """(T,) float64 weights of the squared error of a prediction at every timestep.

    Args:
        weighting: None for 1 (Ho et al. 2020), or ``min-snr-G``: the squared error of x_0 weighs
            min(SNR, G), so that timesteps with little noise do not dominate (Hang et al. 2023, with
            G = 5). For epsilon that is min(SNR, G) / SNR, for v min(SNR, G) / (SNR + 1).

    Raises:
        InputError: for anything else.
    """
    if weighting is None:
        return torch.ones_like(schedule.alphas_cumprod)
    name, _, limit = weighting.rpartition("-")
    of_x_0 = {"epsilon": lambda snr: snr, "v": lambda snr: snr + 1, "x0": torch.ones_like}
    if name != "min-snr" or not limit.isdigit() or prediction_type not in of_x_0:
        raise InputError(
            f"train.weighting={weighting} of a network that predicts {prediction_type} is unknown; "
            "known: null, and min-snr-5 (or another number) for epsilon, v and x0"
        )
    snr = torch.exp(2 * schedule.half_log_snr)
    return snr.clamp(max=float(limit)) / of_x_0[prediction_type](snr)
