"""Networks, first stages, and the ways weights come in. Knows nothing of sampling."""

from models.checkpoint import CheckpointError, load_checkpoint
from models.layouts import save_diffusers
from models.registry import create
from models.spec import DenoiserSpec, check_stitchable
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
