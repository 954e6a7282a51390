"""What prompts speak of."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from models.errors import InputError


def named_classes(prompts: Sequence[str], words: Sequence[Sequence[str]]) -> Tensor:
    """(N,) int64: the class that each prompt names, by the longest of its words in the prompt.

    Args:
        words: what every class is called, in lower case; with or without s or es of a plural.

    Raises:
        InputError: for a prompt that names none, or two by words of one length.
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
        (len(word), label)
        for label, names in enumerate(words)
        for word in names
        if re.search(rf"\b{re.escape(word)}(?:e?s)?\b", prompt.lower())
    ]
    longest = max((length for length, _ in found), default=0)
    labels = {label for length, label in found if length == longest}
    if len(labels) != 1:
        count = "none" if not labels else f"{len(labels)}"
        raise InputError(
            f"prompt {number + 1}, {prompt!r}, names {count} of the classes of eval.words; give "
            "prompts that name one, or leave agreement out of eval.metrics"
        )
    return labels.pop()
