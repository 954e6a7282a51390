"""A real run under torchrun that can be killed.

``python -m tests.measure.launch LIKE SAMPLES N ...`` makes the run of the settings ``...`` by N
processes in the folder SAMPLES, kills all of them as soon as a shard is stored, has the same
command finish it, and compares the images with those of the folder LIKE, to the bit.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from stitch.runs.shards import folder_digest, open_folder
from tests import ROOT


class Launch:
    """One command at work on a folder."""

    def __init__(
        self, settings: Sequence[str], samples: Path, processes: int = 2, restarts: int = 0
    ):
        self.samples, self.began = samples, time.monotonic()
        self.owners = self.leasing()
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d",
                "--rdzv-endpoint=localhost:0", f"--nproc-per-node={processes}",
                f"--max-restarts={restarts}",
                "-m", "scripts.sample", *settings, f"samples={samples}",
            ],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=self.log, stderr=self.log,
        )  # fmt: skip

    def leasing(self) -> set[str]:
        """Owners of the leases that there are now."""
        owners = set()
        for path in self.samples.glob("*.lease"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                owners.add(json.loads(path.read_text())["owner"])
        return owners

    def wait_for_lease(self) -> float:
        """Seconds from the start, or the last kill, until a new process leases a shard."""
        while self.process.poll() is None:
            if self.leasing() - self.owners:
                break
            time.sleep(0.01)
        self.owners |= self.leasing()
        return time.monotonic() - self.began

    def wait_for_shard(self) -> None:
        """Wait until a shard is stored, or the command has ended."""
        while self.process.poll() is None and not list(self.samples.glob("shard-*.npz")):
            time.sleep(0.01)

    def ranks(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def kill_one(self, choice: random.Random) -> int:
        """Images that the killed rank had not stored."""
        self.began = time.monotonic()
        self.owners |= self.leasing()
        pid = choice.choice(self.ranks())
        os.kill(pid, signal.SIGKILL)
        return unstored(self.samples, pid)

    def kill_all(self) -> None:
        for pid in [self.process.pid, *self.ranks()]:
            os.kill(pid, signal.SIGKILL)

    def wait(self) -> float:
        """Seconds until the command ended."""
        self.process.wait()
        time.sleep(0.2)  # ranks whose parent was killed are reaped by init
        return time.monotonic() - self.began

    def text(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def succeed(self) -> float:
        seconds = self.wait()
        assert self.process.returncode == 0, self.text()
        return seconds


def unstored(samples: Path, pid: int | None = None) -> int:
    """Images that killed processes (or one) had finished and not stored; their leases tell."""
    folder, images = open_folder(samples), 0
    for path in samples.glob("*.lease"):
        with contextlib.suppress(FileNotFoundError, ValueError):
            lease = json.loads(path.read_text())
            if pid in (None, lease["pid"]):
                there = folder.length(int(path.stem.split("-")[1]))
                images += max(0, lease["images"] - there)
    return images


def kill_and_finish(settings: Sequence[str], samples: Path, processes: int) -> int:
    """Kill a run after its first shard and have it finished; return how many shards were stored.

    Raises:
        AssertionError: if it ended before it could be killed, with what it said.
    """
    killed = Launch(settings, samples, processes)
    killed.wait_for_shard()
    assert killed.process.poll() is None, killed.text()
    killed.kill_all()
    killed.wait()
    folder = open_folder(samples)
    lacking = len(folder.lacking(folder.count()))
    assert lacking, "the run was finished before it was killed; ask for more images"
    stored = -(-folder.count() // folder.shard_size) - lacking
    Launch(settings, samples, processes).succeed()
    return stored


def main(like: Path, samples: Path, processes: int, settings: Sequence[str]) -> None:
    stored = kill_and_finish(settings, samples, processes)
    expected, folder = open_folder(like), open_folder(samples)
    digests = [folder_digest(one, one.count()) for one in (expected, folder)]
    shards = -(-folder.count() // folder.shard_size)
    print(
        f"{processes} ranks killed with {stored} of {shards} shards stored, then finished: "
        f"{folder.count()} images, {'the same' if digests[0] == digests[1] else 'OTHER'} hash "
        f"{digests[1][:16]}"
    )
    sys.exit(digests[0] != digests[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve(), int(sys.argv[3]), sys.argv[4:])
