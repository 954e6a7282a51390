"""Immutable records of runs: what was sampled, how it was measured, what came out."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from models.checkpoint import write_atomically


def content_hash(content: dict) -> str:
    """Short hash of plain data; the same content gives the same hash on every machine."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ResultStore:
    """One JSON file per record, named by the hash of its ``run`` and ``protocol``.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, run: dict, protocol: dict) -> Path:
        name = content_hash({"run": run, "protocol": protocol})
        return self.folder / f"{name}.json"

    def get(self, run: dict, protocol: dict) -> dict | None:
        """The record of that run under that protocol, or None."""
        path = self.path(run, protocol)
        return json.loads(path.read_text()) if path.is_file() else None

    def add(self, record: dict) -> Path:
        """Store a record; an existing one is never changed.

        Args:
            record: holds ``run`` and ``protocol``, and whatever was measured.

        Raises:
            FileExistsError: if there is one of the same run and protocol.
        """
        path = self.path(record["run"], record["protocol"])
        if path.exists():
            raise FileExistsError(f"{path} exists; records are immutable")
        write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
        return path

    def all(self) -> Iterator[dict]:
        """Every record, sorted by name."""
        for path in sorted(self.folder.glob("*.json")):
            yield json.loads(path.read_text())
