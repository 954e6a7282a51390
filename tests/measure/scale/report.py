"""The tables and the picture of docs/scale.md."""

from collections.abc import Sequence
from pathlib import Path

from eval.markdown import markdown
from eval.paper.plots import COLOURS, MARKERS, Figure, matplotlib
from tests.measure.scale.processes import Measured
from tests.measure.scale.scenarios import SIZES, best
from tests.measure.scale.simulation import Job, Result


def percent(share: float) -> str:
    return f"{100 * share:.{1 if share >= 0.001 or not share else 3}f} %"


def costs_table(costs: dict[str, float]) -> str:
    return markdown(
        ["on the disk of this machine", "ms"],
        [[name, f"{1e3 * seconds:.3f}"] for name, seconds in costs.items()],
    )


def sizes_table(results: list[Result]) -> str:
    """Share of the ranks' time that is sampling, by ranks and shard size; the best in bold."""
    found = {(r.job.ranks, r.job.shard_size): r for r in results}
    columns = [size for size in SIZES if any(size == r.job.shard_size for r in results)]
    rows = []
    for ranks, top in best(results).items():
        row = [f"{ranks:,}"]
        for size in columns:
            text = percent(found[ranks, size].sampling_share())
            row.append(f"**{text}**" if found[ranks, size] is top else text)
        rows.append([*row, f"{top.images_per_second():,.0f}", f"{top.seconds:,.1f}"])
    headers = ["ranks", *(f"{size:,}" for size in columns), "images/s", "seconds"]
    return markdown(headers, rows)


def polling_table(results: list[Result]) -> str:
    rows = [
        [
            f"{r.job.storage.latency * 1e3:g} ms",
            f"{r.job.ranks:,}",
            "names" if r.job.names else "every missing shard",
            percent(r.looking_share()),
            f"{r.operations_per_second():,.0f}",
            percent(r.operations_per_second() / r.job.storage.capacity),
            percent(r.sampling_share()),
        ]
        for r in sorted(results, key=lambda r: (r.job.storage.latency, r.job.ranks, r.job.names))
    ]
    headers = ["an operation", "ranks", "looks at", "time in looks", "operations/s"]
    return markdown([*headers, "of the server", "time in sampling"], rows)


def failures_table(results: list[Result]) -> str:
    rows = [
        [
            "all ranks" if r.job.together else "the rank alone",
            f"{r.job.ranks:,}",
            f"{r.job.shard_size * r.job.image_seconds:.0f}",
            f"{r.deaths:,}",
            f"{r.lost:,}",
            percent(r.lost / r.job.images),
            percent(r.sampling_share()),
        ]
        for r in results
    ]
    headers = ["restarted", "ranks", "s per shard", "deaths", "images lost", "of all"]
    return markdown([*headers, "time in sampling"], rows)


def checks_table(checks: Sequence[tuple[Job, Measured, Result]]) -> str:
    rows = [
        [
            f"{job.shard_size}",
            f"{-(-job.images // job.shard_size) / job.ranks:.1f}",
            f"{len(job.kills)}",
            f"{measured.seconds:.1f}",
            f"{simulated.seconds:.1f}",
            f"{100 * (simulated.seconds / measured.seconds - 1):+.1f} %",
            percent(1 - measured.sampling_share),
            percent(1 - simulated.sampling_share()),
            percent(measured.overslept),
            f"{measured.lost}",
            f"{simulated.lost}",
            f"{measured.cores:.2f}",
        ]
        for job, measured, simulated in checks
    ]
    headers = ["shard_size", "shards per rank", "killed", "s, measured", "s, simulated", "off by"]
    headers += ["not sampling, measured", "simulated", "overslept"]
    headers += ["images lost, measured", "simulated"]
    return markdown([*headers, "cores in use"], rows)


def draw(path: Path, sizes: list[Result], polling: list[Result], images: int) -> None:
    """Images/s against ranks, before and after; and time in sampling against shards per rank."""
    with matplotlib.rc_context({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(7, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        _rates(left, polling)
        by_ranks: dict[int, list[Result]] = {}
        for result in sizes:
            by_ranks.setdefault(result.job.ranks, []).append(result)
        for k, (ranks, results) in enumerate(by_ranks.items()):
            shards = [r.job.images / r.job.shard_size / ranks for r in results]
            shares = [100 * r.sampling_share() for r in results]
            right.semilogx(
                shards, shares, color=COLOURS[k], marker=MARKERS[k], ms=4, label=f"{ranks:,} ranks"
            )
        right.set(xlabel="shards per rank", ylabel="time in sampling, %", ylim=(0, 103))
        right.set_title(f"{images:,} images, 50 a second and rank")
        right.legend(frameon=False)
        figure.savefig(path, dpi=200)


def _rates(axes, polling: list[Result]) -> None:
    ranks = sorted({r.job.ranks for r in polling})
    ideal = [count / polling[0].job.image_seconds for count in ranks]
    axes.loglog(ranks, ideal, color="grey", ls=":", label="ideal")
    lines = sorted({(r.job.storage.latency, r.job.names) for r in polling})
    for k, (latency, names) in enumerate(lines):
        chosen = [r for r in polling if (r.job.storage.latency, r.job.names) == (latency, names)]
        axes.loglog(
            [r.job.ranks for r in chosen], [r.images_per_second() for r in chosen],
            color=COLOURS[k], marker=MARKERS[k], ms=4, ls="-" if names else "--",
            label=f"{'names' if names else 'opening each'}, {1e3 * latency:g} ms",
        )  # fmt: skip
    axes.set_xticks(ranks, [f"{count:,}" for count in ranks])
    axes.minorticks_off()
    axes.set(xlabel="ranks", ylabel="images/s", title="1,000,000 images in 4,000 shards")
    axes.legend(frameon=False)
