"""Leases: one owner per shard, the dead give way, clocks do not matter."""

import errno
import json
import os
import signal
import time

import pytest

from stitch.runs.leases import Leases
from stitch.runs.shards import ShardError
from tests.stitch.runs.ranks import context


def leases(folder):
    return Leases(folder, beat_seconds=0.05, stale_seconds=0.3)


def watch(observer, seconds=30.0):
    """Look at shard 0 again and again, for so long at most; whether it could be taken."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if observer.take(0):
            return True
        time.sleep(0.01)
    return False


def hold_forever(folder):
    with leases(folder) as owner:
        owner.take(0)
        owner.report(0, 12)
        time.sleep(60)


def move_to_another_machine(lease):
    """As the file of an owner on another machine, where process numbers tell nothing."""
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "machine": "another"}))


@pytest.fixture
def dead(tmp_path):
    """The lease that a killed process left behind."""
    process = context.Process(target=hold_forever, args=(tmp_path,))
    process.start()
    # Not an event of multiprocessing: killed while it sets one, the child would keep its lock.
    observer, deadline = leases(tmp_path), time.monotonic() + 30
    while observer.progress() != {0: 12} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert observer.progress() == {0: 12}
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return tmp_path / "shard-000000.lease"


def test_a_shard_is_leased_once_until_it_is_released(tmp_path):
    with leases(tmp_path) as a, leases(tmp_path) as b:
        assert a.take(0)
        assert not b.take(0) and not a.take(0)
        assert b.take(1)
        a.release(0)
        assert b.take(0)
    assert list(tmp_path.iterdir()) == []


def test_everybody_sees_how_many_images_of_leased_shards_are_made(tmp_path):
    with leases(tmp_path) as a, leases(tmp_path) as b:
        a.take(3)
        b.take(1000000)
        a.report(3, 20)
        assert a.progress() == b.progress() == {3: 20, 1000000: 0}


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(dead, tmp_path):
    with leases(tmp_path) as observer:
        assert observer.progress() == {0: 12}
        assert observer.take(0)


def test_the_lease_of_another_machine_is_taken_when_it_has_not_changed_for_long(dead, tmp_path):
    move_to_another_machine(dead)
    with leases(tmp_path) as observer:
        assert not watch(observer, 0.2)
        assert watch(observer)


@pytest.mark.parametrize("content", ["", "{", "[]x", "[]", "{}", '{"machine": "x"}', "\xff"])
def test_a_lease_without_sense_is_taken_when_it_has_not_changed_for_long(content, tmp_path):
    (tmp_path / "shard-000000.lease").write_text(content)
    with leases(tmp_path) as observer:
        assert observer.progress() == {0: 0}
        assert not observer.take(0)
        assert watch(observer)


@pytest.mark.parametrize("hours", [-9, 9])
def test_neither_the_living_nor_the_dead_are_judged_by_the_times_of_files(dead, tmp_path, hours):
    other = time.time() + 3600 * hours
    move_to_another_machine(dead)
    os.utime(dead, (other, other))
    with leases(tmp_path) as owner, leases(tmp_path) as observer:
        assert not observer.take(0)
        assert watch(observer)
        observer.release(0)
        owner._owner["machine"] = "another"
        assert owner.take(0)
        os.utime(dead, (other, other))
        assert not watch(observer, 1.0)


def test_an_observer_that_slept_does_not_condemn_the_others(dead, tmp_path):
    move_to_another_machine(dead)
    with leases(tmp_path) as observer:
        assert not observer.take(0)
        time.sleep(1)
        assert not observer.take(0)


def test_who_lost_a_lease_does_not_disturb_its_new_owner(tmp_path):
    with leases(tmp_path) as a, leases(tmp_path) as b:
        a.take(0)
        a.path(0).unlink()
        assert b.take(0)
        b.report(0, 5)
        a.report(0, 7)
        time.sleep(0.2)
        assert b.progress() == {0: 5}
        a.release(0)
        assert b.progress() == {0: 5}


def test_a_folder_that_cannot_be_written_to_is_one_clear_error(tmp_path):
    with (
        leases(tmp_path / "absent") as owner,
        pytest.raises(ShardError, match=r"cannot write .*lease: No such file or directory"),
    ):
        owner.take(0)


def test_a_lease_taken_by_mistake_is_put_back_without_hard_links(dead, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "link", fail)
    text = dead.read_bytes()
    with leases(tmp_path) as observer:
        monkeypatch.setattr(observer, "_read", lambda shard: (b"seen before", {}))
        monkeypatch.setattr(observer, "_abandoned", lambda *_: True)
        observer.remove_abandoned(0)
    assert dead.read_bytes() == text
    assert list(tmp_path.iterdir()) == [dead]


def test_a_file_system_without_fsync_does_not_stop_the_beat(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fail)
    with leases(tmp_path) as owner, leases(tmp_path) as observer:
        assert owner.take(0) and owner.take(1)
        for shard in (0, 1):
            before = owner.path(shard).read_bytes()
            deadline = time.monotonic() + 20
            while owner.path(shard).read_bytes() == before and time.monotonic() < deadline:
                time.sleep(0.01)
            assert owner.path(shard).read_bytes() != before
        assert not observer.take(0)
