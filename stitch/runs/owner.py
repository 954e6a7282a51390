"""Whose a sample folder is: its file ``run.json``."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from models.errors import InputError
from models.files import read_json
from stitch.runs.shard_file import ShardError


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn a full disk, a quota or missing rights into one error that says what to do."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"cannot write {path}: {error.strerror}; nothing finished is lost: make room or mend "
            "the folder, and the same command goes on"
        ) from error


def differences(there: dict, here: dict) -> str:
    """The entries in which two runs differ, for a message."""
    return "; ".join(
        f"{key} is {there.get(key)} there and {here.get(key)} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    )


def encoded(owner: dict) -> bytes:
    """The bytes of ``run.json``."""
    return (json.dumps(owner, indent=2) + "\n").encode()


def read_owner(path: Path) -> dict | None:
    """Contents of ``run.json``: run, shard_size and, where stated, num_images and batch_size.

    None if there is no such file, or it is one of somebody else.

    Raises:
        ShardError: if it is damaged.
    """
    file = path / "run.json"
    if not file.is_file():
        return None
    try:
        owner = read_json(file)
    except InputError as error:
        raise ShardError(str(error)) from error
    if not isinstance(owner, dict) or not {"run", "shard_size"} & owner.keys():
        return None
    counts = [owner.get("shard_size"), owner.get("num_images", 1), owner.get("batch_size", 1)]
    if (
        not owner.keys() <= {"run", "shard_size", "num_images", "batch_size"}
        or not isinstance(owner.get("run"), dict)
        or any(type(count) is not int or count < 1 for count in counts)
        or counts[0] % counts[2]
    ):
        raise ShardError(
            f"{file} is damaged: it must say run, shard_size and num_images; run scripts.sample "
            "with another folder"
        )
    return owner
