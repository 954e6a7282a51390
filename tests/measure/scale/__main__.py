"""Many ranks on one folder, for docs/scale.md: ``python -m tests.measure.scale [FOLDER]``.

Measures what the file system of this machine takes and what 64 processes do, simulates up to 1,024
ranks, and writes FOLDER (docs/): scale.md, scale.png, scale.csv, scale.json. It takes ten minutes
on two cores, which should have nothing else to do.
"""

import csv
import dataclasses
import json
import sys
import time
from pathlib import Path

import torch

from eval.speed import timing
from stitch.runs.provenance import refuse_unclean
from tests import ROOT
from tests.measure.scale import page, report, scenarios
from tests.measure.scale.costs import costs
from tests.measure.scale.simulation import Result, Storage


def local(found: dict[str, float]) -> Storage:
    """This machine's disk, as the model has file systems."""
    operation = found["take a free shard"] / 2  # a file is created and written to
    written = found["store a shard of 50 images of 28x28"]
    return Storage(operation, 2 / operation, bandwidth=24 * 50 / max(written, 1e-6))


def row(table: str, result: Result) -> dict:
    """A line of the CSV."""
    job = result.job
    settings = {
        field.name: getattr(job, field.name)
        for field in dataclasses.fields(job)
        if field.name not in ("storage", "kills")
    }
    return {
        "table": table,
        **settings,
        **dataclasses.asdict(job.storage),
        "kills": len(job.kills),
        "seconds": result.seconds,
        "images_per_s": result.images_per_second(),
        "sampling_share": result.sampling_share(),
        "looking_share": result.looking_share(),
        "operations_per_s": result.operations_per_second(),
        "deaths": result.deaths,
        "lost": result.lost,
    }


def main(folder: Path) -> None:
    refuse_unclean("FOLDER", folder)
    machine = timing.machine(torch.device("cpu"))
    began = time.monotonic()

    def note(what: str) -> None:
        print(f"{time.monotonic() - began:.0f} s: {what}", flush=True)

    measured = costs()
    note("costs are measured")
    checks = scenarios.checks(local(measured))
    note("processes are measured")
    tables = {
        "50,000 images": scenarios.sizes(50_000),
        "1,000,000 images": scenarios.sizes(1_000_000),
        "50,000 images, CPU": scenarios.sizes(50_000, scenarios.CPU),
        "polling": scenarios.polling(),
        "failures": scenarios.failures(),
    }
    note("all is simulated")
    rows = [row(name, result) for name, results in tables.items() for result in results]
    rows += [row("check", simulated) for _, _, simulated in checks]
    with open(folder / "scale.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    about = {
        "command": "python -m tests.measure.scale",
        "machine": machine,
        "seconds": measured,
        "checks": [
            {
                "shard_size": job.shard_size,
                "kills": job.kills,
                "measured": dataclasses.asdict(found),
                "simulated": row("check", simulated),
            }
            for job, found, simulated in checks
        ],
    }
    (folder / "scale.json").write_text(json.dumps(about, indent=1) + "\n")
    report.draw(folder / "scale.png", tables["1,000,000 images"], tables["polling"], 1_000_000)
    (folder / "scale.md").write_text(page.text(machine, measured, checks, tables))
    note(f"{folder / 'scale.md'} is written")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs")
