"""One denoiser of a stitched pipeline."""

from dataclasses import dataclass

from torch import nn


@dataclass
class Member:
    name: str
    network: nn.Module
