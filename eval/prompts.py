"""What prompts speak of."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from models.errors import InputError


def named_classes(prompts: Sequence[str], words: Sequence[Sequence[str]]) -> Tensor:
    """(N,) int64: the class that each prompt names.

    Args:
        words: what every class is called, in lower case; with or without s or es of a plural. A
            word inside a longer one does not count.

    Raises:
        InputError: for a prompt that names none, or several.
    """
    known: dict[str, int] = {}
    classes = []
    for number, prompt in enumerate(prompts):
        if prompt not in known:
            known[prompt] = _named(number, prompt, words)
        classes.append(known[prompt])
    return torch.tensor(classes)


def _named(number: int, prompt: str, words: Sequence[Sequence[str]]) -> int:
    found = [
        (match.span(), label)
        for label, names in enumerate(words)
        for word in names
        for match in re.finditer(rf"\b{re.escape(word)}(?:e?s)?\b", prompt.lower())
    ]
    # A shirt is not named by "t-shirt".
    labels = {
        label
        for (start, stop), label in found
        if not any(a <= start and stop <= b and (a, b) != (start, stop) for (a, b), _ in found)
    }
    if len(labels) != 1:
        count = "none" if not labels else f"{len(labels)}"
        raise InputError(
            f"prompt {number + 1}, {prompt!r}, names {count} of the classes of eval.words; give "
            "prompts that name one, or leave agreement out of eval.metrics"
        )
    return labels.pop()
