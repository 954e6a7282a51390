"""The classes of a zoo, by number, by name or by ImageNet's number."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import InputError


@dataclass(frozen=True)
class Classes:
    """Classes 0 to ``count`` - 1.

    Attributes:
        count: how many.
        names: of all of them, or empty.
        imagenet: their numbers among ImageNet's 1000, or empty. None is the number of another
            class here.

    Raises:
        InputError: if there are not ``count`` names or numbers, all different in any case, or a
            number is ambiguous.
    """

    count: int
    names: tuple[str, ...] = ()
    imagenet: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for what in ("names", "imagenet"):
            given = getattr(self, what)
            different = len({_key(label) for label in given})
            if given and not self.count == different == len(given):
                raise InputError(
                    f"the card has {self.count} classes, but {len(given)} {what}, {different} of "
                    "them different; list one for each class"
                )
        for index, number in enumerate(self.imagenet):
            if number < self.count and number != index:
                raise InputError(
                    f"the card has {number} both as a class and as ImageNet's number of class "
                    f"{index}; move that class to place {number}"
                )

    def name(self, index: int) -> str:
        """The name of a class, or its number if it has none."""
        return self.names[index] if self.names else str(index)

    def indices(self, labels: Sequence[int | str]) -> list[int]:
        """Classes as numbers.

        Args:
            labels: the zoo's numbers, ImageNet's if known (the two never clash), or names in any
                case.

        Raises:
            InputError: for an unknown class, listing the known ones.
        """
        by_name = {name.lower(): index for index, name in enumerate(self.names)}
        known = {number: index for index, number in enumerate(self.imagenet)}
        known |= {index: index for index in range(self.count)}
        known |= by_name
        keys = [_key(label) for label in labels]
        wrong = [label for label, key in zip(labels, keys, strict=True) if key not in known]
        if wrong:
            raise InputError(
                f"labels {wrong} are not classes of this zoo; its classes are {self._listed()}"
            )
        return [known[key] for key in keys]

    def _listed(self) -> str:
        if not self.names:
            return f"0 to {self.count - 1}"
        numbers = self.imagenet or range(self.count)
        pairs = zip(range(self.count), self.names, numbers, strict=True)
        return ", ".join(
            f"{index} {name}" + (f" (ImageNet's {number})" if self.imagenet else "")
            for index, name, number in pairs
        )


def _key(label: object) -> str | int | None:
    if isinstance(label, str):
        return label.lower()
    whole = hasattr(label, "__index__") and not isinstance(label, bool)
    return operator.index(label) if whole else None
