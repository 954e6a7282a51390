"""A walk can be watched, stopped between two steps, and left."""

import dataclasses
import threading
import time

import numpy as np
import pytest

from eval.explorer import walking
from eval.explorer.walking import Walker


@pytest.fixture
def run(studio):
    return studio.run(studio.first)


@pytest.fixture
def walker(studio):
    return Walker(lambda: studio.preview)


def test_every_step_may_be_seen_and_the_last_view_is_the_images(walker, run):
    views = list(walker.views(run, threading.Event()))
    assert [view.done for view in views] == [False] * 4 + [True]
    assert [view.step for view in views] == [1, 2, 3, 4, 4]
    assert {view.images.shape for view in views} == {(4, 28, 28, 1)}
    seconds = [view.seconds for view in views]
    assert seconds == sorted(seconds) and seconds[0] > 0
    expected, _ = run.images(range(4))
    np.testing.assert_array_equal(views[-1].images, expected)


def test_a_walk_stops_after_the_step_in_hand(walker, run, monkeypatch):
    stop, walked = threading.Event(), []
    walk = run.__class__.walk

    def watched(self, indices, callback):
        def counted(**state):
            walked.append(state["step"])
            callback(**state)
            stop.set()  # as another thread would, after the first step

        return walk(self, indices, counted)

    monkeypatch.setattr(run.__class__, "walk", watched)
    views = list(walker.views(run, stop))
    assert [view.step for view in views] == [1, 2]
    assert walked == [0, 1]


def test_a_walk_that_was_stopped_before_it_began_makes_nothing(walker, run):
    stop = threading.Event()
    stop.set()
    assert list(walker.views(run, stop)) == []


def test_a_walk_that_nobody_looks_at_ends_and_lets_the_next_one_begin(walker, studio):
    long = studio.run(dataclasses.replace(studio.first, steps=100))
    views = walker.views(long, threading.Event())
    next(views)
    views.close()
    started = time.monotonic()
    assert [*walker.views(studio.run(studio.first), threading.Event())][-1].done
    assert time.monotonic() - started < 30


def test_walks_of_two_pages_do_not_disturb_each_other(walker, studio):
    first = studio.run(studio.first)
    second = studio.run(dataclasses.replace(studio.first, seed=1))
    found = {}

    def look(name, run):
        found[name] = [*walker.views(run, threading.Event())][-1].images

    threads = [threading.Thread(target=look, args=pair) for pair in
               (("a", first), ("b", second), ("c", first))]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found["a"], first.images(range(4))[0])
    np.testing.assert_array_equal(found["b"], second.images(range(4))[0])
    np.testing.assert_array_equal(found["a"], found["c"])


def test_a_waiting_walk_can_be_stopped(walker, studio):
    stop = threading.Event()
    with walker._alone:
        threading.Timer(0.2, stop.set).start()
        assert list(walker.views(studio.run(studio.first), stop)) == []


def test_the_clock_stands_still_while_a_view_is_looked_at(walker, run, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(walking, "_now", lambda run: clock[0])
    seconds = []
    for view in walker.views(run, threading.Event()):
        seconds.append(view.seconds)
        clock[0] += 100
    assert seconds == [0] * 5


def test_who_asks_for_no_more_is_not_waited_for(walker, run, monkeypatch):
    monkeypatch.setattr(walking, "_PATIENCE", 0.1)
    kept = walker.views(run, threading.Event())
    next(kept)
    assert walker._alone.acquire(timeout=60)
    walker._alone.release()
    assert list(kept) == []


def test_what_goes_wrong_in_a_walk_is_raised_where_it_is_watched(walker, run, monkeypatch):
    def broken(*_, **__):
        raise FloatingPointError("not finite")

    monkeypatch.setattr(run.__class__, "walk", broken)
    with pytest.raises(FloatingPointError, match="not finite"):
        list(walker.views(run, threading.Event()))
