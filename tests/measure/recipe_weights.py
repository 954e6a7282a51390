"""Files as published, of made-up values: ``python -m tests.measure.recipe_weights ZOO FOLDER``.

What an ImageNet zoo does with the weights that everybody can download can so be run at its real
size by those who have none. The images are noise.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import nn

import models
from models.files import sha256_of
from models.weights import record_path
from models.zoo import CARDS
from tests import golden


def write(zoo: str, folder: str | Path, denoisers: Sequence[str] | None = None) -> list[str]:
    """Write the denoisers and the first stage of a zoo's card below ``folder``, where it has them.

    A record beside each file says that it is not the published one.

    Args:
        denoisers: those to write; None: all.

    Returns:
        Overrides for the commands.
    """
    card = OmegaConf.load(CARDS / f"{zoo}.yaml")
    folder = Path(folder).resolve()
    card.checkpoints = str(folder)
    write_card(card, denoisers)
    return [f"zoo={zoo}", f"zoo.checkpoints={folder}"]


def write_card(card: DictConfig, denoisers: Sequence[str] | None = None) -> None:
    """Write what ``write`` does, of a zoo whose card may have been changed."""
    made = models.Zoo(card)
    for name in [*(denoisers or made.denoisers), "first-stage"]:
        path = made.file(name).path
        if not record_path(path).exists():
            _save(made.skeleton(name), path)
            record = {"sha256": sha256_of(path), "weights": "deterministic values"}
            record_path(path).write_text(json.dumps(record))


def _save(skeleton: nn.Module, path: Path) -> None:
    state = {
        name: torch.from_numpy(golden.entry(name, value.shape))
        for name, value in skeleton.state_dict().items()
    }
    if hasattr(skeleton, "position_table"):
        state["pos_embed"] = skeleton.position_table()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


if __name__ == "__main__":
    print(*write(*sys.argv[1:]))
