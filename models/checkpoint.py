"""Loading and saving of weights: never unpickled unsafely, never half written."""

import argparse
import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another network."""


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds all of it or does not change, even if killed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_checkpoint(module: nn.Module, path: str | Path, provenance: dict) -> None:
    """Store a module as float16 safetensors with a provenance record ``<stem>.json`` beside it.

    Args:
        module: floating-point entries are stored as float16, others as they are.
        path: ends in ``.safetensors``.
        provenance: facts about the making; the weights' SHA-256 is added.
    """
    state = {
        name: value.to(torch.float16) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    save_tensors(state, path, provenance)


def save_tensors(tensors: dict[str, Tensor], path: str | Path, provenance: dict) -> None:
    """Store named tensors as safetensors, with a provenance record beside them."""
    path = Path(path)
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, save(contiguous))
    record = {"file": path.name, "sha256": sha256_of(path), **provenance}
    write_atomically(record_path(path), (json.dumps(record, indent=2) + "\n").encode())


def record_path(path: str | Path) -> Path:
    """Where the provenance record of a file is."""
    return Path(path).with_suffix(".json")


def load_checkpoint(module: nn.Module, path: str | Path) -> None:
    """Load weights into ``module``, in place; they are cast to its dtypes.

    Args:
        path: ``.safetensors``, or ``.pt`` / ``.ckpt`` holding a plain state dict or one under the
            key ``ema`` (preferred), as DiT's training script writes. Pickles are read with
            ``weights_only``. If a provenance record ``<stem>.json`` lies beside the file, the
            file's SHA-256 is checked against it.

    Raises:
        CheckpointError: if the file is missing, damaged, fails its checksum, or holds another
            architecture; the message names the first differing keys. The module is then unchanged.
    """
    path = Path(path)
    state = read_tensors(path)
    _check_architecture(module.state_dict(), state, path)
    module.load_state_dict(state)


def recorded_sha256(path: str | Path) -> str:
    """SHA-256 of a checkpoint, checked against the provenance record beside it if there is one.

    Raises:
        CheckpointError: if the file is missing or differs from its record.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    actual = sha256_of(path)
    record = record_path(path)
    expected = json.loads(record.read_text())["sha256"] if record.is_file() else actual
    if actual != expected:
        raise CheckpointError(
            f"checkpoint {path} is damaged or was changed: its SHA-256 is {actual[:16]}..., "
            f"{record.name} says {expected[:16]}...; restore the file (git checkout, or download)"
        )
    return actual


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, checked against its provenance record if there is one.

    Raises:
        CheckpointError: if it is missing, damaged, or holds more than tensors.
    """
    path = Path(path)
    recorded_sha256(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # DiT's training script stores its parsed arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    except Exception as error:  # pickle.UnpicklingError: refused by weights_only
        raise CheckpointError(
            f"checkpoint {path} was refused, it holds more than tensors: {error}"
        ) from error
    if isinstance(state, dict):
        state = state.get("ema", state)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"checkpoint {path} is no state dict: it must map names to tensors, by itself or under "
            "the key ema"
        )
    return state


def _check_architecture(expected: dict, found: dict, path: Path) -> None:
    problems = [f"{key} is missing" for key in expected if key not in found]
    problems += [f"{key} is not in the network" for key in found if key not in expected]
    problems += [
        f"{key} is {tuple(found[key].shape)}, the network has {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint {path} is of another architecture, {len(problems)} entries differ: "
            + "; ".join(problems[:3])
            + ("; ..." if len(problems) > 3 else "")
        )
