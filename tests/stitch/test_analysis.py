"""Similarity and spectra of recorded trajectories, on records whose answer is known."""

import math

import pytest
import torch

from models.errors import InputError
from stitch.analysis import cosine_similarity, log_amplitude_spectrum


def test_cosine_similarity_of_known_angles():
    one, other = torch.zeros(3, 2, 1, 2, 2), torch.zeros(3, 2, 1, 2, 2)
    one[..., 0, 0] = 5.0
    for step, angle in enumerate([0.0, 1.0, math.pi]):
        other[step, :, 0, 0, 0], other[step, :, 0, 1, 1] = math.cos(angle), math.sin(angle)
    expected = torch.tensor([1.0, math.cos(1.0), -1.0], dtype=torch.float64)
    similarity = cosine_similarity(one, other)
    torch.testing.assert_close(similarity, expected[:, None].expand(3, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(cosine_similarity(3 * one, other), similarity, rtol=0, atol=1e-5)


def test_a_plane_wave_has_one_frequency():
    size, k = 8, 3
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    wave = torch.cos(2 * math.pi * k * (row + column) / size)
    spectrum = log_amplitude_spectrum(wave.expand(2, 3, 4, size, size))
    assert spectrum.shape == (2, 4)
    # A cosine of amplitude 1 puts half of its size * size values into each of +k and -k.
    assert spectrum[0, k].item() == pytest.approx(math.log(size * size / 2), abs=1e-5)
    others = [i for i in range(4) if i != k]
    assert spectrum[:, others].max() < -10
    assert (spectrum[0] - spectrum[1])[k].abs() < 1e-5


def test_white_noise_has_a_flat_spectrum():
    noise = torch.randn(1, 2000, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    spectrum = log_amplitude_spectrum(noise)[0]
    # E log |z| of a complex normal with variance 36: (log 36 - Euler's constant) / 2.
    assert spectrum[1].item() == pytest.approx((math.log(36) - 0.57722) / 2, abs=0.03)
    assert spectrum[2].item() == pytest.approx(spectrum[1].item(), abs=0.03)


def test_records_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="shapes"):
        cosine_similarity(torch.zeros(3, 2, 1, 2, 2), torch.zeros(4, 2, 1, 2, 2))
    with pytest.raises(InputError, match="square"):
        log_amplitude_spectrum(torch.zeros(3, 2, 1, 2, 4))
