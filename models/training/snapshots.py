"""Averaged weights that a training keeps at chosen ages, counted in images seen."""

from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from models import variants
from models.errors import InputError
from models.training.loop import Training


class Snapshots:
    """Which snapshots are due.

    Args:
        ages: ``train.snapshots``, images seen.
        file: name of a network -> where its weights are stored.
    """

    def __init__(self, ages: Sequence[int], file: Callable[[str], Path]):
        self.ages, self._file = sorted(ages), file

    def check(self, recipes: Sequence[DictConfig]) -> None:
        """Refuse ages that no training of ``recipes`` reaches.

        Raises:
            InputError: naming the first recipe that does not, or is not a denoiser's.
        """
        for recipe in recipes if self.ages else ():
            if recipe.kind != "denoiser":
                raise InputError(
                    f"train.snapshots={self.ages} are of denoisers; {recipe.name} is a "
                    f"{recipe.kind}: choose a denoiser with train=ZOO/NAME"
                )
            if self.ages[-1] > recipe.images:
                raise InputError(
                    f"train.snapshots: {self.ages[-1]} images are beyond the end of the training "
                    f"of {recipe.name}, train.images={recipe.images}"
                )

    def stop(self, images: int, until: int) -> int:
        """``until``, or an age before that comes after ``images``."""
        return min([until, *(age for age in self.ages if age > images)])

    def due(self, training: Training) -> list[str]:
        """The names under which a training's present average is to be stored.

        Raises:
            InputError: if an age has passed and there is no snapshot of it.
        """
        names = []
        # Of the step before, which may have been another machine's.
        part = training.parts[-1] if training.parts else {}
        step = part.get("recipe.batch_size", training.recipe.batch_size)
        for age in self.ages:
            name = variants.aged(training.recipe.name, age)
            if age > training.images or self._file(name).exists():
                continue
            if age <= training.images - step:
                raise InputError(
                    f"train.snapshots: {age} images have passed, {training.recipe.name} has seen "
                    f"{training.images}; leave {age} out, or train it anew with other folders "
                    "(export=, runs=)"
                )
            names.append(name)
        return names
