"""docs/scale.md: the text is in page.md, the numbers in it are of one run of the program."""

from pathlib import Path

from tests.measure.scale import report
from tests.measure.scale.report import percent
from tests.measure.scale.scenarios import FAR, GPU, NEAR, best
from tests.measure.scale.simulation import STORING, Result

TEMPLATE = Path(__file__).with_name("page.md")


def text(machine: dict, costs: dict, checks: list, tables: dict[str, list[Result]]) -> str:
    """The page.

    Args:
        machine: see ``eval.speed.timing.machine``.
        costs: see ``costs.costs``; ``checks``: see ``scenarios.checks``.
        tables: name -> what was simulated for it.
    """
    off = {True: [0.0], False: [0.0]}
    for job, measured, simulated in checks:
        off[bool(job.kills)].append(abs(simulated.seconds / measured.seconds - 1))
    small = {key(result): result for result in tables["50,000 images"]}
    large = {key(result): result for result in tables["1,000,000 images"]}
    looks = {
        (r.job.storage, r.job.names): percent(r.looking_share())
        for r in tables["polling"]
        if r.job.ranks == 1024
    }
    failures = {(r.job.ranks, r.job.together): r for r in tables["failures"]}
    fastest = best(tables["50,000 images"])

    def sampling(result: Result) -> str:
        return percent(result.sampling_share())

    return TEMPLATE.read_text().format(
        machine=f"{machine['cores']} cores of {machine['device'].split(',')[0]}",
        machine_cores=machine["cores"],
        commit=machine["commit"],
        load=machine["load_average"],
        end_250=sampling(large[64, 250]),
        end_1000=sampling(large[64, 1000]),
        end_2500=sampling(large[64, 2500]),
        default_8=sampling(small[8, 500]),
        default_64=sampling(small[64, 500]),
        small_64=sampling(small[64, 50]),
        shard_operations=STORING,
        shards_per_second=NEAR.capacity / STORING,
        tiny_seconds=f"{large[1024, 50].seconds:.1f}",
        more_seconds=f"{large[1024, 250].seconds:.1f}",
        ranks_256=f"{fastest[256].seconds:.1f}",
        ranks_1024=f"{fastest[1024].seconds:.1f}",
        alone_1024=sampling(failures[1024, False]),
        together_1024=sampling(failures[1024, True]),
        alone_64=sampling(failures[64, False]),
        together_64=sampling(failures[64, True]),
        lost_1024=percent(failures[1024, False].lost / failures[1024, False].job.images),
        gigabytes=1024 * 256 * 256 * 3 / GPU / 1e9,
        sizes_small=report.sizes_table(tables["50,000 images"]),
        sizes_large=report.sizes_table(tables["1,000,000 images"]),
        sizes_cpu=report.sizes_table(tables["50,000 images, CPU"]),
        looks_before=looks[NEAR, False],
        looks_now=looks[NEAR, True],
        slow_before=looks[FAR, False],
        slow_now=looks[FAR, True],
        looks_small=percent(fastest[1024].looking_share()),
        polling=report.polling_table(tables["polling"]),
        failures=report.failures_table(tables["failures"]),
        cores=f"{max(measured.cores for _, measured, _ in checks):.2f}",
        checks=report.checks_table(checks),
        off_most=percent(max(off[False])),
        killed_most=percent(max(off[True])),
        costs=report.costs_table(costs),
    )


def key(result: Result) -> tuple[int, int]:
    return result.job.ranks, result.job.shard_size
