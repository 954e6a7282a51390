"""Trajectories with a common beginning, which is computed once."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from models.errors import InputError
from samplers.sampler import Denoise
from stitch.trajectory import Trajectory


class SharedPrefix:
    """A wrapper that computes the shared beginning of several trajectories of one batch once.

    Two trajectories from the same noise are identical to the bit up to the first step at which
    other denoisers are called. The predictions of one walk are cached, and the next walk reuses
    them up to that step.

    Walk the allocations sorted by ``steps``: neighbours then have the most in common, nothing is
    computed twice, and only the predictions of one trajectory are cached.

    Use one per batch: zoo, sampler, guidance, labels, seed and indices must be the same.

    Attributes:
        evaluated, saved: network evaluations per image that were computed and avoided.
    """

    def __init__(self):
        self.evaluated = self.saved = 0
        self._noise: Tensor | None = None  # the state at the first step
        self._kept: list[tuple[tuple[str, ...], Tensor]] = []  # by step: evaluated, predicted

    def wrap(self, denoise: Denoise, trajectory: Trajectory) -> Denoise:
        """See ``stitch.trajectory.Wrapper``.

        Raises:
            InputError: if ``denoise`` is another wrapper, such as a cache, whose answers depend on
                the steps that it has seen before.
        """
        if denoise is not trajectory:
            raise InputError(
                "a SharedPrefix must stand next to the trajectory, first in wrappers; it cannot be "
                "combined with a cache"
            )
        following = False

        def answer(x: Tensor, step: int) -> Tensor:
            nonlocal following
            asked = trajectory.evaluations[step]
            if step == 0:
                # States are compared at this step only: on a GPU the host waits for the result.
                following = self._noise is not None and torch.equal(self._noise, x)
                self._noise = x
            following = following and step < len(self._kept) and self._kept[step][0] == asked
            if following:
                self.saved += len(asked)
                return self._kept[step][1]
            prediction = denoise(x, step)
            self.evaluated += len(asked)
            self._kept[step:] = [(asked, prediction)]
            return prediction

        return answer


def shared_evaluations(trajectories: Iterable[Sequence[tuple[str, ...]]]) -> list[str]:
    """The denoisers called for one image of every trajectory; shared beginnings count once.

    Args:
        trajectories: the evaluations of every step (see ``stitch.evaluations``), of trajectories
            that differ in their allocations only.
    """
    beginnings = dict.fromkeys(
        tuple(steps[: end + 1]) for steps in trajectories for end in range(len(steps))
    )
    return [name for beginning in beginnings for name in beginning[-1]]
