"""One HTML page of all results: ``python -m scripts.report zoo=fashion``."""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
from pathlib import Path

from omegaconf import DictConfig

from eval.paper.evidence import figures_folder
from eval.paper.page import report
from eval.paper.points import Planner
from models.files import write_atomically
from scripts.cli import command, compose, overrides
from stitch.runs.provenance import refuse_unclean

log = logging.getLogger("report")


@command("report")
def main(config: DictConfig) -> None:
    planner = Planner(config, compose, overrides())
    folder = figures_folder(config, planner)
    path = Path(config.report or folder / "report.html")
    refuse_unclean("report", path)
    write_atomically(path, report(config, planner, folder).encode())
    log.info("%s (%.1f MB)", path, path.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
