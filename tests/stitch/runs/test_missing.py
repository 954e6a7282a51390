"""What ranks ask of a shared file system, and which shards they take."""

import json

import numpy as np
import pytest

from stitch.runs.fill import begin, fill
from stitch.runs.leases import Leases
from stitch.runs.missing import Missing, Search
from stitch.runs.shards import ShardFolder
from tests.stitch.runs.operations import operations
from tests.stitch.runs.test_shards import RUN, content

SHARD = 6


@pytest.fixture
def folder(tmp_path):
    folder = ShardFolder(tmp_path / "samples", RUN, SHARD)
    folder.mark(SHARD)
    return folder


class Elsewhere(Leases):
    """Leases of a process on another machine; ``beat`` is a sign of life of all of them."""

    def __init__(self, folder):
        super().__init__(folder, beat_seconds=1000)
        self._owner["machine"] = "another"

    def beat(self, but: int | None = None) -> None:
        for shard in self._held:
            if shard != but:
                self.report(shard, 0)


def generate(indices):
    if indices:
        images, labels = content(indices)
        yield indices, images, labels.tolist()


def after(first, argument, then):
    """A function that calls one and returns what another does."""

    def both():
        first(argument)
        return then()

    return both


@pytest.mark.parametrize("count", [3, 300])
def test_a_wait_asks_the_same_however_many_shards_are_missing(folder, count):
    with Elsewhere(folder.path) as others, Leases(folder.path) as leases:
        assert all(others.take(shard) for shard in range(count))
        search = Search(Missing(folder, count * SHARD), leases, part=1, parts=2)
        assert search.take() is None
        with operations(folder.path) as asked:
            assert not any(search.may_go_on() for _ in range(10))
        assert asked == {"open": 10}  # a lease each time, and the folder is not listed
        others.release(0)
        assert wait(search) == 0


def wait(search: Search) -> int | None:
    """The shard that a waiting rank gets in the end."""
    for _ in range(2000):
        if search.may_go_on():
            search.look()
            if (shard := search.take()) is not None:
                return shard
    return None


def test_a_thousand_waiting_ranks_look_so_often_together_that_the_server_bears_it(folder):
    with Leases(folder.path) as leases:
        for ranks in (1, 8, 64, 1024):
            search = Search(Missing(folder, SHARD), leases, parts=ranks)
            for waited, most in ((0.0, 500), (10.0, 500), (1000.0, 100)):
                pauses = [search.pause(waited) for _ in range(200)]
                assert ranks / np.mean(pauses) <= max(1.1 * most, 2.2 * ranks)
                # The end of a wait is seen within a tenth of it, or soon enough for anybody.
                assert max(pauses) <= 1.5 * max(0.5, 0.1 * waited, ranks / 500)


def test_ranks_that_joined_one_by_one_are_counted_by_their_leases(folder):
    with Elsewhere(folder.path) as others, Leases(folder.path) as leases:
        assert all(others.take(shard) for shard in range(300))
        search = Search(Missing(folder, 300 * SHARD), leases)
        assert search.take() is None
        assert np.mean([search.pause(1000.0) for _ in range(100)]) > 2.5


def test_a_rank_alone_lists_the_folder_a_few_times_and_opens_what_it_makes(folder):
    count = 60
    begin(folder, count * SHARD)
    with operations(folder.path) as asked:
        assert fill(folder, count * SHARD, generate, SHARD)
    assert asked["listdir"] <= 4
    # Leases are made and read, shards looked for, written and flushed, times noted.
    assert asked["open"] <= 9 * count + 10
    folder.require(count * SHARD)


def test_a_resumed_run_opens_none_of_the_shards_that_are_whole(folder):
    for shard in range(50):
        folder.write(shard, *content(folder.indices(shard, 51 * SHARD)))
    with operations(folder.path) as asked:
        assert fill(folder, 51 * SHARD, generate, SHARD)
    assert asked["open"] <= 15 and asked["listdir"] <= 4


def test_ranks_take_their_own_part_in_order_and_then_what_is_left(folder):
    with Leases(folder.path) as leases, Leases(folder.path) as others:
        search = Search(Missing(folder, 12 * SHARD), leases, part=1, parts=3)
        assert [search.take() for _ in range(5)] == [4, 5, 6, 7, None]
        assert others.take(2)
        taken = {4, 5, 6, 7}
        while search.outdated:
            search.look()
            while (shard := search.take()) is not None:
                assert shard not in taken
                taken.add(shard)
        assert taken == set(range(12)) - {2}


def test_two_ranks_that_begin_at_the_same_shards_soon_part(folder):
    with Leases(folder.path) as a, Leases(folder.path) as b:
        searches = [Search(Missing(folder, 40 * SHARD), leases) for leases in (a, b)]
        taken = []
        with operations(folder.path) as asked:
            while len(taken) < 40:
                for search in searches:
                    shard = search.take()
                    if shard is None:
                        search.look()
                    else:
                        taken.append(shard)
        assert sorted(taken) == list(range(40))
        assert asked["open"] <= 40 + 40


def test_the_lease_of_a_dead_machine_is_found_among_those_of_the_living(folder, monkeypatch):
    with Elsewhere(folder.path) as others:
        assert all(others.take(shard) for shard in range(30))
        with Leases(folder.path, beat_seconds=0.02, stale_seconds=0.2) as leases:
            search = Search(Missing(folder, 30 * SHARD), leases)
            assert search.take() is None
            monkeypatch.setattr(search, "may_go_on", after(others.beat, 17, search.may_go_on))
            assert wait(search) == 17


def test_the_lease_of_the_process_that_a_rank_stands_in_for_is_taken_first(folder):
    with Leases(folder.path) as leases:
        assert leases.take(5)
        text = json.loads(leases.path(5).read_text())
    leases.path(5).write_text(json.dumps({**text, "pid": 2**22 + 1}))
    with Leases(folder.path) as leases:
        search = Search(Missing(folder, 12 * SHARD), leases, part=1, parts=3)
        assert [search.take() for _ in range(4)] == [5, 4, 6, 7]


def test_names_tell_whole_shards_from_those_begun(folder):
    folder.write(0, *content(range(6)))
    folder.write(1, *content(range(6, 10)))
    folder.write(3, *content(range(18, 20)))
    assert Missing(folder, 24).shards == {1, 2, 3}
    assert Missing(folder, 24).images() == 2 + 6 + 4
    assert Missing(folder, 20).shards == {1, 2}  # two images are all that is wanted of the last
    folder.write(1, *content(range(6, 12)))
    assert Missing(folder, 20).shards == {2}


def test_shards_of_before_marks_are_told_apart_when_a_run_begins(folder):
    folder.write(0, *content(range(4)))
    folder.write(1, *content(range(6, 12)))
    (folder.path / "shard-000000.short").unlink()
    assert begin(folder, 12) == 2
    assert fill(folder, 12, generate, SHARD)
    folder.require(12)
    assert not list(folder.path.glob("*.short"))


def test_a_mark_that_a_kill_left_on_a_whole_shard_does_no_harm(folder):
    folder.write(0, *content(range(6)))
    (folder.path / "shard-000000.short").touch()
    before = folder.shard_path(0).read_bytes()
    assert begin(folder, 12) == 6
    made = []

    def noted(indices):
        made.extend(indices)
        yield from generate(indices)

    assert fill(folder, 12, noted, SHARD)
    assert made == list(range(6, 12))
    assert folder.shard_path(0).read_bytes() == before
    assert not list(folder.path.glob("*.short"))
