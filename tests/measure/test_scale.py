"""The model of many ranks, where its answer is known."""

import dataclasses

import pytest

from tests.measure.scale.simulation import STORING, Job, Storage, simulate

FREE = Storage(latency=0.0, capacity=1e12, bandwidth=1e15)
JOB = Job(ranks=4, images=1200, shard_size=50, batch_size=10, image_seconds=0.1, storage=FREE)


def change(**changes):
    return simulate(dataclasses.replace(JOB, **changes))


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("ranks, size, rounds", [(1, 50, 24), (4, 50, 6), (5, 50, 5), (7, 600, 1)])
def test_ranks_that_cost_nothing_take_as_long_as_the_longest_of_them(names, ranks, size, rounds):
    result = change(ranks=ranks, shard_size=size, names=names)
    least = rounds * size * 0.1
    # A rank that waits sees the end half a second late, or a tenth of its wait.
    assert least <= result.seconds <= least + max(0.75, 0.15 * least)
    assert result.sampling == pytest.approx(120)
    assert (result.lost, result.deaths) == (0, 0)


def test_a_kill_costs_what_was_not_stored_and_the_time_until_the_restart():
    result = change(ranks=1, kills=((7.04, 0),), restart=3.0)
    assert (result.lost, result.deaths) == (20, 1)  # of the second shard; a third batch was begun
    assert result.seconds == pytest.approx(120 + 2.04 + 3.0, abs=0.1)
    result = change(ranks=1, shard_size=1200, kills=((70.04, 0),), restart=3.0)
    assert result.lost == 100  # what was made after a minute, when it was stored
    assert result.seconds == pytest.approx(120 + 10.04 + 3.0, abs=0.1)


def test_if_all_are_restarted_the_others_lose_the_batch_in_hand_and_the_time():
    alone = change(kills=((7.04, 0),), restart=100.0)
    together = change(kills=((7.04, 0),), restart=100.0, together=True)
    assert alone.lost == together.lost == 20
    assert alone.seconds < 60 < 120 < together.seconds < 140


def test_the_shard_of_a_dead_machine_is_made_by_others_after_a_minute():
    dead = change(ranks=2, node=1, kills=((7.04, 0),), restart=1000.0)
    # 22 shards by the other rank; then it sees for a minute that nobody is at the last one.
    assert 110 + 60 + 5 <= dead.seconds <= 110 + 60 + 5 + 10
    near = change(ranks=2, node=2, kills=((7.04, 0),), restart=1000.0)
    assert near.seconds == pytest.approx(115, abs=1)


def test_operations_are_counted():
    shards, beats = 24 * STORING, 2 * 120 / 5
    by_names = change(ranks=1).operations
    assert by_names == pytest.approx(shards + beats + 2, abs=0.1)  # two listings
    by_opening = change(ranks=1, names=False).operations
    opened = sum(range(1, 25))
    # Before a shard is taken, all missing ones are opened; the folder is listed for each.
    assert shards + beats + opened <= by_opening <= shards + beats + opened + 11 * 24


def test_a_slow_server_is_shared_by_all():
    result = change(storage=Storage(latency=0.001, capacity=10.0))
    asked = result.operations - 2 * 120 / 5
    assert asked / 10 <= result.seconds <= asked / 10 + 10
    assert result.seconds > change().seconds + 15
