"""Trajectories that begin alike, computed once up to where they part."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from stitch.trajectory import Trajectory


class SharedPrefix:
    """``denoise`` of one batch's trajectories, which remembers what the one before was answered.

    A denoiser answers the same question with the same bits, so a step need not be evaluated again
    if the trajectory before evaluated the same denoisers at it and came with the same state. That
    holds for every sampler, whatever it remembers from step to step: up to the first step of
    another owner two trajectories are the same.

    Walk the allocations in the order of their ``steps``: neighbours then have the most in common,
    nothing is computed twice, and the predictions of one trajectory are all that is kept.

    Use one for each batch: zoo, sampler, guidance, labels, seed and indices must be the same.

    Attributes:
        evaluated, saved: network evaluations for one image that were made, and that were not.
    """

    def __init__(self):
        self.evaluated = self.saved = 0
        # By step: the denoisers evaluated, the state, the prediction.
        self._kept: list[tuple[tuple[str, ...], Tensor, Tensor]] = []

    def denoise(self, trajectory: Trajectory) -> Callable[[Tensor, int], Tensor]:
        """``denoise(x, step)`` that answers as ``trajectory`` does; steps are asked in order."""

        def answer(x: Tensor, step: int) -> Tensor:
            asked = trajectory.evaluations[step]
            if step < len(self._kept):
                before, state, prediction = self._kept[step]
                if before == asked and torch.equal(state, x):
                    self.saved += len(asked)
                    return prediction
            prediction = trajectory(x, step)
            self.evaluated += len(asked)
            self._kept[step:] = [(asked, x, prediction)]
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
