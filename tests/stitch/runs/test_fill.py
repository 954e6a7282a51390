"""Filling a folder by real processes: nothing twice, nothing lost, whoever dies."""

import faulthandler
import logging
import os
import random
import re
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import InputError
from stitch.runs import distributed, interrupt, missing
from stitch.runs import fill as filling
from stitch.runs.fill import begin, fill
from stitch.runs.shards import ShardError, ShardFolder, folder_digest
from tests.stitch.runs.ranks import context
from tests.stitch.runs.test_shards import RUN, content

BATCH, SHARD, DISK_FULL = 2, 6, 28
PATIENCE = 120  # seconds in which a rank that does not hang has ended


def worker(path, num_images, rank, world, seconds, limit, store_seconds):
    """One rank; it notes every index that it makes, and what it says."""
    with open(path.parent / "stderr", "a") as file:
        os.dup2(file.fileno(), 2)
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    missing.POLL_SECONDS, filling.STORE_SECONDS = 0.01, store_seconds
    distributed.rank, distributed.world_size = lambda: rank, lambda: world
    logging.basicConfig(force=True)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def generate(indices):
        for start in range(indices.start, indices.stop, BATCH):
            batch = range(start, min(start + BATCH, indices.stop))
            time.sleep(seconds)
            with open(path.parent / "made", "a") as file:
                file.write("".join(f"{index}\n" for index in batch))
            images, labels = content(batch)
            yield batch, images, labels.tolist()

    folder = ShardFolder(path, RUN, SHARD)
    if begin(folder, num_images):
        try:
            fill(folder, num_images, generate, BATCH, "test")
        except ShardError as error:
            # Told by the exit code, for a file's limit is one of the terminal's too.
            complaint = f"cannot write {folder.shard_path(0)}: File too large; nothing finished is"
            os._exit(DISK_FULL if complaint in str(error) else 1)


