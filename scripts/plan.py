"""Find allocations that fit a time budget: ``python -m scripts.plan budget=2.5s``.

With ``search=runs/search/ZOO/frontier.json`` settings of all kinds, as ``scripts.search`` found
them; the budget is then that of one image.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging

from omegaconf import DictConfig

from eval.speed import budget, latency
from scripts.cli import command
from stitch.runs import build, devices

log = logging.getLogger("plan")


@command("plan")
def main(config: DictConfig) -> None:
    limit = budget.parse_budget(config.budget)
    if config.search is not None:
        for line in budget.searched(config.search, limit, config.top):
            log.info("%s", line)
        return
    runs = latency.allocations(config, build.load_zoo(config, devices.start(config.device)))
    costs = budget.cost_table(config, runs)
    log.info(
        "a batch of %d on %s: %s; all else %.1f ms",
        costs.batch,
        costs.facts["device"],
        ", ".join(f"{step[0]} {1e3 * s:.2f} ms a step" for step, s in costs.steps.items()),
        1e3 * costs.once,
    )
    records = budget.find_records(config, runs) if config.quality == "results" else {}
    choices = budget.rank(runs, costs, records)
    fitting = budget.within(choices, limit)
    for line in budget.table(fitting[: config.top]):
        log.info("%s", line)
    log.info("%d of %d allocations take at most %g s", len(fitting), len(choices), limit)
    if config.verify:
        best = fitting[0]
        taken = budget.verify(best.run, costs.batch, config.repetitions)
        log.info(
            "%s: predicted %.3f s, measured %.3f s (%+.1f %%)",
            best.run.allocation,
            best.seconds,
            taken,
            100 * (taken / best.seconds - 1),
        )


if __name__ == "__main__":
    main()
