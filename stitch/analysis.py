"""What recorded trajectories show: how alike two are, and which frequencies a state holds.

A record is (S, B, C, H, W): the states after S steps, collected by a callback of ``stitch.sample``:

    states = []
    stitch.sample(..., callback=lambda x, **_: states.append(x))
    record = torch.stack(states)
"""

import torch
from torch import Tensor

from models.errors import InputError


def cosine_similarity(one: Tensor, other: Tensor) -> Tensor:
    """(S, B) cosine of the angle between the latents of two records, step by step (Figure 3).

    Args:
        one, other: (S, B, C, H, W) records of the same sampler, noise and labels.
    """
    if one.shape != other.shape:
        raise InputError(f"records of shapes {tuple(one.shape)} and {tuple(other.shape)}")
    return torch.cosine_similarity(one.double().flatten(2), other.double().flatten(2), dim=2)


def log_amplitude_spectrum(record: Tensor) -> Tensor:
    """(S, N) mean log amplitude of the latents' Fourier transform by frequency (Figure 11).

    As the official code draws it: log(|FFT2| + 1e-6), mean over batch and channels, along the
    diagonal. Column k is frequency 2 pi k / H in both directions, k < N = (H + 1) // 2.

    Args:
        record: (S, B, C, H, H) states.
    """
    size = record.shape[-1]
    if record.shape[-2] != size:
        raise InputError(f"latents must be square, not {tuple(record.shape[-2:])}")
    amplitude = torch.fft.fft2(record.double()).abs()
    log_amplitude = (amplitude + 1e-6).log().mean(dim=(1, 2))
    frequencies = torch.arange((size + 1) // 2, device=record.device)
    return log_amplitude[:, frequencies, frequencies]
