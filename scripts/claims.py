"""Which claims of the paper hold here: ``python -m scripts.claims zoo=fashion``."""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
from pathlib import Path

from omegaconf import DictConfig

from eval.paper import training_claims
from eval.paper.claims import CLAIMS, Data, judged
from eval.paper.evidence import figures_folder
from eval.paper.points import Planner
from scripts.cli import command, compose, overrides
from stitch.runs.provenance import refuse_unclean

log = logging.getLogger("claims")


@command("claims")
def main(config: DictConfig) -> None:
    planner = Planner(config, compose, overrides())
    path = Path(config.claims or figures_folder(config, planner) / "claims.md")
    refuse_unclean("claims", path)
    text = judged(Data(config, planner), [*CLAIMS, *training_claims.CLAIMS])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    log.info("%s", text)
    log.info("%s", path)


if __name__ == "__main__":
    main()
