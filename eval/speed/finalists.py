"""Times of a search: predicted of every setting, measured of those that are left at the end."""

import functools
import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping

from omegaconf import DictConfig

from eval.speed import budget, timing
from models.errors import InputError
from stitch.runs.run import Run
from stitch.runs.warmup import prepare


def prediction(
    config: DictConfig,
    run_of: Callable[[Hashable], Run],
    settings: Iterable[Hashable],
    limit: float = math.inf,
) -> Callable[[Hashable], float]:
    """Setting -> predicted seconds of one image; infinite if its choices do not fit together.

    Args:
        config: see ``eval.speed.budget.cost_table``.
        run_of: setting -> its run.
        settings: some that call everything that any of them calls; their steps are measured. Those
            whose choices do not fit together are left out.
        limit: seconds that one of ``settings`` has to be within.

    Raises:
        InputError: if none of ``settings`` is within the limit; it names the fastest.
    """
    possible, unfit = [], None
    for setting in settings:
        try:
            possible.append(run_of(setting))
        except InputError as error:
            unfit = error
    if not possible:
        raise unfit
    runs, seen = [], set()
    for run in possible:
        if not seen.issuperset(run.calls):
            seen |= set(run.calls)
            runs.append(run)
    costs = budget.cost_table(config, runs)
    fastest = min(costs.seconds(run.calls) / costs.batch for run in possible)
    if fastest > limit:
        raise InputError(
            f"budget={1e3 * limit:g}ms is below the fastest setting, which takes "
            f"{1e3 * fastest:.3g} ms an image; give more, or a space of faster ones"
        )

    @functools.cache
    def seconds(setting: Hashable) -> float:
        try:
            return costs.seconds(run_of(setting).calls) / costs.batch
        except InputError:
            return math.inf

    return seconds


def measured(
    runs: Mapping[Hashable, Run], repetitions: int, warm_up: int
) -> dict[Hashable, dict[str, float]]:
    """Measured ``ms_per_image`` of every run, in turn: median, fastest and slowest."""
    runs = {key: run.one_batch(run.batch_size) for key, run in runs.items()}
    for run in runs.values():
        prepare(run)
    tasks = {key: lambda r=run: r.images(range(r.batch_size)) for key, run in runs.items()}
    device = next(iter(runs.values())).zoo.device
    times = timing.in_turn(tasks, repetitions, device, warm_up)
    found = {}
    for key, seconds in times.items():
        per_image = sorted(1e3 * second / runs[key].batch_size for second in seconds)
        found[key] = {
            "ms_per_image": round(statistics.median(per_image), 4),
            "ms_per_image_fastest": round(per_image[0], 4),
            "ms_per_image_slowest": round(per_image[-1], 4),
        }
    return found
