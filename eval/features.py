"""Feature extractors: uint8 images to what the metrics are computed on."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import register_feature_extractor

from models.checkpoint import load_checkpoint
from models.classifier import Classifier


class FashionFeatures(FeatureExtractorBase):
    """The fashion zoo's classifier as a torch-fidelity feature extractor.

    ``features`` are the 128 penultimate features (FID, KID, precision and recall), ``logits`` the
    10 classes' (Inception Score). Registered in torch-fidelity as ``fashion-classifier``; give
    the weights with ``feature_extractor_weights_path``.

    Args:
        name: the name it is registered under.
        features_list: which of ``features`` and ``logits``.
        feature_extractor_weights_path: ``checkpoints/fashion/classifier.safetensors``.
    """

    def __init__(self, name: str, features_list, feature_extractor_weights_path, **kwargs):
        super().__init__(name, features_list)
        self.classifier = Classifier()
        load_checkpoint(self.classifier, feature_extractor_weights_path)
        self.eval().requires_grad_(False)

    @staticmethod
    def get_provided_features_list():
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        layers = {"isc": "logits", "fid": "features", "kid": "features", "prc": "features"}
        return layers[metric]

    @staticmethod
    def can_be_compiled():
        return True

    @staticmethod
    def get_dummy_input_for_compile():
        return (torch.rand([4, 1, 28, 28]) * 255).to(torch.uint8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 1 or 3, 28, 28) uint8 (of three equal channels one is read) -> wanted features."""
        features, logits = self.classifier(images[:, :1])
        both = {"features": features, "logits": logits}
        return tuple(both[name] for name in self.features_list)


register_feature_extractor("fashion-classifier", FashionFeatures)


def create_extractor(name: str, weights: str | Path, device="cpu") -> FeatureExtractorBase:
    """A feature extractor on ``device``.

    Raises:
        ValueError: for an unknown name.
        CheckpointError: if ``weights`` are missing or damaged.
    """
    if name != "fashion-classifier":
        raise ValueError(f"unknown feature extractor {name!r}; known: fashion-classifier")
    return FashionFeatures(name, ["features", "logits"], weights).to(device)


@torch.no_grad()
def extract(extractor: FeatureExtractorBase, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Features of (B, C, H, W) uint8 batches: name -> (N, D) float32 on the CPU.

    The batches are cut as the caller does; on one machine their size changes rounding only.
    """
    device = next(extractor.parameters()).device
    rows = [extractor(batch.to(device)) for batch in batches]
    names = extractor.get_requested_features_list()
    return {name: torch.cat([row[i].float().cpu() for row in rows]) for i, name in enumerate(names)}
