"""Networks by name."""

from collections.abc import Callable

from torch import nn

from models import dit, first_stage, unet, uvit
from models.classifier import Classifier, ResNetClassifier
from models.errors import InputError
from models.stitched import StitchedDiT
from models.text import TextEncoder, TextUNet

# architecture -> constructor with every size as a keyword
_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "DiT": dit.DiT,
    "U-Net": unet.LDM,
    "U-ViT": uvit.UViT,
    "stitched-DiT": StitchedDiT,
    "classifier": Classifier,
    "classifier-resnet": ResNetClassifier,
    "text-encoder": TextEncoder,
    "text-unet": TextUNet,
    "first-stage-kl": first_stage.KLFirstStage,
    "first-stage-vq": first_stage.VQFirstStage,
    "first-stage-tiny": first_stage.TinyFirstStage,
    "first-stage-identity": first_stage.IdentityFirstStage,
}
_CONFIGURATIONS = {
    name: (architecture, sizes)
    for architecture, table in (
        ("DiT", dit.CONFIGURATIONS),
        ("U-Net", unet.CONFIGURATIONS),
        ("U-ViT", uvit.CONFIGURATIONS),
    )
    for name, sizes in table.items()
} | first_stage.CONFIGURATIONS


def names() -> list[str]:
    """Every name that ``create`` takes."""
    return [*_CONFIGURATIONS, *_ARCHITECTURES]


def create(name: str, **overrides) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: a published configuration such as ``DiT-XL/2`` (ImageNet 256: latents (4, 32, 32),
            1000 classes, learned sigma), or an architecture (``DiT``) whose sizes are all given.
        overrides: constructor arguments that replace the configuration's.

    Raises:
        InputError: for an unknown name or argument, listing the known ones.
    """
    if name not in _CONFIGURATIONS and name not in _ARCHITECTURES:
        raise InputError(f"unknown network {name!r}; known: {', '.join(names())}")
    architecture, sizes = _CONFIGURATIONS.get(name, (name, {}))
    constructor = _ARCHITECTURES[architecture]
    try:
        return constructor(**{**sizes, **overrides})
    except TypeError as error:
        raise InputError(f"{name}: {error}") from error
