"""Recipes of trainings (``configs/train``), and the sizes of the networks that they train."""

from collections.abc import Collection, Sequence

import torch
from omegaconf import DictConfig, OmegaConf

from models import stitched, variants
from models.errors import InputError
from models.zoo import ROOT
from models.zoo import names as names_of_zoos

# What ``train`` has that is not a recipe's; ``interval`` becomes one's, see ``scripts.train``.
OF_THE_COMMAND = ("minutes", "init", "interval", "denoisers", "snapshots")


def recipes(
    config: DictConfig,
    device: torch.device,
    names: Sequence[str] | None = None,
    given: Collection[str] = (),
) -> list[DictConfig]:
    """The chosen recipe, or those of ``names``, or all of the zoo in order of dependence.

    Args:
        device: where a recipe has values of its own for a GPU (``on_gpu``), they hold there.
        given: settings of ``train`` that a user gave, which hold on a GPU too.

    Raises:
        InputError: if the zoo has no recipes, or none of a name.
    """
    train = {k: v for k, v in config.train.items() if v is not None and k not in OF_THE_COMMAND}
    if "kind" in train:
        chosen = [OmegaConf.create(train)]
    else:
        given = {*given, *train}
        folder = ROOT / "configs" / "train" / config.zoo.name
        if not folder.is_dir():
            known = ", ".join(name for name in names_of_zoos() if (folder.parent / name).is_dir())
            raise InputError(f"zoo={config.zoo.name} has no training recipes; known: {known}")
        parts = ["classifier", "first-stage", config.zoo.first_stage.file, "preview"]
        known = dict.fromkeys([*parts, *config.zoo.denoisers])
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise InputError(
                f"zoo={config.zoo.name} has no recipe of {unknown[0]}; known: {', '.join(known)}"
            )
        files = [folder / f"{name}.yaml" for name in names or known]
        lacking = [file.stem for file in files if not file.is_file()]
        if lacking:
            there = ", ".join(sorted(f"{config.zoo.name}/{path.stem}" for path in folder.iterdir()))
            raise InputError(
                f"zoo={config.zoo.name} has no training recipe of {lacking[0]}, so not all of it "
                f"can be trained; choose one with train=, known: {there}"
            )
        chosen = [OmegaConf.merge(OmegaConf.load(file), train) for file in files]
    for recipe in chosen:
        on_gpu = recipe.pop("on_gpu", {})
        if device.type != "cpu":
            recipe.update({name: value for name, value in on_gpu.items() if name not in given})
    return chosen


def network_config(config: DictConfig, name: str) -> dict:
    """Architecture and sizes of a network, as the zoo's card has them."""
    others = {
        "classifier": "classifier",
        "first-stage": "first_stage",
        "first-stage-ft": "first_stage",
        "preview": "preview",
    }
    if name == "stitched":
        return stitched.sizes(OmegaConf.to_container(config.zoo, resolve=True))
    denoiser = variants.base(name)
    entry = config.zoo[others[name]] if name in others else config.zoo.denoisers[denoiser]
    sizes = OmegaConf.to_container(entry, resolve=True)
    return {key: value for key, value in sizes.items() if key != "file"}
