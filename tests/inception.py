"""Random weights for torch-fidelity's Inception, in the layout that it reads."""

from pathlib import Path

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Untrained(FeatureExtractorInceptionV3):
    def load_state_dict(self, *arguments, **settings):
        """Keep what the constructor drew."""


def save_random_inception(path: Path, seed: int = 0) -> None:
    """Weights that keep the activations' size through the layers."""
    torch.save({}, path)
    network = _Untrained("inception-v3-compat", ["2048"], str(path))
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0, 0.05, generator=generator)
            module.bias.normal_(0, 1, generator=generator)
    torch.save(network.state_dict(), path)
