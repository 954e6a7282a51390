"""The training loss of learned-range diffusion models (Nichol & Dhariwal 2021; DiT)."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.errors import InputError
from samplers.prediction import convert, from_x_0
from samplers.schedule import NoiseSchedule, finest


def training_losses(
    output: Tensor,
    x_0: Tensor,
    noise: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    prediction_type: str = "epsilon",
) -> dict[str, Tensor]:
    """Per-sample hybrid loss L_simple + L_vlb of a network's output at x_t.

    Args:
        output: (B, 2C, H, W) prediction and variance logits, or (B, C, H, W) prediction alone.
        x_0: (B, C, H, W) clean latents.
        noise: (B, C, H, W) the noise that made x_t = ``schedule.add_noise(x_0, noise, t)``.
        t: (B,) int64 timesteps.
        schedule: the unspaced training schedule.
        prediction_type: what the network predicts, see ``samplers.prediction``.

    Returns:
        ``mse``: (B,) mean squared error of the prediction; ``vb``: (B,) variational bound in bits
        per dimension, whose gradient reaches the variance logits only (0 without them);
        ``loss``: their sum, as DiT trains it (``vb`` is not rescaled by T / 1000).
    """
    prediction, logits = split_output(output, x_0.shape[1])
    x_t, target = schedule.add_noise(x_0, noise, t), noise
    alpha, sigma = (scale.to(x_0.dtype)[:, None, None, None] for scale in schedule.scales(t))
    if prediction_type != "epsilon":
        target = from_x_0(x_0, x_t, alpha, sigma, prediction_type)
    mse = (prediction - target).square().flatten(1).mean(1)
    if logits is None:
        return {"loss": mse, "mse": mse, "vb": torch.zeros_like(mse)}
    epsilon = convert(prediction.detach(), x_t, alpha, sigma, prediction_type, "epsilon")
    vb = variational_bound(epsilon, logits, x_0, noise, t, schedule)
    return {"loss": mse + vb, "mse": mse, "vb": vb}


def draw_timesteps(
    count: int,
    num_timesteps: int,
    generator: torch.Generator,
    interval: Sequence[int] | None = None,
) -> Tensor:
    """(count,) int64 training timesteps, uniform over [0, T) or over a part of it.

    Args:
        interval: (low, high), low included and high not: to fine-tune a denoiser on the part of
            the trajectory that an allocation gives it (``stitch.Allocation.interval``).

    Raises:
        InputError: if the interval has no timestep or leaves [0, T).
    """
    low, high = (0, num_timesteps) if interval is None else interval
    if not 0 <= low < high <= num_timesteps:
        raise InputError(
            f"train.interval=[{low}, {high}] must be timesteps with 0 <= low < high <= "
            f"{num_timesteps}"
        )
    return torch.randint(low, high, (count,), generator=generator, device=generator.device)


def split_output(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """(B, 2C or C, H, W) network output -> epsilon (B, C, H, W), variance logits or None."""
    if output.shape[1] == channels:
        return output, None
    return output[:, :channels], output[:, channels:]


def variational_bound(
    epsilon: Tensor, logits: Tensor, x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """(B,) one term of the variational bound, bits per dimension.

    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0, and the discretised Gaussian
    likelihood of x_0 at t = 0.
    """
    tables = _bound_tables(schedule, t.device)[:, t].to(x_0.dtype)[..., None, None, None]
    signal, beta, coef1, coef2, true_log_variance = tables
    x_t = schedule.add_noise(x_0, noise, t)
    predicted_x_0 = x_t / signal.sqrt() - epsilon * (1 / signal - 1).sqrt()
    true_mean = coef1 * x_0 + coef2 * x_t
    mean = coef1 * predicted_x_0 + coef2 * x_t
    log_variance = learned_range(logits, beta.log(), true_log_variance)

    kl = 0.5 * (
        log_variance
        - true_log_variance
        + torch.exp(true_log_variance - log_variance)
        + (true_mean - mean).square() * torch.exp(-log_variance)
        - 1.0
    )
    nll = -discretised_gaussian_log_likelihood(x_0, mean, 0.5 * log_variance)
    bound = torch.where(t.view(-1, 1, 1, 1) == 0, nll, kl)
    return bound.flatten(1).mean(1) / math.log(2.0)


@functools.lru_cache(maxsize=8)
def _bound_tables(schedule: NoiseSchedule, device: torch.device) -> Tensor:
    """(5, T) on ``device``, ``finest``: the tables of the bound, made once for a whole training."""
    process = schedule.respaced(list(range(schedule.num_timesteps - 1, -1, -1)))
    tables = (
        process.alphas_cumprod,
        process.betas,
        process.posterior_mean_coef1,
        process.posterior_mean_coef2,
        process.posterior_log_variance_clipped,
    )
    # The tables are in sampling order, in which t descends; the bound looks them up by t.
    return torch.stack([table.flip(0) for table in tables]).to(device, finest(device))


def learned_range(logits: Tensor, log_beta: Tensor, posterior_log_variance: Tensor) -> Tensor:
    """Log-variance between the two bounds, log-linear in logits [-1, 1].

    Nichol & Dhariwal 2021, eq. 15.
    """
    fraction = (logits + 1) / 2
    return fraction * log_beta + (1 - fraction) * posterior_log_variance


def discretised_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Elementwise log-probability of x in [-1, 1] in 255 bins, tanh approximation of the CDF.

    Ho et al. 2020, eq. 13, for images; DiT's diffusion module applies it to latents too.
    """

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    inverse_scale = torch.exp(-log_scale)
    upper = cdf((x - mean + 1 / 255) * inverse_scale)
    lower = cdf((x - mean - 1 / 255) * inverse_scale)
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return probability.clamp(min=1e-12).log()
