"""Several denoisers behind one ``denoise``: the idea of the paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from models.errors import InputError
from samplers.guidance import NULL_CLASS, RANDOM_EMBEDDING, Guidance
from samplers.prediction import PREDICTION_TYPES
from samplers.sampler import Denoise
from samplers.schedule import NoiseSchedule
from stitch.alignment import View, views
from stitch.allocation import Allocation


class Wrapper(Protocol):
    """A layer between a sampler and a trajectory, such as ``SharedPrefix`` or a cache."""

    def wrap(self, denoise: Denoise, trajectory: "Trajectory") -> Denoise:
        """Wrap ``denoise`` for one walk, which calls the steps in order.

        Args:
            denoise: the trajectory, or the result of the previous wrapper.
            trajectory: tells which denoisers are called at which step.
        """


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The ``denoise(x, step)`` of a sampler: the step's owner predicts.

    Attributes:
        denoisers: name -> denoiser, called as ``(x, t, y)``, with a ``spec``.
        allocation: the owner of every step.
        timesteps: the sampler's timesteps, one per step.
        labels: (B,) int64 labels of the batch, on the denoisers' device.
        guidance: how conditional and guiding predictions are combined.
        schedule: the sampler's noise schedule. Denoisers that were trained on another one, or do
            not predict epsilon, are translated (see ``stitch.alignment``). Default: the denoisers'
            schedule, which all must share.
        aligned: whether denoisers of another schedule are called at the timestep of the state's
            log-SNR, or else at the sampler's own.
        embedding: width -> (B, width) random label embeddings, for guidance by those.

    Raises:
        InputError: if steps and timesteps differ in number, if a denoiser is missing, if the
            denoisers do not fit one another (the message names what differs), or if no step is in
            the guidance interval.
    """

    denoisers: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]]
    allocation: Allocation
    timesteps: Sequence[float]
    labels: Tensor
    guidance: Guidance
    schedule: NoiseSchedule | None = None
    aligned: bool = True
    embedding: Callable[[int], Tensor] | None = None

    def __post_init__(self):
        asked = {*self.allocation.denoisers, self.guidance.guide}
        # Others are left alone: a zoo loads a denoiser on first use.
        specs = dict.fromkeys(self.denoisers)
        specs |= {name: self.denoisers[name].spec for name in asked if name in self.denoisers}
        check_fit(specs, self.allocation, len(self.timesteps), self.guidance, self.schedule)
        _ = self.evaluations  # whether any step is guided

    @cached_property
    def evaluations(self) -> list[tuple[str, ...]]:
        """The denoisers evaluated at every step; see the function ``evaluations``."""
        return evaluations(self.allocation, self.guidance, self._schedule.log_snr(self.timesteps))

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """(B, C, H, W) state at ``step`` -> guided epsilon (B, C, H, W), then variance logits."""
        owner, *guide = self.evaluations[step]
        denoiser, t = self._translated(owner, step), self._t(owner, step, x)
        if not guide:
            return denoiser(x, t, self.labels)
        if guide == [owner]:
            return self.guidance(denoiser, x, t, *self._conditions(owner))
        other, other_t = self._translated(guide[0], step), self._t(guide[0], step, x)
        return self.guidance.combine(denoiser(x, t, self.labels), other(x, other_t, self.labels))

    @cached_property
    def _schedule(self) -> NoiseSchedule:
        spec = self.denoisers[self.allocation.steps[0]].spec
        return self.schedule or NoiseSchedule.create(spec.schedule)

    @cached_property
    def _views(self) -> dict[str, list[View]]:
        names = {name for step in self.evaluations for name in step}
        return {
            name: views(self.denoisers[name].spec, self._schedule, self.timesteps, self.aligned)
            for name in names
        }

    def _translated(self, name: str, step: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """A denoiser that takes the sampler's state and returns the sampler's epsilon."""
        denoiser, view = self.denoisers[name], self._views[name][step]
        return lambda x, t, y: view.epsilon(denoiser(view.state(x), t, y).to(x.dtype), x)

    def _t(self, name: str, step: int, x: Tensor) -> Tensor:
        """(1,) float32 timestep of the denoiser at ``step``, embedded once for all images."""
        return torch.full((1,), self._views[name][step].t, device=x.device)

    def _conditions(self, name: str) -> tuple[Tensor, int | Tensor]:
        """Labels or their embeddings, and the counterpart for no class."""
        denoiser = self.denoisers[name]
        if self.guidance.guide == NULL_CLASS:
            return self.labels, denoiser.spec.null_label
        return denoiser.embed_labels(self.labels), self.embedding(denoiser.spec.label_width)


def evaluations(
    allocation: Allocation, guidance: Guidance, log_snr: Sequence[float]
) -> list[tuple[str, ...]]:
    """The denoisers called at every step: the owner once or, if guided, twice or with the guide.

    Their total number is a trajectory's cost: the number of network evaluations (NFE).

    Args:
        log_snr: the log-SNR of the state at every step.

    Raises:
        InputError: if no step is in the guidance interval.
    """
    active = [guidance.active(step, value) for step, value in enumerate(log_snr)]
    if guidance.scale != 1 and not any(active):
        raise InputError(
            f"guidance.steps={guidance.steps}, guidance.log_snr={guidance.log_snr} contain none of "
            f"the {len(log_snr)} steps, whose log-SNR goes from {log_snr[0]:.2f} to "
            f"{log_snr[-1]:.2f}"
        )
    itself = guidance.guide in (NULL_CLASS, RANDOM_EMBEDDING)
    return [
        (owner, owner if itself else guidance.guide)
        if guided and guidance.guide != owner
        else (owner,)
        for owner, guided in zip(allocation.steps, active, strict=True)
    ]


def check_fit(
    specs: Mapping,
    allocation: Allocation,
    steps: int,
    guidance: Guidance | None = None,
    schedule: NoiseSchedule | None = None,
) -> None:
    """Raise InputError unless ``allocation`` can be sampled in ``steps`` steps, guided.

    Args:
        specs: name -> spec of the existing denoisers.
        schedule: the sampler's, to translate to. Without it, the denoisers' schedules and
            prediction types must be the same.
    """
    if len(allocation) != steps:
        raise InputError(
            f"allocation {allocation} has {len(allocation)} steps, the sampler has {steps}"
        )
    names, guided = allocation.denoisers, guidance is not None and guidance.scale != 1
    unknown = [name for name in names if name not in specs]
    if unknown:
        raise InputError(
            f"allocation names unknown denoiser {', '.join(unknown)}; known: {', '.join(specs)}"
        )
    if guided and guidance.guide not in (NULL_CLASS, RANDOM_EMBEDDING):
        if guidance.guide not in specs:
            raise InputError(
                f"guidance.guide={guidance.guide!r} is unknown; known: {NULL_CLASS}, "
                f"{RANDOM_EMBEDDING}, {', '.join(specs)}"
            )
        names = list(dict.fromkeys([*names, guidance.guide]))
    facts = ["latent_shape", "num_classes"]
    if schedule is None:
        facts += ["prediction_type", "schedule"]
    first, *others = names
    for other in others:
        for fact in facts:
            here = getattr(specs[first], fact)
            there = getattr(specs[other], fact)
            if here != there:
                raise InputError(
                    f"{first} and {other} cannot be stitched: their {fact} differ, "
                    f"{here} and {there}"
                )
    channels = specs[first].latent_shape[0]
    if guided and guidance.channels > channels:
        raise InputError(
            f"guidance.channels={guidance.channels}, but the latents of {first} have {channels}"
        )
    for name in names:
        spec = specs[name]
        if spec.prediction_type not in PREDICTION_TYPES:
            raise InputError(
                f"{name} predicts {spec.prediction_type!r}; known: {', '.join(PREDICTION_TYPES)}"
            )
        if guided and guidance.guide == NULL_CLASS and spec.null_label is None:
            raise InputError(
                f"{name} has no null class to be guided by; use guidance.guide={RANDOM_EMBEDDING}, "
                "a denoiser, or guidance.scale=1"
            )
        if guided and guidance.guide == RANDOM_EMBEDDING and spec.label_width is None:
            raise InputError(
                f"{name} takes no label embeddings; guidance.guide={RANDOM_EMBEDDING} needs them"
            )
