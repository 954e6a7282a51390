"""What networks predict about x = alpha x_0 + sigma epsilon, and conversions between the types."""

from torch import Tensor

from models.errors import InputError

PREDICTION_TYPES = ("epsilon", "x0", "v", "velocity")


def to_x_0(prediction: Tensor, x: Tensor, alpha: float, sigma: float, kind: str) -> Tensor:
    """The clean latents that a prediction of ``kind`` at the state ``x`` amounts to.

    Args:
        prediction: (B, C, H, W). ``epsilon`` is the noise; ``x0`` the clean latents; ``v`` is
            alpha epsilon - sigma x_0 (Salimans & Ho 2022); ``velocity`` is epsilon - x_0, along
            which rectified flow moves (Liu et al. 2023).
        x: (B, C, H, W).
        alpha, sigma: of x; alpha^2 + sigma^2 need not be 1.
    """
    if kind == "epsilon":
        return (x - sigma * prediction) / alpha
    if kind == "x0":
        return prediction
    if kind == "v":
        return (alpha * x - sigma * prediction) / (alpha**2 + sigma**2)
    if kind == "velocity":
        return (x - sigma * prediction) / (alpha + sigma)
    raise InputError(f"unknown prediction type {kind!r}; known: {', '.join(PREDICTION_TYPES)}")


def from_x_0(x_0: Tensor, x: Tensor, alpha: float, sigma: float, kind: str) -> Tensor:
    """The prediction of ``kind`` at ``x`` that amounts to ``x_0``: the inverse of ``to_x_0``."""
    epsilon = (x - alpha * x_0) / sigma
    if kind == "epsilon":
        return epsilon
    if kind == "x0":
        return x_0
    if kind == "v":
        return alpha * epsilon - sigma * x_0
    if kind == "velocity":
        return epsilon - x_0
    raise InputError(f"unknown prediction type {kind!r}; known: {', '.join(PREDICTION_TYPES)}")


def convert(
    prediction: Tensor, x: Tensor, alpha: float, sigma: float, source: str, target: str
) -> Tensor:
    """A prediction of one type as another, at the same state (arguments as in ``to_x_0``)."""
    if source == target:
        return prediction
    return from_x_0(to_x_0(prediction, x, alpha, sigma, source), x, alpha, sigma, target)
