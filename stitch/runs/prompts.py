"""Prompts: one for each image index, again from the first when there are no more."""

import csv
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.errors import InputError

log = logging.getLogger("prompts")

FILE = "prompts.txt"  # in the folder of the images


def read(wanted: str | Sequence[str], setting: str = "prompts") -> list[str]:
    """The prompts that a setting means.

    Args:
        wanted: prompts; or a file of them, one a line, or a ``.csv`` with a head and (file, prompt)
            rows, as BK-SDM's list of COCO captions.

    Raises:
        InputError: if there is no such file, it holds none, or one is empty.
    """
    if isinstance(wanted, str):
        setting, wanted = f"{setting}={wanted}", _of_file(Path(wanted), f"{setting}={wanted}")
    # An empty prompt is no mistake of the networks, but mostly one of a file.
    prompts = [" ".join(prompt.split()) for prompt in wanted]
    if not prompts:
        raise InputError(f"{setting} has no prompts; give a file of one a line, or a list")
    if "" in prompts:
        raise InputError(f"{setting}: prompt {prompts.index('') + 1} is empty; remove or write it")
    return prompts


def _of_file(path: Path, setting: str) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(
            f"{setting} cannot be read: {reason}; give a text file of one prompt a line, or a list"
        ) from error
    if path.suffix != ".csv":
        return text.rstrip("\n").split("\n") if text.strip() else []
    rows = list(csv.reader(text.splitlines()))[1:]
    short = next((number for number, row in enumerate(rows, 2) if len(row) < 2), None)
    if short is not None:
        raise InputError(f"{setting}: row {short} is not FILE,PROMPT")
    return [row[1] for row in rows]


def encoded(prompts: Sequence[str]) -> bytes:
    """The file of prompts beside images."""
    return "".join(f"{prompt}\n" for prompt in prompts).encode()


def sha256(prompts: Sequence[str]) -> str:
    return hashlib.sha256(encoded(prompts)).hexdigest()


def of_images(folder: Path, run: dict, count: int) -> list[str] | None:
    """The prompt of each of a run's first ``count`` images; None if it has none.

    Raises:
        InputError: if the file of prompts is missing or not the run's.
    """
    if "prompts" not in run:
        return None
    path = folder / FILE
    known = read(str(path)) if path.is_file() else []
    if not known or sha256(known) != run["prompts"]:
        raise InputError(
            f"{path} is missing or not what the images were made with; run scripts.text2image again"
        )
    return [known[index % len(known)] for index in range(count)]


def too_long(tokenizer, prompts: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """(number of the prompt, tokens that fit, what is cut off) of those that a tokenizer cuts."""
    most = tokenizer.model_max_length
    for number, prompt in enumerate(prompts):
        tokens = tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(tokens) > most:
            # The last token that fits is the end of text.
            yield number, most, tokenizer.decode(tokens[most - 1 : -1])


def warn_of_long(tokenizers: Sequence, prompts: Sequence[str]) -> None:
    """Say which part of which prompts the text encoders do not see; of each prompt once."""
    told = set()
    for tokenizer in tokenizers:
        for number, most, rest in too_long(tokenizer, prompts):
            if number not in told:
                log.warning(
                    "warning: prompt %d is longer than the %d tokens that are read; left out: %s",
                    number + 1, most, rest.strip(),
                )  # fmt: skip
            told.add(number)
