"""Several denoisers behind one ``denoise``: the idea of the paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.guidance import Guidance
from stitch.allocation import Allocation


@dataclass(frozen=True, eq=False)
class Trajectory:
    """``denoise(x, step)`` of a sampler, answered by the denoiser that owns the step.

    Attributes:
        denoisers: name -> denoiser, called as ``(x, t, y)``, with a ``spec``.
        allocation: the owner of every step.
        timesteps: the sampler's timesteps, one per step.
        labels: (B,) int64 labels of the batch, on the denoisers' device.
        guidance: how conditional and unconditional predictions are combined.

    Raises:
        ValueError: if steps and timesteps differ in number, if a denoiser is not there, or if the
            denoisers do not fit one another (the message names what differs).
    """

    denoisers: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]]
    allocation: Allocation
    timesteps: Sequence[float]
    labels: Tensor
    guidance: Guidance

    def __post_init__(self):
        check_fit(self.denoisers, self.allocation, len(self.timesteps))

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """(B, C, H, W) state at ``step`` -> (B, C or 2C, H, W) guided prediction."""
        denoiser = self.denoisers[self.allocation.steps[step]]
        t = torch.full((len(x),), float(self.timesteps[step]), device=x.device)
        return self.guidance(denoiser, x, t, self.labels, denoiser.spec.null_label)


def check_fit(denoisers: Mapping, allocation: Allocation, steps: int) -> None:
    """Raise ValueError unless ``allocation`` can be sampled in ``steps`` steps."""
    if len(allocation) != steps:
        raise ValueError(
            f"allocation {allocation} has {len(allocation)} steps, the sampler has {steps}"
        )
    unknown = [name for name in allocation.denoisers if name not in denoisers]
    if unknown:
        raise ValueError(
            f"allocation names unknown denoiser {', '.join(unknown)}; known: {', '.join(denoisers)}"
        )
    first, *others = allocation.denoisers
    for other in others:
        for fact in ("latent_shape", "num_classes", "prediction_type", "schedule"):
            here = getattr(denoisers[first].spec, fact)
            there = getattr(denoisers[other].spec, fact)
            if here != there:
                raise ValueError(
                    f"{first} and {other} cannot be stitched: their {fact} differ, "
                    f"{here} and {there}"
                )
