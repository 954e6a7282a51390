"""Draw a figure from records: ``python -m scripts.figures figure=fig05 [run=true]``.

Figures read records only. Missing ones are named with the command that makes them, or made at once
with ``run=true`` (alone or under torchrun).
"""

import csv
import dataclasses
import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from eval import plots
from eval.results import content_hash
from scripts import job as jobs
from scripts import launch
from scripts.cli import UserError, command
from scripts.evaluate import Evaluator
from scripts.sample import sample_missing
from scripts.sweep import make_record, record_store, stored_record
from stitch import pareto_frontier, simplex

log = logging.getLogger("figures")

GRID_IMAGES = 8


@command("figures")
def main(config: DictConfig) -> None:
    unknown = set(config.figure.plots) - _PLOTS.keys()
    if unknown:
        raise UserError(
            f"figure.plots: {', '.join(unknown)} is unknown; known: {', '.join(_PLOTS)}"
        )
    device = launch.start()
    evaluator, store = Evaluator(config.eval, device), record_store(config)
    zoo = jobs.load_zoo(config, device)
    series = [
        [(fractions, jobs.create(point_config(config, names, fractions), zoo)) for fractions in
         simplex(len(names), config.figure.resolution)]
        for names in config.figure.series
    ]  # fmt: skip
    make_missing(config, [job for points in series for _, job in points], evaluator, store)
    if not launch.is_main():
        return
    table = [
        row(names, fractions, job, stored_record(job, evaluator, store))
        for names, points in zip(config.figure.series, series, strict=True)
        for fractions, job in points
    ]
    folder = Path(config.figures)
    folder.mkdir(parents=True, exist_ok=True)
    for line in format_table(table):
        log.info("%s", line)
    stem = folder / config.figure.name
    write_csv(stem.with_suffix(".csv"), table)
    log.info("%s", stem.with_suffix(".csv"))
    for kind in config.figure.plots:
        path = stem if len(config.figure.plots) == 1 else Path(f"{stem}-{kind}")
        jobs_of_first_series = [job for _, job in series[0]]
        _PLOTS[kind](path.with_suffix(".png"), config, table, jobs_of_first_series)
        log.info("%s", path.with_suffix(".png"))


def point_config(config: DictConfig, names: list[str], fractions: tuple[float, ...]) -> DictConfig:
    """The config of one point of the figure."""
    allocation = {"denoisers": list(names), "fractions": list(fractions)}
    return OmegaConf.merge(config, {"allocation": allocation})


def make_missing(config: DictConfig, points: list[jobs.Job], evaluator, store) -> None:
    """Sample and evaluate the points without a record, or say how, if ``run`` is false."""
    unique = {content_hash(job.run): job for job in points}
    missing = [job for job in unique.values() if not stored_record(job, evaluator, store)]
    done = len(unique) - len(missing)
    log.info("%d of %d points are recorded in %s", done, len(unique), store.folder)
    if not missing:
        log.info("nothing to sample")
        return
    if not config.run:
        raise UserError(
            f"figure={config.figure.name} lacks {len(missing)} records of {len(unique)} (first: "
            f"{missing[0].allocation}); make them with the same command and run=true"
        )
    macs = [job.cost()["macs_per_image"] * job.num_images for job in missing]
    overall = tqdm(
        total=sum(macs),
        desc=f"{len(missing)} points",
        unit="MAC",
        unit_scale=True,
        disable=not launch.is_main(),
        smoothing=0,
    )
    for job, cost in zip(missing, macs, strict=True):
        make_record(job, evaluator, store)
        overall.update(cost)
    overall.close()


def row(names: list[str], fractions: tuple[float, ...], job: jobs.Job, record: dict) -> dict:
    """One line of the figure's table."""
    return {
        "denoisers": " ".join(names),
        "fractions": " ".join(f"{fraction:g}" for fraction in fractions),
        "allocation": str(job.allocation),
        **record["metrics"],
        "gmacs_per_image": record["cost"]["macs_per_image"] / 1e9,
        "ms_per_image": record["cost"]["ms_per_image"],
        "device": record["cost"]["device"],
        "dtype": record["run"]["dtype"],
        "run": content_hash(record["run"]),
    }


def format_table(table: list[dict]) -> list[str]:
    """The table as lines of text; the speed-up is against the slowest row."""
    slowest = max(row["ms_per_image"] for row in table)
    width = max(len(row["allocation"]) for row in table)
    lines = [
        f"{'allocation':{width}}  {'fractions':>11} {'FID':>8} {'IS':>7} {'precision':>9} "
        f"{'recall':>7} {'ms/image':>9} {'speed-up':>8}"
    ]
    lines += [
        f"{row['allocation']:{width}}  {row['fractions']:>11} {row['fid']:8.3f} {row['is']:7.3f} "
        f"{row['precision']:9.3f} {row['recall']:7.3f} {row['ms_per_image']:9.2f} "
        f"{slowest / row['ms_per_image']:7.2f}x"
        for row in table
    ]
    return lines


def write_csv(path: Path, table: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys())
        writer.writeheader()
        writer.writerows(table)


def protocol_text(config: DictConfig, table: list[dict]) -> str:
    """How the numbers of a figure were made, printed on it."""
    sampler = config.sampler
    return (
        f"zoo {config.zoo.name}, {sampler.name} {sampler.steps} steps, guidance "
        f"{config.guidance.scale:g}, {config.num_images:,} images, seed {config.seed}, "
        f"{table[0]['dtype']}"
    )


def timing_text(config: DictConfig, table: list[dict]) -> str:
    """What the times of a figure were measured on."""
    return f"; times: {table[0]['device']}, batch {config.batch_size}"


def draw_fraction(path: Path, config: DictConfig, table: list[dict], _) -> None:
    """FID against the fraction of the first denoiser, a line for each pair."""
    lines = {}
    for entry in table:
        label = " then ".join(entry["denoisers"].split())
        fraction = float(entry["fractions"].split()[0])
        lines.setdefault(label, []).append((fraction, entry["fid"]))
    plots.lines(
        path,
        {label: sorted(points) for label, points in lines.items()},
        title=config.figure.title,
        x="fraction of steps of the smaller denoiser",
        y="FID",
        caption=protocol_text(config, table),
    )


def draw_pareto(path: Path, config: DictConfig, table: list[dict], _) -> None:
    """FID and Inception Score against time, with the Pareto frontier."""
    times = [entry["ms_per_image"] for entry in table]
    frontiers = {
        "fid": pareto_frontier(times, [entry["fid"] for entry in table]),
        "is": pareto_frontier(times, [-entry["is"] for entry in table]),
    }
    caption = protocol_text(config, table) + timing_text(config, table)
    plots.frontiers(path, table, frontiers, title=config.figure.title, caption=caption)


def draw_grid(path: Path, config: DictConfig, table: list[dict], points: list[jobs.Job]) -> None:
    """The first images of every allocation of the first series, one allocation a row."""
    rows = []
    for job in points:
        few = dataclasses.replace(job, num_images=GRID_IMAGES)
        sample_missing(few)  # nothing, unless the samples of a recorded run were deleted
        rows.append(next(few.samples.batches(GRID_IMAGES))[0])
    labels = [f"{entry['fractions'].split()[0]}" for entry in table[: len(points)]]
    plots.image_grid(
        path,
        rows,
        labels,
        title=config.figure.title,
        y=f"fraction of {config.figure.series[0][0]}",
        caption=protocol_text(config, table),
    )


_PLOTS = {"fraction": draw_fraction, "pareto": draw_pareto, "grid": draw_grid}


if __name__ == "__main__":
    main()
