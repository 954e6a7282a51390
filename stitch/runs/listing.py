"""What the names in a sample folder say, for the price of one directory listing.

With many ranks on one network file system, opening each other's files is what costs. Names tell
nearly all: ``shard-000012.npz`` is there, ``shard-000012.lease`` says that somebody is at it, and
``shard-000012.short`` that it has fewer images than ``shard_size``, or none yet. Shards of latents
end in ``.safetensors``.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

SHARD, LATENTS, LEASE, SHORT = ".npz", ".safetensors", ".lease", ".short"
_NAME = re.compile(
    r"shard-(\d+)(\.npz|\.safetensors|\.lease|\.short)|\.shard-(\d+)\.(?:npz|safetensors)\..*\.tmp"
)


@dataclass(frozen=True)
class Listing:
    """Shards by what stands in the folder.

    Attributes:
        stored: whose file is there.
        leased: who have a lease, of a process that is alive or not.
        short: that are marked as short.
        leftovers: unfinished files of a shard, being written or left by a process that was killed.
    """

    stored: set[int] = field(default_factory=set)
    leased: set[int] = field(default_factory=set)
    short: set[int] = field(default_factory=set)
    leftovers: dict[int, list[Path]] = field(default_factory=dict)


def look(path: Path) -> Listing:
    """List the folder at ``path``; one that is not there is empty."""
    found = Listing()
    of_kind = {SHARD: found.stored, LATENTS: found.stored, LEASE: found.leased, SHORT: found.short}
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return found
    for text in names:
        if not (name := _NAME.fullmatch(text)):
            continue
        if name[2]:
            of_kind[name[2]].add(int(name[1]))
        else:
            found.leftovers.setdefault(int(name[3]), []).append(path / text)
    return found


def named(path: Path, shard: int, kind: str) -> Path:
    """The file of ``shard`` in the folder at ``path`` that is of a kind, such as SHARD or LEASE."""
    return path / f"shard-{shard:06d}{kind}"
