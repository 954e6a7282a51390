"""Networks, first stages, and the ways weights come in. Knows nothing of sampling."""

from models.adapters import save_diffusers
from models.checkpoint import load_checkpoint
from models.registry import create
from models.spec import DenoiserSpec, check_stitchable
from models.weights import CheckpointError
from models.zoo import Zoo, load_zoo

__all__ = [
    "CheckpointError",
    "DenoiserSpec",
    "Zoo",
    "check_stitchable",
    "create",
    "load_checkpoint",
    "load_zoo",
    "save_diffusers",
]
