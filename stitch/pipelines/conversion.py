"""Denoisers that predict something else than the pipeline's scheduler expects."""

from typing import Any

import torch
from torch import Tensor

from models.errors import InputError
from samplers.prediction import convert

# What ``samplers.prediction`` calls the prediction types of diffusers' schedulers.
TYPES = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}


def check_type(setting: str, predicts: Any) -> None:
    """Raise InputError, naming the ``setting``, for a prediction type that cannot be converted."""
    if predicts not in TYPES:
        raise InputError(f"{setting}={predicts!r} cannot be converted; known: {', '.join(TYPES)}")


def converted(output: Any, sample: Tensor, t: float, predicts: str, scheduler: Any) -> Any:
    """A denoiser's answer as the scheduler expects it.

    Args:
        output: diffusers' output, or a tuple that begins with (B, C or more, H, W).
        sample: (B, C or more, H, W), what the denoiser was given: variance preserving, as
            ``scale_model_input`` makes it; more channels, such as a mask, follow the C latents.
        t: the timestep, a whole number.
        predicts: what the denoiser predicts.
        scheduler: with ``alphas_cumprod`` and ``config.prediction_type``.

    Raises:
        InputError: if the scheduler has no such noise level, or nothing but noise is left there.
    """
    wanted = scheduler.config.prediction_type
    if predicts == wanted:
        return output
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if wanted not in TYPES or alphas is None or t != int(t):
        raise InputError(
            f"predicts={predicts}: at timestep {t:g} of {type(scheduler).__name__} it cannot be "
            f"converted to {wanted}; stitch denoisers that predict the same"
        )
    alpha_bar = float(alphas[int(t)])
    if alpha_bar == 0 and predicts == "epsilon":
        raise InputError(
            f"predicts=epsilon: at timestep {t:g} of {type(scheduler).__name__} there is only "
            f"noise, which says nothing of {wanted}; stitch denoisers that predict the same"
        )
    channels = min(output[0].shape[1], sample.shape[1])
    prediction, rest = output[0][:, :channels], output[0][:, channels:]
    levels = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    answer = convert(prediction, sample[:, :channels], *levels, TYPES[predicts], TYPES[wanted])
    answer = torch.cat([answer, rest], dim=1)
    return (answer, *output[1:]) if isinstance(output, tuple) else type(output)(sample=answer)
