"""Files as published, with deterministic values: ``python -m tests.recipe_weights ZOO FOLDER``.

What an ImageNet zoo does with the weights that everybody can download can so be run at its real
size by those who have none. The images are noise.
"""

import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

import models
from models.zoo import CARDS
from tests import golden


def write(zoo: str, folder: str | Path) -> list[str]:
    """Write the denoisers and the first stage of a zoo's card below ``folder``, where it has them.

    Returns:
        Overrides for the commands: where the files are, and that they are not the published ones.
    """
    card = OmegaConf.load(CARDS / f"{zoo}.yaml")
    folder = Path(folder).resolve()
    card.checkpoints = str(folder)
    made = models.Zoo(card)
    overrides = [f"zoo={zoo}", f"zoo.checkpoints={folder}"]
    for name in [*made.denoisers, "first-stage"]:
        file = made.file(name)
        if file.sha256:
            overrides.append(f"zoo.files.{file.name}.sha256=null")
        if not file.path.exists():
            _save(made.skeleton(name), file.path)
    return overrides


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
