"""Trajectories that begin alike, computed once up to where they part."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from samplers.sampler import Denoise
from stitch.trajectory import Trajectory


class SharedPrefix:
    """A wrapper that evaluates the shared beginning of several trajectories of one batch once.

    Two trajectories from the same noise are the same, bit by bit, up to the first step at which
    other denoisers are evaluated. The predictions of one walk are cached, and the next walk takes
    them up to that step.

    Walk the allocations in the order of their ``steps``: neighbours then have the most in common,
    nothing is computed twice, and the predictions of one trajectory are all that is kept.

    Use one for each batch: zoo, sampler, guidance, labels, seed and indices must be the same.

    Attributes:
        evaluated, saved: network evaluations for one image that were made, and that were not.
    """

    def __init__(self):
        self.evaluated = self.saved = 0
        self._noise: Tensor | None = None  # the state at the first step
        self._kept: list[tuple[tuple[str, ...], Tensor]] = []  # by step: evaluated, predicted

    def wrap(self, denoise: Denoise, trajectory: Trajectory) -> Denoise:
        """See ``stitch.trajectory.Wrapper``."""
        following = False

        def answer(x: Tensor, step: int) -> Tensor:
            nonlocal following
            asked = trajectory.evaluations[step]
            if step == 0:
                # States are compared here only: on a GPU the host waits for the answer.
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
    """The denoisers evaluated for one image of every trajectory, shared beginnings once.

    Args:
        trajectories: the evaluations of every step (see ``stitch.evaluations``), of trajectories
            that differ in their allocations only.
    """
    beginnings = dict.fromkeys(
        tuple(steps[: end + 1]) for steps in trajectories for end in range(len(steps))
    )
    return [name for beginning in beginnings for name in beginning[-1]]
