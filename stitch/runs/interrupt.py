"""Signals that ask a process to end, handled after the current batch."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from stitch.runs import distributed

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """A block in which SIGTERM (torchrun, Slurm) and SIGINT only request an end.

    It yields a function that returns whether a signal has arrived; a second signal acts at once.
    After the block, the process exits with ``EXIT_INTERRUPTED``. SIGUSR2 is included if it has a
    handler, such as submitit's, which requeues a preempted job: the handler gets the signal after
    the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread gets signals
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
            "the same command resumes",
            file=sys.stderr,
        )
        if signal.SIGUSR2 in received:
            signal.raise_signal(signal.SIGUSR2)
            sys.exit(0)  # another task requeues the job; Slurm may end it if this one fails
        sys.exit(EXIT_INTERRUPTED)
