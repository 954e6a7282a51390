"""Counts what Python asks of the file system, by its own audit events."""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_EVENTS = ("open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.link", "os.mkdir")
_counting: list[tuple[str, Counter]] = []


def _note(event: str, arguments: tuple) -> None:
    if event in _EVENTS:
        for folder, counts in _counting:
            if str(arguments[0]).startswith(folder):
                counts[event.removeprefix("os.")] += 1


sys.addaudithook(_note)  # it can never be removed, and does nothing while nobody counts


@contextlib.contextmanager
def operations(folder: Path) -> Iterator[Counter]:
    """Counts of what is opened, listed, renamed, removed, linked and made in ``folder`` meanwhile.

    Reading, writing and closing of what is open, and ``stat``, have no events.
    """
    counting = str(folder), Counter()
    _counting.append(counting)
    try:
        yield counting[1]
    finally:
        _counting.remove(counting)