class Workers:
    """The ranks of one launch, as processes."""

    def __init__(self, path, num_images, world, seconds=0.002, limit=None, store_seconds=60.0):
        self.stderr = path.parent / "stderr"
        arguments = (world, seconds, limit, store_seconds)
        self.processes = [
            context.Process(target=worker, args=(path, num_images, rank, *arguments))
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def signal(self, number, ranks=None):
        for rank in range(len(self.processes)) if ranks is None else ranks:
            if self.processes[rank].exitcode is None:
                os.kill(self.processes[rank].pid, number)

    def wait(self):
        for process in self.processes:
            process.join(2 * PATIENCE)
        said = self.stderr.read_text() if self.stderr.exists() else ""
        codes = [process.exitcode for process in self.processes]
        if None in codes:  # it would be waited for at the end of the suite, too
            self.signal(signal.SIGKILL)
        assert "Timeout (" not in said and None not in codes, f"a rank hangs:\n{said}"
        return codes


def made(path) -> list[int]:
    file = path.parent / "made"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def expected(num_images, folder) -> str:
    whole = ShardFolder(folder / "expected", RUN, max(num_images, 1))
    whole.write(0, *content(range(num_images)))
    return folder_digest(whole, num_images)


@settings(
    derandomize=True, deadline=None, max_examples=5,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(num_images=st.integers(1, 60), world=st.integers(1, 5))
def test_every_index_is_made_exactly_once_by_any_number_of_ranks(
    num_images, world, tmp_path_factory
):
    path = tmp_path_factory.mktemp("fill") / "samples"
    assert Workers(path, num_images, world).wait() == [0] * world
    assert sorted(made(path)) == list(range(num_images))
    assert folder_digest(ShardFolder(path, RUN, SHARD), num_images) == expected(
        num_images, path.parent
    )
    assert not list(path.glob("*.lease")) and not list(path.glob("*.tmp"))


def test_killed_in_any_order_the_folder_is_the_same_and_little_is_made_twice(tmp_path):
    path, choice = tmp_path / "samples", random.Random(0)
    killed = 0
    for world in (3, 1, 4, 2, 3):
        workers = Workers(path, 120, world, seconds=0.01)
        time.sleep(choice.uniform(0.05, 0.2))
        ranks = range(world) if choice.random() < 0.5 else [choice.randrange(world)]
        workers.signal(signal.SIGKILL, ranks)
        workers.signal(signal.SIGTERM)  # what torchrun does to the others
        workers.wait()
        killed += len(ranks)
    assert Workers(path, 120, 2).wait() == [0, 0]
    folder = ShardFolder(path, RUN, SHARD)
    assert folder_digest(folder, 120) == expected(120, tmp_path)
    assert set(made(path)) == set(range(120))
    assert len(made(path)) <= 120 + 2 * SHARD * killed  # one in hand, one being written
    assert not list(path.glob("*.lease"))


def test_two_launches_on_one_folder_share_its_work(tmp_path):
    path = tmp_path / "samples"
    launches = [Workers(path, 60, 2), Workers(path, 60, 1)]
    assert [code for workers in launches for code in workers.wait()] == [0, 0, 0]
    assert sorted(made(path)) == list(range(60))


def test_a_slow_rank_holds_nobody_up(tmp_path):
    path = tmp_path / "samples"
    slow = Workers(path, 60, 1, seconds=0.3)
    wait_for(lambda: list(path.glob("*.lease")))
    assert Workers(path, 60, 1).wait() == [0]
    assert slow.wait() == [0]
    assert sorted(made(path)) == list(range(60))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_after_the_batch_in_hand_and_nothing_is_made_twice(tmp_path, number):
    path = tmp_path / "samples"
    workers = Workers(path, 12, 1, seconds=0.5)
    wait_for(lambda: len(made(path)) >= 2)
    workers.signal(number)
    assert workers.wait() == [interrupt.EXIT_INTERRUPTED]
    assert f"rank 0: {number.name} received" in workers.stderr.read_text()
    folder = ShardFolder(path, RUN, SHARD)
    assert 2 <= sum(folder.length(shard) for shard in range(2)) == len(made(path)) < 12
    assert not list(path.glob("*.lease"))
    assert Workers(path, 12, 1).wait() == [0]
    assert sorted(made(path)) == list(range(12))
    assert folder_digest(folder, 12) == expected(12, tmp_path)


def test_a_second_signal_ends_at_once(tmp_path):
    workers = Workers(tmp_path / "samples", 12, 1, seconds=30)
    wait_for(lambda: list((tmp_path / "samples").glob("*.lease")))
    while workers.processes[0].is_alive():  # two that come together are one
        workers.signal(signal.SIGTERM)
        time.sleep(0.1)
    assert workers.wait() == [-signal.SIGTERM]


def test_of_a_long_shard_a_kill_costs_what_was_made_since_it_was_last_stored(tmp_path):
    path = tmp_path / "samples"
    workers = Workers(path, 6, 1, seconds=0.3, store_seconds=0.0)
    wait_for(lambda: ShardFolder(path, RUN, SHARD).length(0) >= 4)
    workers.signal(signal.SIGKILL)
    workers.wait()
    assert Workers(path, 6, 1).wait() == [0]
    assert sorted(made(path)) == list(range(6))
    assert folder_digest(ShardFolder(path, RUN, SHARD), 6) == expected(6, tmp_path)


def test_a_disk_that_takes_no_more_is_one_error_and_the_folder_stays_whole(tmp_path):
    path = tmp_path / "samples"
    assert Workers(path, 24, 1, limit=700).wait() == [DISK_FULL]
    assert sorted(file.name for file in path.iterdir()) == ["run.json"]
    assert Workers(path, 24, 2).wait() == [0, 0]
    assert folder_digest(ShardFolder(path, RUN, SHARD), 24) == expected(24, tmp_path)


def test_damaged_foreign_and_misplaced_shards_are_made_again(tmp_path):
    path = tmp_path / "samples"
    Workers(path, 30, 2).wait()
    folder, other = ShardFolder(path, RUN, SHARD), ShardFolder(tmp_path / "o", {"seed": 9}, SHARD)
    whole = [folder.shard_path(shard).read_bytes() for shard in range(5)]
    folder.shard_path(0).write_bytes(whole[0][:-30])
    flipped = bytearray(whole[1])
    flipped[len(flipped) // 4] ^= 4
    folder.shard_path(1).write_bytes(flipped)
    other.write(2, *content(range(12, 18)))
    other.shard_path(2).rename(folder.shard_path(2))
    folder.shard_path(3).write_bytes(whole[4])
    (path / ".shard-000000.npz.123.tmp").write_bytes(b"left by a kill")
    Workers(path, 30, 2).wait()
    assert [folder.shard_path(shard).read_bytes() for shard in range(5)] == whole
    assert sorted(made(path)) == sorted([*range(30), *range(24)])
    assert not list(path.glob(".*.tmp"))


def test_ranks_without_a_shard_say_so(tmp_path):
    workers = Workers(tmp_path / "samples", 2, 3, seconds=1)
    assert workers.wait() == [0, 0, 0]
    assert workers.stderr.read_text().count("of 3 has no shard to make") >= 1


def test_one_bar_counts_the_images_of_all_ranks(tmp_path):
    workers = Workers(tmp_path / "samples", 60, 3, seconds=0.05)
    assert workers.wait() == [0, 0, 0]
    said = workers.stderr.read_bytes().decode()
    ends = re.findall(r"60/60[^\r\n]*\n", said)  # every bar goes to a new line
    assert len(ends) == 1 and "img/s" in ends[0]


def test_shards_of_before_run_hashes_are_read(tmp_path):
    folder = ShardFolder(tmp_path, RUN, SHARD)
    folder.write(0, *content(range(6)))
    with np.load(folder.shard_path(0)) as file:
        old = {name: file[name] for name in ("images", "labels", "start", "sha256")}
    np.savez(folder.shard_path(0), **old)
    assert folder.missing(6) == [] and folder.remove_damaged(6) == []
    assert np.array_equal(folder.read(0)[0], content(range(6))[0])


def test_a_longer_shard_is_not_replaced_by_a_shorter_one(tmp_path):
    folder = ShardFolder(tmp_path, RUN, SHARD)
    folder.write(0, *content(range(6)))
    folder.write(0, *content(range(4)))
    assert folder.length(0) == 6


def test_of_two_runs_that_want_one_folder_the_second_is_refused(tmp_path):
    first = ShardFolder(tmp_path, RUN, SHARD)
    second = ShardFolder(tmp_path, {**RUN, "seed": 1}, SHARD)
    first.mark(6)
    with pytest.raises(InputError, match="seed is 0 there and 1 here"):
        second.mark(6)
    assert [Path(file).name for file in tmp_path.iterdir()] == ["run.json"]
