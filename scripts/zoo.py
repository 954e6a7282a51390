"""A table of every zoo and its networks: ``python -m scripts.zoo``.

To count takes seconds, as does importing what is counted with. So rows are kept in ``.cache/zoo``,
which may be deleted, and counted again when anything that they depend on has changed.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import contextlib
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import yaml
from omegaconf import DictConfig

from scripts.cli import CONFIGS, command

ROOT = CONFIGS.parent
CACHE = ROOT / ".cache" / "zoo"
HEADER = ("zoo", "network", "params M", "GMACs", "schedule", "files", "licence")


@command("zoo")
def main(config: DictConfig) -> None:
    chosen = [config.name] if config.name else names()
    rows = [HEADER, *(row for name in chosen for row in rows_of(name))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print(
        "\nGMACs: multiply-accumulates of one forward at batch 1 without guidance (FLOPs are twice "
        "as many); DiT's published Gflops are these."
    )


def names() -> list[str]:
    """Every zoo that has a card."""
    return sorted(card.stem for card in (CONFIGS / "zoo").glob("*.yaml"))


def rows_of(name: str) -> list[list[str]]:
    """The rows of ``table``: those kept, if all that they depend on is as it was."""
    path, here = CACHE / f"{name}.json", None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or a damaged one
        here = state(name)
        kept = json.loads(path.read_text())
        if kept["state"] == here:
            return kept["rows"]
    import models  # takes seconds, as it imports torch

    found = table(models.load_zoo(name))
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"state": here, "rows": found}))
    return found


def state(name: str) -> str:
    """Hash of what a zoo's rows depend on: its card, the code, and size and time of its files."""
    card = (CONFIGS / "zoo" / f"{name}.yaml").read_text()
    code = [path.read_text() for path in (Path(__file__), *sorted((ROOT / "models").glob("*.py")))]
    files = sorted((ROOT / yaml.safe_load(card)["checkpoints"]).rglob("[!.]*"))
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    text = json.dumps([card, code, facts, version("torch"), version("diffusers")])
    return hashlib.sha256(text.encode()).hexdigest()


def table(zoo) -> list[tuple[str, ...]]:
    """The row of every network of a ``models.Zoo``; files are checked against their SHA-256."""
    rows = []
    for name in [*zoo.denoisers, *(n for n in ("first-stage", "preview") if zoo.has(n))]:
        network, file = zoo.skeleton(name), zoo.file(name)
        parameters = sum(p.numel() for p in network.parameters()) / 1e6
        denoiser = name in zoo.denoisers
        rows.append(
            (
                zoo.name,
                name,
                f"{parameters:.3g}" if parameters < 10 else f"{parameters:.1f}",
                f"{zoo.macs(name) / 1e9:.3g}" if denoiser else "-",
                zoo.specs[name].schedule if denoiser else "-",
                f"{file.path.name} {file.state()}",
                file.licence or "-",
            )
        )
    return rows


if __name__ == "__main__":
    main()
