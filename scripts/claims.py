"""Which claims of the paper hold here: ``python -m scripts.claims zoo=fashion``."""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import json
import logging
from pathlib import Path

from omegaconf import DictConfig

from eval.paper import training_claims
from eval.paper.claims import CLAIMS, judged, page
from eval.paper.evidence import figures_folder
from eval.paper.measured import Data
from eval.paper.points import Planner
from scripts.cli import command, compose, overrides
from stitch.runs.provenance import refuse_unclean

log = logging.getLogger("claims")


@command("claims")
def main(config: DictConfig) -> None:
    planner = Planner(config, compose, overrides())
    path = Path(config.claims or figures_folder(config, planner) / "claims.md")
    refuse_unclean("claims", path)
    found = judged(Data(config, planner), [*CLAIMS, *training_claims.CLAIMS])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    path.write_text(page(found))
    log.info("%s", page(found))
    log.info("%s", path)


if __name__ == "__main__":
    main()
