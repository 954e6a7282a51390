"""Captions of Fashion-MNIST's photographs, in words for a text encoder.

Every image has one caption, which depends on (seed, index) only: its class in one of several
phrasings. The captions of a drawing end in ``STYLE``.
"""

import hashlib
import itertools
from collections.abc import Sequence

NAMES = (
    "a t-shirt",
    "a pair of trousers",
    "a pullover",
    "a dress",
    "a coat",
    "a sandal",
    "a shirt",
    "a sneaker",
    "a bag",
    "an ankle boot",
)
PHRASINGS = (
    "{}",
    "a photo of {}",
    "a photograph of {}",
    "a picture of {}",
    "a product photo of {}",
    "a catalogue picture of {}",
    "a black and white photo of {}",
    "{} on a black background",
)
STYLE = "drawn in outline"

_PLAIN = tuple(phrase.format(name) for name, phrase in itertools.product(NAMES, PHRASINGS))
# All captions, numbered: class by class, the same of drawings, the style alone, and none.
CAPTIONS = (*_PLAIN, *(f"{caption}, {STYLE}" for caption in _PLAIN), STYLE, "")
STYLE_ALONE, EMPTY = len(CAPTIONS) - 2, len(CAPTIONS) - 1


def caption_number(
    label: int, seed: int, index: int, drawn: bool = False, weak: float = 0.0
) -> int:
    """The number in ``CAPTIONS`` of an image's caption.

    Args:
        label: its class.
        seed, index: what the phrasing depends on; the index is that of the image in its data set.
        drawn: whether the image is a drawing, which its caption then says.
        weak: share of the images whose caption is the style alone, so that it hides the class.
    """
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    phrase = int.from_bytes(digest[:8], "big") % len(PHRASINGS)
    if int.from_bytes(digest[8:16], "big") < weak * 2**64:
        return STYLE_ALONE
    return drawn * len(_PLAIN) + label * len(PHRASINGS) + phrase


def caption_numbers(labels: Sequence[int], seed: int, **style) -> list[int]:
    """``caption_number`` of the images of a data set, from their labels in its order."""
    return [caption_number(label, seed, index, **style) for index, label in enumerate(labels)]


def label_of(number: int) -> int | None:
    """The class that a caption names; None if it names none."""
    return None if number >= STYLE_ALONE else number % len(_PLAIN) // len(PHRASINGS)
