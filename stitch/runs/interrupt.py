"""Signals that ask a process to end: heard after the batch in hand."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from stitch.runs import distributed

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """A block that SIGTERM (torchrun, Slurm) and SIGINT ask to end instead of ending it.

    It gets a function that tells whether one has come; a second one acts at once. After the block
    the process exits with ``EXIT_INTERRUPTED``. SIGUSR2 belongs to whoever handles it, as submitit
    does to put a preempted job back into the queue: it gets the signal when the block has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals are the main thread's
        return
    received = []

    def note(number: int, _) -> None:
        signal.signal(number, before[number])
        received.append(signal.Signals(number))

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if callable(signal.getsignal(signal.SIGUSR2)):
        before[signal.SIGUSR2] = signal.getsignal(signal.SIGUSR2)
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        print(
            f"rank {distributed.rank()}: {received[0].name} received, finished batches are stored; "
            "the same command goes on",
            file=sys.stderr,
        )
        if signal.SIGUSR2 in received:
            signal.raise_signal(signal.SIGUSR2)
            sys.exit(0)  # another task puts the job back; Slurm may end it if this one fails
        sys.exit(EXIT_INTERRUPTED)
