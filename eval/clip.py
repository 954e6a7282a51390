"""CLIP's features of images and prompts, by transformers."""

import torch
from torch import Tensor, nn

from models.errors import InputError
from models.weights import CheckpointError
from stitch.runs.hub import Source

_TEXTS = 100  # prompts that are encoded at a time


class Clip(nn.Module):
    """Image and text features of a CLIP (Radford et al. 2021), as its processor prepares them.

    Args:
        repo: of the hub, or a folder.

    Attributes:
        identity: what tells its weights from any others.

    Raises:
        InputError: without transformers, or without ``repo``.
        CheckpointError: if its weights are missing.
    """

    def __init__(self, repo: str | None):
        super().__init__()
        if repo is None:
            raise InputError("eval.clip is not set; give a CLIP, or leave clip out of eval.metrics")
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError as error:
            raise InputError(
                "the CLIP score needs transformers: pip install -r requirements-pipelines.txt, or "
                "leave clip out of eval.metrics"
            ) from error
        source = Source(repo, setting="eval.clip")
        folder = str(source.folder())
        self.identity = source.identity()
        try:
            self.model = CLIPModel.from_pretrained(folder, use_safetensors=True)
            self.processor = CLIPProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"eval.clip={repo} cannot be loaded: {error}") from error
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1 or 3, H, W) uint8 -> (N, D) features."""
        pixels = list(images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy())
        inputs = self.processor(images=pixels, return_tensors="pt").to(self.model.device)
        return self.model.get_image_features(**inputs).pooler_output

    @torch.no_grad()
    def of_prompts(self, prompts: list[str]) -> Tensor:
        """(N, D) features of N prompts, cut off where CLIP ends."""
        found = []
        for start in range(0, len(prompts), _TEXTS):
            inputs = self.processor(
                text=prompts[start : start + _TEXTS],
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            ).to(self.model.device)
            found.append(self.model.get_text_features(**inputs).pooler_output)
        return torch.cat(found)
