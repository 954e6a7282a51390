"""Weights of published pipelines: a folder, or a snapshot in the Hugging Face hub's cache.

What identifies them is the commit of the snapshot, or the SHA-256 of a folder's files.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.files import sha256_of
from models.weights import CheckpointError
from models.zoo import ROOT
from stitch.runs.records import content_hash

TEXTS = ("*.json", "*.txt", "*.model")  # configs and tokenizers


@dataclass(frozen=True)
class Source:
    """Where a pipeline, or a network of one, comes from.

    Attributes:
        repo: a repository of the hub, or a folder: absolute, or relative to the project or to the
            current folder.
        subfolder: of the network; None for all of the repository.
        revision: a branch, tag or commit of the hub; None for its main branch.
        variant: of the files, such as fp16; None for those without.
        setting: the setting that names it, for messages.
    """

    repo: str
    subfolder: str | None = None
    revision: str | None = None
    variant: str | None = None
    setting: str = "pipeline"

    @property
    def local(self) -> Path | None:
        """The folder; None if the source is the hub."""
        places = [ROOT / self.repo, Path(self.repo)]
        return next((place for place in places if place.is_dir()), None)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The files of the hub that are needed: no pickles, and of the weights one variant."""
        variant = f".{self.variant}" if self.variant else ""
        weights = f"*model{variant}.safetensors", f"*model{variant}-*.safetensors"
        folder = f"{self.subfolder}/" if self.subfolder else ""
        return tuple(folder + name for name in (*weights, *TEXTS))

    def folder(self, fetch: bool = False) -> Path:
        """Where the files are on this machine.

        Args:
            fetch: whether they may be downloaded into the hub's cache.

        Raises:
            CheckpointError: if they are not there, saying what to fetch and how; or if there is no
                safetensors file among them.
        """
        folder = self.local or self._snapshot(fetch)
        inside = folder / self.subfolder if self.subfolder else folder
        if not any(inside.rglob("*.safetensors")):
            raise CheckpointError(
                f"{self.setting}={self.repo} has no .safetensors in {inside}, and nothing is "
                "unpickled; take a revision that has (on the hub often revision=refs/pr/N)"
            )
        return folder

    def _snapshot(self, fetch: bool) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            return Path(
                snapshot_download(
                    self.repo,
                    revision=self.revision,
                    allow_patterns=list(self.patterns),
                    local_files_only=not fetch,
                )
            )
        except (OSError, HfHubHTTPError, HFValidationError) as error:
            reason = str(error).splitlines()[0] if fetch else "it is not in the hub's cache"
            raise CheckpointError(
                f"{self.setting}={self.repo} is no folder, and cannot be had from the hub "
                f"({reason}); where there is a network: {self.command()} and bring the folder that "
                "it prints, or all of HF_HOME"
            ) from error

    def command(self) -> str:
        """The command that fetches the files."""
        revision = f" --revision {self.revision}" if self.revision else ""
        included = " ".join(f"--include '{pattern}'" for pattern in self.patterns)
        return f"hf download {self.repo}{revision} {included}"

    def identity(self, without: Sequence[str] = ()) -> str:
        """What tells these weights from any others: ``REPO@COMMIT``, or a hash of the files.

        Args:
            without: sub-folders of a folder that do not count.
        """
        folder = self.folder()
        if self.local is None:
            return f"{self.repo}@{folder.name}" + (f" {self.variant}" if self.variant else "")
        inside = folder / self.subfolder if self.subfolder else folder
        return _hash(inside, tuple(without))


@functools.cache
def _hash(folder: Path, without: tuple[str, ...]) -> str:
    files = sorted(
        path
        for pattern in ("*.safetensors", *TEXTS)
        for path in folder.rglob(pattern)
        if path.relative_to(folder).parts[0] not in without
        # The record of how weights were made determines nothing.
        and (path.suffix != ".json" or not path.with_suffix(".safetensors").is_file())
    )
    return content_hash({path.relative_to(folder).as_posix(): sha256_of(path) for path in files})
