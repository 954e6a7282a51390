"""What the stitches of a ``models.stitched.StitchedDiT`` are trained on."""

import torch
from torch import Tensor, nn

from samplers.objective import DenoiserObjective


class StitchesObjective(DenoiserObjective):
    """A denoiser's loss of one stitch a step, drawn uniformly (Pan et al. 2023, SN-Netv2).

    An objective as ``models.training.objectives`` describes them; arguments are those of
    ``DenoiserObjective``.
    """

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        parts = super().batch(indices, generator)
        count, device = len(self.network.routes), self.mean.device
        stitch = torch.randint(count, (1,), generator=generator, device=device)
        return *parts, stitch.expand(len(indices))  # ranks take parts, and all the same stitch

    def forward(
        self, x_0: Tensor, noise: Tensor, t: Tensor, y: Tensor, stitch: Tensor
    ) -> dict[str, Tensor]:
        return super().forward(x_0, noise, t, y, stitch=int(stitch[0]))

    @torch.no_grad()
    def fit(self, count: int = 256) -> None:
        """Fit the stitching layers to both parts' tokens for ``count`` images, all noise levels."""
        generator = torch.Generator(self.mean.device).manual_seed(0)
        x_0, noise, t, y, _ = self.batch(self.spread(count), generator)
        x_t = self.schedule.add_noise(x_0, noise, t)
        self.network.fit(x_t, t + self.network.spec.timestep_offset, y)

    def compile(self, **options) -> None:
        """Compile the blocks: the network takes another path every step."""
        for block in self.network.blocks:
            block.compile(**options)

    def evaluate(self, network: nn.Module, test: DenoiserObjective | None) -> dict:
        """Mean squared error of every stitch's predictions, and their mean.

        Args:
            test: the same objective on test latents; None: training latents are predicted.
        """
        name, objective = ("mse", self) if test is None else ("test_mse", test)
        errors = [objective.error(stitch) for stitch in network.stitches()]
        return {name: sum(errors) / len(errors), f"{name}_of_stitches": errors}
