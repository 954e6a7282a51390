"""What faults cost, for docs/faults.md: ``python -m tests.measure.fault_table`` breaks real runs.

Every row starts ``scripts.sample`` under torchrun, does something to it, and has the same command
finish. It takes half an hour on two cores; the full disk needs the right to mount a tmpfs.
"""

import functools
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stitch.runs import devices
from stitch.runs.shards import ShardError, folder_digest, open_folder
from tests import ROOT
from tests.measure.difference import difference
from tests.measure.launch import Launch, unstored

NUM_IMAGES, SHARD_SIZE, KILLS = 400, 20, 20
RUN = [
    "sampler.steps=20", "allocation.denoisers=[DiT-S]", "allocation.fractions=[1]",
    f"num_images={NUM_IMAGES}", "batch_size=10", f"shard_size={SHARD_SIZE}",
]  # fmt: skip
HEADER = """# What faults cost

Written by `python -m tests.measure.fault_table`: real processes, {images} images of the fashion
zoo's DiT-S (DDIM 20 steps, guidance 1.5) in shards of {shard}, by two ranks under torchrun (gloo)
unless said otherwise. Machine: {machine}; {load}.

*Recomputed* are images made more than once: finished ones that were not yet stored when their
process was killed, those of damaged shards, and those made by two launches. A batch in hand at a
kill (10 images) is not counted. *Lost* are images that the folder lacks in the end. *Sampling
again* is from the start of the same command to its first lease, nearly all of it imports;
*finished* is to its end.

| fault | final hash identical | lost | recomputed | sampling again, s | finished, s |
| --- | --- | ---: | ---: | ---: | ---: |
"""
BATCH_HEADER = """

# What another batch size changes

Against batches of 10. Noise and labels come from (seed, index) alone; the order of sums in the
networks differs.

| batch size | labels identical | largest pixel difference (of 255) | values that differ |
| ---: | --- | ---: | ---: |
"""


start = functools.partial(Launch, RUN)


class Table:
    def __init__(self, folder: Path):
        self.folder, self.rows = folder, []
        self.whole = self.new("whole")
        start(self.whole).succeed()
        folder = open_folder(self.whole)
        self.digest = folder_digest(folder, NUM_IMAGES)
        shards = statistics.median(timing["seconds"] for timing in folder.timings())
        # Kills are spread over the making of one shard and a half, however loaded the machine is.
        self.kill_within = 1.5 * shards

    def new(self, name: str) -> Path:
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def add(
        self,
        fault: str,
        samples: Path,
        unstored: int = 0,
        again: list[float] | None = None,
        finished: float | None = None,
    ) -> None:
        """Note a folder that should be whole now."""
        folder = open_folder(samples)
        try:
            same = folder_digest(folder, NUM_IMAGES) == self.digest
        except ShardError:
            same = False
        stored = sum(timing["images"] for timing in folder.timings())
        again_text = "-" if not again else f"{statistics.median(again):.1f}"
        if again and len(again) > 1:
            again_text += f" (median), {max(again):.1f} (most)"
        finished_text = "-" if finished is None else f"{finished:.1f}"
        recomputed = stored - NUM_IMAGES + unstored
        self.rows.append(
            f"| {fault} | {'yes' if same else 'NO'} | {NUM_IMAGES - folder.count()} | {recomputed} "
            f"| {again_text} | {finished_text} |"
        )
        print(self.rows[-1], flush=True)

    def finish(
        self, fault: str, samples: Path, unstored: int = 0, again=(), processes: int = 2
    ) -> None:
        """Have the same command finish ``samples``, and note it."""
        last = start(samples, processes)
        first = last.wait_for_lease()
        self.add(fault, samples, unstored, [*again, first], last.succeed())

    def killed(self, samples: Path, processes: int = 2, after: float = 2.0) -> int:
        """Have a launch killed in the middle of its work; return the images it had not stored."""
        launched = start(samples, processes)
        launched.wait_for_lease()
        time.sleep(after)
        launched.kill_all()
        launched.wait()
        return unstored(samples)


def all_ranks_killed(table: Table) -> None:
    """Kill a run again and again, each time at a random moment of its work, then let it finish."""
    choice = random.Random(0)
    samples, again, lost = table.new("killed"), [], 0
    for _ in range(KILLS):
        launched = start(samples)
        again.append(launched.wait_for_lease())
        time.sleep(choice.uniform(0, table.kill_within))
        launched.kill_all()
        launched.wait()
        lost += unstored(samples)
    table.finish(f"SIGKILL of all ranks and torchrun, {KILLS} times", samples, lost, again[1:])


