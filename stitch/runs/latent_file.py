"""The file of one shard of latents: safetensors with their posteriors, labels and a checksum.

The same three functions as ``stitch.runs.shard_file`` has for images.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from stitch.runs.shard_file import ShardError


def encode(latents: np.ndarray, labels: np.ndarray, start: int, run: str) -> bytes:
    """The bytes of a shard file, the same for the same content.

    Args:
        latents: (n, 2, V, c, h, w) float16: mean and deviation of the posterior of every image, in
            V versions: as it is and, if V is 2, flipped.
        labels: (n,) int64.
        start: the global index of the first.
        run: the hash of what determines them.
    """
    mean, std = (np.ascontiguousarray(latents[:, part]) for part in (0, 1))
    facts = {"start": start, "run": run, "sha256": _digest(mean, std, labels)}
    # In one entry: safetensors stores several in any order.
    return save({"mean": mean, "std": std, "labels": labels}, {"facts": json.dumps(facts)})


def load(path: Path) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Latents and labels as ``encode`` takes them, the first global index, and the run's hash.

    Raises:
        FileNotFoundError: if it is not there.
        ShardError: if it is damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads(file.metadata()["facts"])
            mean, std, labels = (file.get_tensor(name) for name in ("mean", "std", "labels"))
        whole = _digest(mean, std, labels) == facts["sha256"]
        start, run = int(facts["start"]), facts["run"]
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if not whole:
        raise ShardError(f"{path} is damaged: its checksum differs")
    return np.stack([mean, std], axis=1), labels, start, run


def length(path: Path) -> int:
    """How many images the file says it has, 0 if it is absent or unreadable."""
    try:
        with safe_open(path, framework="np") as file:
            return file.get_slice("labels").get_shape()[0]
    except (SafetensorError, OSError):
        return 0


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
