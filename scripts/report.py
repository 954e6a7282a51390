"""One HTML page of all results: ``python -m scripts.report zoo=fashion``, or of several zoos."""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
from pathlib import Path

from omegaconf import DictConfig

from eval.paper.evidence import figures_folder
from eval.paper.page import Part, report
from eval.paper.points import Planner
from models.files import write_atomically
from scripts.cli import command, compose, overrides
from stitch.runs.provenance import refuse_unclean

log = logging.getLogger("report")


@command("report")
def main(config: DictConfig) -> None:
    parts = [part_of(name) for name in config.zoos] if config.zoos else [part(config, overrides())]
    path = Path(config.report or parts[0].folder / "report.html")
    refuse_unclean("report", path)
    write_atomically(path, report(parts).encode())
    log.info("%s (%.1f MB)", path, path.stat().st_size / 1e6)


def part_of(zoo: str) -> Part:
    """What the page shows of one of several zoos: the same settings, composed for it."""
    words = [word for word in overrides() if word.split("=")[0] not in ("zoo", "zoos")]
    return part(compose("report", [*words, f"zoo={zoo}"]), [*words, f"zoo={zoo}"])


def part(config: DictConfig, words: list[str]) -> Part:
    planner = Planner(config, compose, words)
    return Part(config, planner, figures_folder(config, planner))


if __name__ == "__main__":
    main()
