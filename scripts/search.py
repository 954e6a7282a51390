"""Search for the fastest setting of every quality: ``python -m scripts.search zoo=fashion``.

Allocation, solver, steps, cache and guidance interval, each alone and together. Every try is a
record; an interrupted search is resumed by the same command, alone or on many processes.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
import math
import time
from pathlib import Path

from omegaconf import DictConfig

from eval import experiments
from eval.candidates import Candidates
from eval.confidence import influences
from eval.evaluator import Evaluator
from eval.paper import frontier
from eval.search import Plan, search
from eval.speed import budget, finalists
from models.errors import InputError
from models.files import check_writable
from scripts.cli import command, compose, overrides
from stitch.runs import build, devices, distributed
from stitch.runs.provenance import refuse_unclean

log = logging.getLogger("search")


@command("search")
def main(config: DictConfig) -> None:
    refuse_unclean("results", config.results)
    if "fid" not in config.eval.metrics:
        raise InputError(
            f"eval.metrics=[{','.join(config.eval.metrics)}] lacks fid, which a search goes by; "
            "add it, or choose an eval that has it"
        )
    limit = math.inf if config.budget is None else budget.parse_budget(config.budget)
    started, device = time.monotonic(), devices.start(config.device)
    zoo = build.load_zoo(config, device)
    candidates = Candidates(config, lambda words: compose("search", words), overrides(), zoo)
    check_writable(config.results, "results")
    evaluator, store = Evaluator(config.eval, device), experiments.record_store(config)
    plan = Plan(config.tries, config.generations, list(config.images), config.kept)

    def run_of(setting):
        return candidates.run(setting, plan.images[-1])

    settings = {method: candidates.settings(method) for method in candidates.space.methods}
    cost = finalists.prediction(config, run_of, candidates.corners(), limit)

    def affordable(setting):
        return cost(setting) if cost(setting) <= limit else math.inf

    def records(chosen, images):
        runs = {one: candidates.run(one, images) for one in chosen}
        failures = experiments.make_records(runs.values(), evaluator, store)
        for reason in failures.values():
            log.info("left out: %s", reason)  # by one rank
        # Looked up by one rank: all must go on with the same settings.
        return distributed.from_main(
            lambda: {
                one: record
                for one, run in runs.items()
                if run.id not in {failed.id for failed in failures}
                and (record := experiments.stored_record(run, evaluator, store))
            }
        )

    def measure(chosen, images):
        found = {one: record["metrics"] for one, record in records(chosen, images).items()}
        # A record that was made before may lack it.
        return {one: metrics["fid"] for one, metrics in found.items() if "fid" in metrics}

    rounds = search(candidates.space, settings, affordable, plan, measure)
    last = {one: run_of(one) for one in rounds[-1]}
    known = records(last, plan.images[-1])
    if failures := experiments.make_images(last.values()):
        raise InputError(f"the last round's images are needed: {'; '.join(failures.values())}")
    found = influences({one: run.samples for one, run in last.items()}, plan.images[-1], evaluator)
    if not distributed.is_main():
        return
    times = finalists.measured(last, config.repetitions, config.warm_up)
    hours = (time.monotonic() - started) / 3600
    result = frontier.result(candidates, rounds, plan.images, known, found, times, cost, hours)
    frontier.write(Path(config.results), result)
    for line in [*frontier.in_short(result), str(Path(config.results) / "frontier.md")]:
        log.info("%s", line)


if __name__ == "__main__":
    main()
