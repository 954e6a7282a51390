"""What a zoo's card says otherwise than the one that is shipped under its name."""

import functools
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from models.zoo import CARDS, Zoo


def changes(zoo: Zoo) -> dict[str, Any]:
    """What was changed of denoisers and decoder, such as by the settings of a command.

    Files are named by their hash, but the same weights may be those of another network
    (``zoo.denoisers.DiT-S.num_heads=2``), and a file may have two kinds (``zoo.files.LDM.ema``).

    Returns:
        Place in the card, such as ``denoisers.DiT-S.num_heads`` -> value, None for what was taken
        out; empty for a card that is not shipped.
    """
    file = CARDS / f"{zoo.name}.yaml"
    if not file.is_file():
        return {}
    ours, shipped = _facts(zoo.card, zoo.decoder), _shipped(file, zoo.decoder)
    places = sorted(ours.keys() | shipped.keys())
    return {p: ours.get(p) for p in places if ours.get(p) != shipped.get(p)}


@functools.cache
def _shipped(file: Path, decoder: str) -> dict[str, Any]:
    return _facts(OmegaConf.load(file), decoder)


def _facts(config: DictConfig, decoder: str) -> dict[str, Any]:
    """Place -> value of all that tells what networks compute."""
    card = OmegaConf.to_container(config, resolve=True)
    entries = {f"denoisers.{name}": entry for name, entry in card["denoisers"].items()}
    others = (decoder.replace("-", "_"), "stitched")
    entries |= {name: card[name] for name in others if name in card}
    facts = {
        f"{name}.{key}": value
        for name, entry in entries.items()
        for key, value in entry.items()
        if key != "file"
    }
    averaged = {
        f"files.{k}.ema": entry.get("ema", True) for k, entry in card.get("files", {}).items()
    }
    return facts | averaged
