"""A table of every zoo and its networks: ``python -m scripts.zoo``."""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

from omegaconf import DictConfig

import models
from models.zoo import names
from scripts.cli import command

HEADER = ("zoo", "network", "params M", "GMACs", "schedule", "files", "licence")


@command("zoo")
def main(config: DictConfig) -> None:
    chosen = [config.name] if config.name else names()
    rows = [HEADER, *(row for name in chosen for row in table(models.load_zoo(name)))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print(
        "\nGMACs: multiply-accumulates of one forward at batch 1 without guidance (FLOPs are twice "
        "as many); DiT's published Gflops are these."
    )


def table(zoo: models.Zoo) -> list[tuple[str, ...]]:
    """One row per network; see ``HEADER``. Existing files are checked against their SHA-256."""
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
