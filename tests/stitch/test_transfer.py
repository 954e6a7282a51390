"""Copies that the host does not wait for, and work that is given to a device ahead of time."""

import pytest
import torch

from stitch import transfer
from stitch.transfer import Arriving, ahead, onto

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def order(count: int, device: torch.device) -> list[str]:
    """What happens when ``count`` batches are launched and each is waited for."""
    events = []

    def launched():
        for number in range(count):
            events.append(f"launch {number}")
            yield number

    for number in ahead(launched(), device):
        events.append(f"wait {number}")
    return events


def test_a_gpu_has_the_next_batch_before_the_host_waits_for_one():
    assert order(3, GPU) == ["launch 0", "launch 1", "wait 0", "launch 2", "wait 1", "wait 2"]
    assert order(1, GPU) == ["launch 0", "wait 0"]
    assert order(0, GPU) == []


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_nothing_is_launched_ahead_where_copies_make_the_host_wait(device):
    assert order(2, torch.device(device)) == ["launch 0", "wait 0", "launch 1", "wait 1"]


def test_no_more_than_one_batch_is_launched_and_not_handed_over():
    taken = ahead(iter(range(9)), GPU)
    assert next(taken) == 0
    assert [next(taken) for _ in range(3)] == [1, 2, 3]


def test_a_tensor_is_read_after_its_copy_has_ended_and_not_in_pinned_memory(monkeypatch):
    events = []

    class Event:
        def __init__(self, device):
            events.append("event")

        def record(self):
            events.append("record")

        def synchronize(self):
            events.append("synchronize")
            there.fill_(7)  # the copy ends now

    there = torch.zeros(3)
    monkeypatch.setattr(transfer, "_ASYNCHRONOUS", ("cpu",))
    monkeypatch.setattr(torch, "Event", Event)
    arriving = Arriving(there)
    assert events == ["event", "record"]
    here = arriving.wait()
    assert events == ["event", "record", "synchronize"]
    assert here.tolist() == [7, 7, 7]
    assert here.data_ptr() != there.data_ptr()


def test_on_a_cpu_nothing_is_copied():
    tensor = torch.arange(3)
    assert Arriving(tensor).wait() is tensor
    assert onto(tensor, CPU) is tensor
