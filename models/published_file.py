"""The published files that a zoo's card lists, and whether they are there."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from models.errors import InputError
from models.files import sha256_of
from models.weights import provenance


@dataclass(frozen=True)
class PublishedFile:
    """A published file that a zoo's card lists.

    Attributes:
        name: its key in the card.
        path: where it is stored.
        urls: where it comes from, mirrors last.
        size: its approximate size as text; None if unknown.
        sha256: as published; None: as recorded at the first download.
        licence: of the file.
        member: the file's name in the zip at the URLs.
        ema: take the averaged weights if the file has both.
    """

    name: str
    path: Path
    urls: tuple[str, ...]
    size: str | None = None
    sha256: str | None = None
    licence: str | None = None
    member: str | None = None
    ema: bool = True

    def expected_sha256(self) -> str | None:
        return self.sha256 or (provenance(self.path) or {}).get("sha256")

    def state(self) -> str:
        """``missing``, ``bad checksum``, ``present``, or ``unverified`` if no checksum is known."""
        if not self.path.is_file():
            return "missing"
        expected = self.expected_sha256()
        if expected is None:
            return "unverified"
        return "present" if sha256_of(self.path) == expected else "bad checksum"

    def how_to_get(self, zoo: str) -> str:
        """What to do if it is missing."""
        inside = f" (its member {self.member})" if self.member else ""
        return (
            f"run python -m scripts.download zoo={zoo}, or fetch {self.urls[0]}{inside} "
            f"and put it at {self.path}"
        )


def published_file(key: str, entry: DictConfig, folder: Path) -> PublishedFile:
    """The file that an entry of a card's ``files`` describes.

    Args:
        entry: the attributes of ``PublishedFile``; its ``path`` is inside ``folder``.

    Raises:
        InputError: if it lacks one, or has another.
    """
    facts = OmegaConf.to_container(entry, resolve=True)
    path = (folder / facts.pop("path")).absolute()
    try:
        return PublishedFile(key, path, tuple(facts.pop("urls")), **facts)
    except TypeError as error:
        raise InputError(f"files.{key} of the card: {error}") from error
