"""How long stitched trajectories take, predicted from the times of their steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stitch.allocation import Allocation, simplex

# The calls of every step: see ``stitch.evaluations`` and, for caches, ``Forecast.calls``.
Evaluations = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class CostTable:
    """Seconds that the parts of a batch take.

    Attributes:
        batch: images computed together.
        steps: what is called at a step -> seconds of such a step. A guided step counts as one:
            ``("DiT-S", "DiT-S")``. A forecast is a call as well (see ``stitch.cache.forecast_of``).
        once: seconds per batch outside the denoisers: noise, the sampler's arithmetic, decoding.
        facts: what was measured, on what and when; or what was assumed instead.
    """

    batch: int
    steps: Mapping[tuple[str, ...], float]
    once: float
    facts: Mapping = field(default_factory=dict)

    @classmethod
    def from_throughput(cls, macs: Mapping[str, int], macs_per_second: float) -> "CostTable":
        """The table of a device that runs denoisers at a given rate and all else in no time.

        Args:
            macs: denoiser -> multiply-accumulates of one network call for one image.
        """
        steps = {(name,): count / macs_per_second for name, count in macs.items()}
        return cls(1, steps, 0.0, {"macs_per_second": macs_per_second})

    def seconds(self, evaluations: Evaluations) -> float:
        """Predicted seconds of one batch along a trajectory."""
        return self.once + sum(self._step(step) for step in evaluations)

    def evaluation_seconds(self) -> dict[str, float]:
        """Denoiser -> seconds of one network call for one image."""
        return {
            step[0]: seconds / len(step) / self.batch
            for step, seconds in self.steps.items()
            if len(set(step)) == 1
        }

    def seconds_per_image(self, names: Sequence[str], images: int = 1) -> float:
        """Predicted seconds of one image's network calls, plus all else for ``images`` images."""
        each = self.evaluation_seconds()
        return sum(each[name] for name in names) + self.once / self.batch * images

    def _step(self, step: tuple[str, ...]) -> float:
        if step in self.steps:
            return self.steps[step]
        return sum(self.steps[name,] for name in step)

    def to_json(self) -> dict:
        """Plain data; the inverse of ``from_json``."""
        steps = {"+".join(step): seconds for step, seconds in self.steps.items()}
        return {**self.facts, "batch": self.batch, "once": self.once, "steps": steps}

    @classmethod
    def from_json(cls, content: dict) -> "CostTable":
        steps = {tuple(key.split("+")): value for key, value in content["steps"].items()}
        facts = {k: v for k, v in content.items() if k not in ("batch", "once", "steps")}
        return cls(content["batch"], steps, content["once"], facts)


def candidates(names: Sequence[str], resolution: int, steps: int) -> list[Allocation]:
    """Every allocation of ``names``, in their order, in fractions of 1 / resolution.

    Pairs and single denoisers are included; 66 for three denoisers and tenths.
    """
    return list(
        dict.fromkeys(
            Allocation.from_fractions(dict(zip(names, fractions, strict=True)), steps)
            for fractions in simplex(len(names), resolution)
        )
    )


def lateness(evaluations: Evaluations, macs: Mapping[str, float]) -> float:
    """Multiply-accumulates weighted by position: how much is computed, and how late.

    Ranks allocations of unknown quality. The paper finds that the last steps need the large
    denoiser and the first do not: step i of T weighs (i + 1) / T.
    """
    total = len(evaluations)
    return sum(
        (i + 1) / total * sum(macs[name] for name in step) for i, step in enumerate(evaluations)
    )
