"""Files of weights, and the records of their provenance beside them."""

import hashlib
import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.errors import InputError
from models.files import (
    read_json,
    replacing,
    saved_by_library,
    sha256_of,
    write_atomically,
    writing,
)


class CheckpointError(InputError):
    """A checkpoint is damaged, or belongs to another network."""


def save_checkpoint(module: nn.Module, path: str | Path, provenance: dict) -> None:
    """Store a module as float16 safetensors with a provenance record ``<stem>.json`` beside it.

    Args:
        module: floating-point entries are stored as float16, others as they are.
        path: ends in ``.safetensors``.
        provenance: facts about how they were made; the weights' SHA-256 is added.

    Raises:
        InputError: if an entry is not finite in float16; what is at ``path`` stays.
    """
    state = {
        name: value.to(torch.float16) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    for name, value in state.items():
        if not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            raise InputError(
                f"{path} is not written: {name} has {bad} values that are not finite in float16, "
                "whose largest is 65504; train to smaller ones, or store float32 by save_tensors"
            )
    save_tensors(state, path, provenance)


def save_tensors(tensors: dict[str, Tensor], path: str | Path, provenance: dict) -> None:
    """Store named tensors as safetensors, with a provenance record beside them."""
    path = Path(path)
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with writing(path), replacing(path) as temporary, saved_by_library(temporary):
        save_file(contiguous, temporary)
    record = {"file": path.name, "sha256": sha256_of(path), **provenance}
    write_atomically(record_path(path), (json.dumps(record, indent=2) + "\n").encode())


def record_path(path: str | Path) -> Path:
    """Where the provenance record of a file is."""
    return Path(path).with_suffix(".json")


def provenance(path: str | Path) -> dict | None:
    """The provenance record of a file, including its ``sha256``; None if there is none.

    Other JSON beside weights, such as a network's sizes, does not count, nor does the record of a
    file with the same stem and another suffix.

    Raises:
        CheckpointError: if it is damaged.
    """
    record = record_path(path)
    if not record.is_file():
        return None
    try:
        content = read_json(record)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(content, dict) or "sha256" not in content:
        return None
    file = str(content.get("file", Path(path).name))
    if not re.fullmatch("[0-9a-f]{64}", str(content["sha256"])):
        raise CheckpointError(
            f"{record} is damaged: its sha256 is not a hash; restore it, or move it away to use "
            f"{Path(path).name} unchecked"
        )
    return content if Path(file).suffix == Path(path).suffix else None


def weights_files(path: str | Path) -> dict[Path, list[str] | None]:
    """The weight files of ``path``: itself, those of an index, or those in a diffusers folder.

    Returns:
        file -> the weights that an index lists for it, or None without an index.

    Raises:
        CheckpointError: if there are none, or an index is damaged or names files that are missing.
    """
    path = Path(path)
    if path.is_dir():
        names = [f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin")]
        indices = sorted(path.glob("*.index.json"))
        usual = [path / name for name in (*names, *(f"{name}.index.json" for name in names))]
        there = [file for file in usual if file.is_file()] or indices
        if not there or (len(there) > 1 and there == indices):
            found = ", ".join(sorted(file.name for file in path.iterdir())[:10]) or "nothing"
            raise CheckpointError(
                f"folder {path} holds no weights: neither {' nor '.join(names)}, nor one index of "
                f"several files (*.index.json); it has {found}"
            )
        path = there[0]
    if not path.is_file():
        broken = f", it is a link to {path.readlink()}, which is gone" if path.is_symlink() else ""
        raise CheckpointError(f"checkpoint {path} does not exist{broken}")
    if path.name.endswith(".index.json"):
        return _indexed(path)
    return {path: None}


def _indexed(index: Path) -> dict[Path, list[str] | None]:
    try:
        content = read_json(index)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    placed = content.get("weight_map") if isinstance(content, dict) else None
    # Plain names only: an untrusted index must not reach into other folders.
    if (
        not isinstance(placed, dict)
        or not placed
        or any(type(name) is not str or Path(name).name != name for name in placed.values())
    ):
        raise CheckpointError(f"{index} is not an index: its weight_map must map weights to files")
    files: dict[Path, list[str] | None] = {}
    for weight, name in sorted(placed.items(), key=lambda pair: pair[1]):
        files.setdefault(index.parent / name, []).append(weight)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"checkpoint {index} lacks {', '.join(missing)}; get them as well")
    return files


def recorded_sha256(path: str | Path) -> str:
    """SHA-256 of a checkpoint, checked against the provenance record beside it if there is one.

    For several files, it is the hash of their hashes.

    Raises:
        CheckpointError: if a file is missing or differs from its record.
    """
    hashes = {file.name: _recorded(file) for file in weights_files(path)}
    if len(hashes) == 1:
        return hashes.popitem()[1]
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _recorded(path: Path) -> str:
    actual = sha256_of(path)
    expected = (provenance(path) or {}).get("sha256", actual)
    if actual != expected:
        raise CheckpointError(
            f"checkpoint {path} is damaged or was changed: its SHA-256 is {actual[:16]}..., "
            f"{record_path(path).name} says {expected[:16]}...; restore the file (git checkout, or "
            "download)"
        )
    return actual
