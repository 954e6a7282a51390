"""Draw figures and tables of the paper: ``python -m scripts.figures figure=fig05 [run=true]``.

They are drawn from records only. Missing records are listed with their cost, or created with
``run=true`` (alone or under torchrun). ``figure=all``, ``figure=[fig05,fig06]``, ``dry_run=true``.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
import sys

from omegaconf import DictConfig, OmegaConf

from eval.paper.draw import draw
from eval.paper.evidence import Evidence, figures_folder, make_missing, plan, say_what_lacks
from eval.paper.kinds import check_kinds
from eval.paper.text_points import planner_of
from models.errors import InputError
from models.files import check_writable
from scripts.cli import command, compose, overrides
from stitch.runs import distributed
from stitch.runs.provenance import refuse_unclean

log = logging.getLogger("figures")


@command("figures")
def main(config: DictConfig) -> None:
    if "figure" not in config:
        raise InputError("figure is not set; give one, a list, or figure=all (--help lists them)")
    figures: dict[str, dict] = OmegaConf.to_container(config.figure)
    check_kinds(figures)
    planner = planner_of(config, compose, overrides())
    figures = planner.possible(figures)
    folder = figures_folder(config, planner)
    if not config.dry_run:
        refuse_unclean("figures", folder)
        if config.run:
            refuse_unclean("runs", config.runs)
    evidence = Evidence(config, planner)
    plans = {name: planner.points(figure) for name, figure in figures.items()}
    lacking = {name: evidence.lacking(figures[name], points) for name, points in plans.items()}
    if config.dry_run:
        for line in plan(planner, figures, plans, lacking):
            log.info("%s", line)
        return
    failures = []
    if config.run:
        check_writable(config.runs, "runs")
        failures = make_missing(figures, lacking, evidence)
        lacking = {name: evidence.lacking(figures[name], points) for name, points in plans.items()}
    if not distributed.is_main():
        return
    listings = []
    for name, points in plans.items():
        if not lacking[name]:
            folder.mkdir(parents=True, exist_ok=True)
            path, listing = draw(planner, evidence, name, figures[name], points, folder)
            if listing and listing not in listings:  # figures of the same runs have the same
                log.info("%s", "\n".join(listing))
                listings.append(listing)
            log.info("%s", path)
    if failures:
        log.error("%d points failed:\n  %s", len(failures), "\n  ".join(failures))
        sys.exit(1)
    say_what_lacks(planner, lacking, evidence, figures)


if __name__ == "__main__":
    main()
