"""Feature extractors: uint8 images to what the metrics are computed on.

Each gives some of three kinds: ``features`` (Frechet distance, KID, precision and recall),
``spatial`` (sFID) and ``logits`` (Inception Score). Its class says which (``kinds``), and by what
``network``; its metrics follow.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_dinov2 import MODEL_METADATA, FeatureExtractorDinoV2
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import register_feature_extractor

from eval.clip import Clip
from eval.metrics import METRICS
from models.checkpoint import load_checkpoint, read_tensors
from models.classifier import Classifier, ResNetClassifier
from models.errors import InputError
from models.files import sha256_of
from models.weights import CheckpointError
from stitch.transfer import Arriving, ahead, onto


class ClassifierFeatures(FeatureExtractorBase):
    """A zoo's own classifier as a torch-fidelity feature extractor.

    ``features`` are the penultimate ones (FID, KID, precision and recall), ``logits`` the classes'
    (Inception Score). Registered in torch-fidelity under the names in ``CLASSIFIERS``; give the
    weights with ``feature_extractor_weights_path``.

    Args:
        name: the name it is registered under.
        features_list: which of ``features`` and ``logits``.
        feature_extractor_weights_path: ``checkpoints/ZOO/classifier.safetensors``.
    """

    network, kinds = "classifier", ("features", "logits")

    def __init__(self, name: str, features_list, feature_extractor_weights_path, **kwargs):
        super().__init__(name, features_list)
        self.classifier = CLASSIFIERS[name]()
        load_checkpoint(self.classifier, feature_extractor_weights_path)
        self.eval().requires_grad_(False)

    @classmethod
    def get_provided_features_list(cls):
        return cls.kinds

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        layers = {"isc": "logits", "fid": "features", "kid": "features", "prc": "features"}
        return layers[metric]

    @staticmethod
    def can_be_compiled():
        return True

    def get_dummy_input_for_compile(self):
        return (torch.rand([4, *self.classifier.image_shape]) * 255).to(torch.uint8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, C or 3, H, W) uint8 of the zoo's size -> wanted features.

        Of three equal channels a grey classifier reads the first.

        Raises:
            InputError: for images of another size, too few channels, or colour that is not read.
        """
        channels, *size = self.classifier.image_shape
        if list(images.shape[2:]) != size or images.shape[1] < channels:
            raise InputError(
                f"images are {_size(images.shape[1:])}, the extractor {self.name} reads "
                f"{_size(self.classifier.image_shape)}; choose the zoo's evaluation (eval=ZOO)"
            )
        # A GPU has to be waited for to tell; images of one channel need not be asked.
        if channels == 1 < images.shape[1] and (images != images[:, :1]).any():
            raise InputError(f"images are in colour, the extractor {self.name} reads grey ones")
        features, logits = self.classifier(images[:, :channels])
        both = {"features": features, "logits": logits}
        return tuple(both[name] for name in self.features_list)


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{height}x{width}x{channels}"


# Name in torch-fidelity -> the network.
CLASSIFIERS = {
    "fashion-classifier": Classifier,
    "imagenette64-classifier": ResNetClassifier,
}
for _name in CLASSIFIERS:
    register_feature_extractor(_name, ClassifierFeatures)


class InceptionFeatures(FeatureExtractorInceptionV3):
    """The Inception network of ADM's evaluator, in torch-fidelity's port from TensorFlow.

    ``features`` are the 2048 of the last pooling, ``logits`` the 1008 classes' without bias, and
    ``spatial`` the first 7 channels of the 17x17 map that TensorFlow calls mixed_6/conv, channels
    last, 2023 numbers.

    Args:
        name: ``inception-v3-compat``.
        weights: torch-fidelity's ``.pth``.
    """

    network, kinds = "inception", ("features", "logits", "spatial")

    def __init__(self, name: str, weights: Path):
        # torch-fidelity unpickles without precaution; a file that passes here carries no code.
        read_tensors(weights)
        try:
            super().__init__(name, ["2048", "logits_unbiased"], str(weights))
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise CheckpointError(
                f"{weights} is not torch-fidelity's Inception: {first[:200]}"
            ) from error
        self.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module, inputs, output: Tensor) -> None:
        self.spatial = output[:, :7].permute(0, 2, 3, 1).flatten(1)

    def get_requested_features_list(self):
        return self.kinds

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 1 or 3, H, W) uint8 (gray is repeated) -> (N, 2048), (N, 1008), (N, 2023)."""
        features, logits = super().forward(images.expand(-1, 3, -1, -1))
        return features, logits, self.spatial


class DinoFeatures(FeatureExtractorDinoV2):
    """DINOv2 by torch-fidelity; ``features`` are its class token.

    Args:
        name: ``dinov2-vit-l-14`` or another size.
        weights: Meta's ``.pth`` in the folder ``checkpoints`` of a torch.hub folder that has the
            network's code beside it: torch-fidelity loads both from there.

    Raises:
        CheckpointError: if it is elsewhere, or the code is missing.
    """

    network, kinds = "dinov2", ("features",)

    def __init__(self, name: str, weights: Path):
        hub = weights.absolute().parent.parent
        if weights.absolute().parent.name != "checkpoints":
            raise CheckpointError(f"{weights} must be in a folder named checkpoints")
        if not list(hub.glob("facebookresearch_dinov2_*")):
            raise CheckpointError(
                f"DINOv2's code is missing: put https://github.com/facebookresearch/dinov2 "
                f"at {hub / 'facebookresearch_dinov2_main'}"
            )
        before = torch.hub.get_dir()
        torch.hub.set_dir(hub)
        try:
            super().__init__(name, ["dinov2"])
        finally:
            torch.hub.set_dir(before)

    def get_requested_features_list(self):
        return self.kinds

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 1 or 3, H, W) uint8 (gray is repeated) -> (N, 384 to 1536)."""
        return super().forward(images.expand(-1, 3, -1, -1))


