"""Immutable records of runs: what was sampled, how it was measured, what came out."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.cards import concerns
from models.errors import InputError
from models.files import create_exclusively, read_json


def content_hash(content: dict) -> str:
    """Short hash of plain data; the same content gives the same hash on every machine."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ResultStore:
    """One JSON file per record, named by the hash of its ``run`` and ``protocol``.

    The file also has a checksum of the record, ``sha256``.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, run: dict, protocol: dict) -> Path:
        name = content_hash({"run": run, "protocol": protocol})
        return self.folder / f"{name}.json"

    def get(self, run: dict, protocol: dict) -> dict | None:
        """The record of that run under that protocol, or None.

        Raises:
            InputError: if it is damaged.
        """
        path = self.path(run, protocol)
        return _read(path, required=True) if path.is_file() else None

    def add(self, record: dict) -> Path:
        """Store a record; an existing one is never changed.

        Args:
            record: holds ``run`` and ``protocol``, and whatever was measured.

        Raises:
            ValueError: if it holds NaN or an infinity, which no record may.
            FileExistsError: if there is one of the same run and protocol.
        """
        path = self.path(record["run"], record["protocol"])
        content = {**record, "sha256": _digest(record)}
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        if not create_exclusively(path, text.encode()):
            raise FileExistsError(f"{path} exists; records are immutable")
        return path

    def all(self) -> Iterator[dict]:
        """Every record, sorted by name; JSON files of others are left out.

        Raises:
            InputError: if one is damaged.
        """
        for path in sorted(self.folder.glob("*.json")):
            record = _read(path)
            if record is not None:
                yield record


def _digest(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _read(path: Path, required: bool = False) -> dict | None:
    """The record in a file; None if it is not one of ours and need not be."""
    record = read_json(path)
    ours = isinstance(record, dict) and {"run", "protocol", "metrics"} <= record.keys()
    if not ours and not required:
        return None
    if not ours or not _true(record, path.stem):
        raise InputError(
            f"{path} is damaged or was changed: it is not what its name and its sha256 say; "
            "records are immutable, restore it or move it away"
        )
    return record


def _true(record: dict, name: str) -> bool:
    """Whether a record is as it was stored; its checksum is taken out."""
    parts = [record[key] for key in ("run", "protocol", "metrics")]
    # The first records have no checksum; without one there is nothing but what they had.
    known = record.keys() <= {"run", "protocol", "metrics", "cost", "provenance"}
    digest = record.pop("sha256", None)
    return (
        all(isinstance(part, dict) for part in parts)
        and content_hash({"run": parts[0], "protocol": parts[1]}) == name
        and all(type(value) in (int, float) for value in parts[2].values())
        and (known if digest is None else digest == _digest(record))
    )


def conditions(record: dict) -> dict[str, object]:
    """What must be alike in two records for their metrics to be compared, by dotted names.

    That is the protocol and all of the run but its allocation and the denoisers in it, which are
    what tables compare: their weights, and what the card says of them.
    """
    run = dict(record["run"])
    allocation = run.pop("allocation", "")
    denoisers = {part.split("*")[0] for part in allocation.split("+")}
    if "weights" in run:
        weights = run["weights"].items()
        run["weights"] = {name: sha256 for name, sha256 in weights if name not in denoisers}
    if "card" in run:
        card = run["card"].items()
        run["card"] = {place: value for place, value in card if not concerns(place, denoisers)}
    return dict(_flat({**record["protocol"], **run}))


def require_alike(records: Sequence[dict], differing: Sequence[str] = ()) -> None:
    """Refuse records that do not belong into one table.

    Args:
        records: of ``ResultStore``.
        differing: conditions in which they may differ, such as ``guidance`` (all of it),
            ``guidance.scale`` or ``sampler.steps``.

    Raises:
        InputError: naming the first other condition that differs, and two values of it.
    """
    found = [conditions(record) for record in records]
    for name in sorted(set().union(*found)):
        allowed = any(name == one or name.startswith(f"{one}.") for one in differing)
        values = [one.get(name) for one in found]
        other = next((value for value in values if value != values[0]), values[0])
        if not allowed and other != values[0]:
            raise InputError(
                f"records are not alike: {name} is {values[0]} in one and {other} in another; "
                f"leave some out, or say that {name} may differ"
            )


def _flat(content: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
