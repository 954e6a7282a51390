"""Recipes of fine-tuned denoisers."""

from omegaconf import DictConfig, OmegaConf

from models import variants
from models.errors import InputError


def tuned(
    recipe: DictConfig, init: str | None, interval: tuple[int, int] | None = None
) -> DictConfig:
    """The recipe of a variant, which has a name of its own.

    Args:
        recipe: the denoiser's.
        init: the first weights: ``checkpoint`` for its exported ones, the name of others, or None
            for random ones.
        interval: the timesteps [low, high) to train on; None: all.

    Returns:
        ``recipe`` itself if nothing differs.

    Raises:
        InputError: if the recipe is not of a denoiser.
    """
    if init is None and interval is None:
        return recipe
    if recipe.kind != "denoiser":
        setting = f"train.init={init}" if init else f"train.interval={list(interval)}"
        raise InputError(f"{setting} is for denoisers; {recipe.name} is a {recipe.kind}")
    changes = {"name": variants.tuned(recipe.name, interval)}
    if interval is not None:
        changes["interval"] = list(interval)
    if init is not None:
        changes["start_from"] = recipe.name if init == "checkpoint" else init
    return OmegaConf.merge(recipe, changes)