class InceptionClipFeatures(InceptionFeatures):
    """``InceptionFeatures`` and, as ``clip``, the image features of a CLIP (see ``eval.clip``)."""

    kinds = (*InceptionFeatures.kinds, "clip")

    def __init__(self, weights: Path, clip: Clip):
        super().__init__("inception-v3-compat", weights)
        self.clip = clip
        self.clip_identity, self.of_prompts = clip.identity, clip.of_prompts

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """As ``InceptionFeatures``, with (N, D) ``clip``."""
        return *super().forward(images), self.clip(images)


EXTRACTORS: dict[str, type[FeatureExtractorBase]] = {
    **dict.fromkeys(CLASSIFIERS, ClassifierFeatures),
    "inception-v3-compat": InceptionFeatures,
    "inception-clip": InceptionClipFeatures,
    **dict.fromkeys(MODEL_METADATA, DinoFeatures),
}


def known_metrics(name: str) -> list[str]:
    """The metrics that an extractor gives the features for.

    Raises:
        InputError: for an unknown extractor.
    """
    if name not in EXTRACTORS:
        raise InputError(f"unknown feature extractor {name!r}; known: {', '.join(EXTRACTORS)}")
    made = EXTRACTORS[name]
    return [
        metric.name
        for metric in METRICS.values()
        if metric.features in made.kinds
        and (not metric.networks or made.network in metric.networks)
    ]


def create_extractor(
    name: str, weights: str | Path, device="cpu", clip: str | None = None
) -> FeatureExtractorBase:
    """A feature extractor on ``device``; ``get_requested_features_list()`` names what it gives.

    Args:
        clip: of ``inception-clip``, where CLIP's weights are; see ``eval.clip``.

    Raises:
        InputError: for an unknown name.
        CheckpointError: if ``weights`` are missing or damaged.
    """
    known_metrics(name)
    made = EXTRACTORS[name]
    if made is ClassifierFeatures:  # its arguments are torch-fidelity's
        extractor = made(name, list(made.kinds), weights)
    elif made is InceptionClipFeatures:
        extractor = made(Path(weights), Clip(clip))
    else:
        extractor = made(name, Path(weights))
    return extractor.to(device)


def find_weights(path: str | Path, url: str | None = None) -> Path:
    """The weights at ``path``, or in torch.hub's cache under the same name.

    Raises:
        CheckpointError: if they are in neither, saying what to put where; or if a hash in the
            name, as torch.hub has it, is not the file's.
    """
    path = Path(path)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / path.name
    for place in (path, cached):
        if place.is_file():
            expected = re.search(r"-([0-9a-f]{8,})\.", place.name)
            if expected and not sha256_of(place).startswith(expected[1]):
                raise CheckpointError(
                    f"{place} is damaged: its SHA-256 does not begin with {expected[1]}, as its "
                    "name says; delete it and download it again"
                )
            return place
    source = f" download {url} and" if url else ""
    raise CheckpointError(
        f"eval.weights={path} does not exist, neither does {cached};{source} put it at {path}"
    )


@torch.no_grad()
def extract(
    extractor: FeatureExtractorBase,
    batches: Iterable[Tensor],
    kinds: Sequence[str] | None = None,
    check: Callable[[Mapping[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """Features of (B, C, H, W) uint8 batches: kind -> (N, D) float32 on the CPU.

    The batches are cut as the caller does; on one machine their size changes rounding only.

    Args:
        kinds: those to keep; None keeps all that the extractor gives.
        check: called with the features of the first batch.

    Raises:
        FloatingPointError: if a feature is not finite.
    """
    device = next(extractor.parameters()).device
    names = extractor.get_requested_features_list()
    rows: dict[str, list[Tensor]] = {kind: [] for kind in kinds or names}
    done = 0
    # Metrics are known for float32, not for the TF32 that cuDNN takes unless told otherwise. What
    # makes the batches is not to be told so: it may be sampling.
    exact = functools.partial(torch.backends.cudnn.flags, enabled=True, allow_tf32=False)

    def launched() -> Iterator[tuple[int, dict[str, Arriving]]]:
        for batch in batches:
            with exact():
                found = dict(zip(names, extractor(onto(batch, device)), strict=True))
            yield len(batch), {kind: Arriving(found[kind].float()) for kind in rows}

    for count, features in ahead(launched(), device):
        for kind, parts in rows.items():
            parts.append(features[kind].wait())
            if not parts[-1].isfinite().all():
                raise FloatingPointError(
                    f"{kind} of the {count} images after the first {done} are not "
                    "finite: the extractor's weights are broken"
                )
        if check is not None and not done:
            check({kind: parts[0] for kind, parts in rows.items()})
        done += count
    return {kind: torch.cat(parts) if parts else torch.empty(0) for kind, parts in rows.items()}