def one_rank_killed(table: Table) -> None:
    """Kill either rank at random moments; torchrun restarts both (elastic)."""
    choice = random.Random(1)
    samples, again, lost = table.new("killed"), [], 0
    launched = start(samples, restarts=KILLS)
    launched.wait_for_lease()
    for _ in range(KILLS):
        time.sleep(choice.uniform(0, table.kill_within))
        lost += launched.kill_one(choice)
        again.append(launched.wait_for_lease())
    killed = time.monotonic()
    launched.succeed()
    finished = time.monotonic() - killed + again[-1]
    fault = f"SIGKILL of one rank, {KILLS} times, torchrun --max-restarts={KILLS}"
    table.add(fault, samples, lost, again, finished)


def terminated(table: Table) -> None:
    samples = table.new("terminated")
    launched = start(samples)
    launched.wait_for_lease()
    time.sleep(2)
    launched.process.terminate()
    launched.wait()
    assert launched.text().count("SIGTERM received, finished batches are stored") == 2
    table.finish("SIGTERM of torchrun", samples, unstored(samples))


def full_disk(table: Table) -> None:
    samples = table.new("full")
    samples.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=180k", "tmpfs", str(samples)]
    subprocess.run(mount, check=True)
    try:
        launched = start(samples)
        launched.wait()
        assert launched.process.returncode != 0
        assert "No space left on device; nothing finished is lost" in launched.text()
        subprocess.run(["mount", "-o", "remount,size=10m", str(samples)], check=True)
        table.finish("full disk (tmpfs of 180 kB), then room", samples, unstored(samples))
    finally:
        subprocess.run(["umount", str(samples)], check=True)


def damaged(table: Table, fault: str, damage: Callable[[bytearray], bytearray]) -> None:
    samples = table.new("damaged")
    shutil.copytree(table.whole, samples)
    path = open_folder(samples).shard_path(7)
    path.write_bytes(damage(bytearray(path.read_bytes())))
    table.finish(fault, samples)


def flip(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 1
    return data


def skewed(table: Table) -> None:
    samples = table.new("skewed")
    lost = table.killed(samples)
    for sign, path in zip(itertools.cycle((-1, 1)), sorted(samples.iterdir()), strict=False):
        other = time.time() + sign * 5 * 3600
        os.utime(path, (other, other))
    table.finish("all ranks killed, times of files 5 h back and ahead in turn", samples, lost)


def other_machine(table: Table) -> None:
    """Leases of a dead machine look alive until they have been watched for a while."""
    samples = table.new("other")
    lost = table.killed(samples)
    for path in samples.glob("*.lease"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "another"}))
    table.finish("all ranks killed, finished by another machine (leases renamed)", samples, lost)


def two_launches(table: Table) -> None:
    samples = table.new("two")
    launches = [start(samples), start(samples)]
    first = min(launched.wait_for_lease() for launched in launches)
    table.add(
        "two launches of two ranks on one folder at once", samples, 0, [first],
        max([launched.succeed() for launched in launches]),
    )  # fmt: skip


def world_size(table: Table, processes: int) -> None:
    samples = table.new(f"world-{processes}")
    table.finish(f"none, {processes} rank{'s' * (processes > 1)}", samples, processes=processes)


def other_world_size(table: Table, before: int, after: int) -> None:
    samples = table.new("resized")
    lost = table.killed(samples, before)
    table.finish(f"all of {before} killed, finished by {after}", samples, lost, processes=after)


def batch_sizes(table: Table) -> list[str]:
    """How far images of other batch sizes are from those of batches of 10."""
    rows = []
    for batch_size in (1, 7, 64):
        samples = table.new("batch")
        overrides = [*RUN, f"batch_size={batch_size}", "shard_size=448", f"samples={samples}"]
        subprocess.run(
            [sys.executable, "-m", "scripts.sample", *overrides],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True,
        )  # fmt: skip
        found = difference(table.whole, samples)
        rows.append(
            f"| {batch_size} | {'yes' if found.labels else 'NO'} "
            f"| {found.largest} | {found.differing} of {found.values} |"
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    device = devices.name(devices.start()).split(",")[0]
    machine = f"{os.cpu_count()} cores of {device}, one per rank"
    load = f"load average {os.getloadavg()[0]:.1f} at the start"
    header = HEADER.format(images=NUM_IMAGES, shard=SHARD_SIZE, machine=machine, load=load)
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder))
        terminated(table)
        full_disk(table)
        damaged(table, "a shard truncated to half", lambda data: data[: len(data) // 2])
        damaged(table, "one bit of a shard flipped", flip)
        two_launches(table)
        other_machine(table)
        skewed(table)
        other_world_size(table, 4, 1)
        other_world_size(table, 1, 3)
        for processes in (1, 2, 3, 4):
            world_size(table, processes)
        rows = batch_sizes(table)
        one_rank_killed(table)
        all_ranks_killed(table)
    text = header + "\n".join(table.rows) + BATCH_HEADER + "\n".join(rows) + "\n"
    (ROOT / "docs" / "faults.md").write_text(text)


if __name__ == "__main__":
    main()
