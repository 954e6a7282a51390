"""Leases on shards, by which any number of processes, on any machines, share one folder.

A lease is a file beside the shard, created with O_EXCL, that its owner rewrites while it is alive.
Clocks are never compared: a lease counts as abandoned when an observer, by its own clock, has seen
it unchanged for ``stale_seconds``, or at once when its owner was a process of this machine that has
ended. Leases save work and protect nothing: two owners of one shard would store the same images.
"""

import contextlib
import functools
import json
import math
import os
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from models.files import where_known
from stitch.runs import listing
from stitch.runs.owner import storing

_WIDTH = 320  # bytes of every version of a lease, so that it can be overwritten in place
_LONGEST_GAP = 3  # beats that may pass between two looks and count in full


class Leases:
    """The leases of one process on the shards of a folder; released when the block ends.

    Args:
        folder: where the shards are.
        beat_seconds: time between rewrites of the held leases.
        stale_seconds: how long another machine's lease must stay unchanged to be taken over.
    """

    def __init__(self, folder: Path, beat_seconds: float = 5.0, stale_seconds: float = 60.0):
        self.folder, self.beat_seconds, self.stale_seconds = folder, beat_seconds, stale_seconds
        self._owner = {"owner": uuid.uuid4().hex, **_process()}
        self._held: dict[int, tuple[int, int]] = {}  # shard -> file descriptor, images
        self._seen: dict[int, tuple[bytes, float, float]] = {}  # text, last look, seconds unchanged
        self._beats = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Leases":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._stop.set()
        self._thread.join()
        for shard in list(self._held):
            self.release(shard)

    def path(self, shard: int) -> Path:
        return listing.named(self.folder, shard, listing.LEASE)

    def take(self, shard: int, free: bool = False) -> bool:
        """Claim ``shard`` unless a live process holds it; return whether that succeeded.

        Args:
            free: whether it was seen without a lease: one that is there now is not read.

        Raises:
            ShardError: if the folder cannot be written to.
        """
        path = self.path(shard)
        if shard in self._held:
            return False
        with storing(path):
            file = _create(path)
            if file is None and not free and self.remove_abandoned(shard):
                file = _create(path)
            if file is None:
                return False
            with self._lock:
                self._held[shard] = file, 0
                self._write(shard)
        return True

    def suspects(self, shards: Sequence[int]) -> tuple[int, int]:
        """Of leased shards, the one seen unchanged for longest and the one unseen for longest.

        Where nothing is known, the first of ``shards``, which has one at least.
        """
        never = (b"", -math.inf, 0.0)
        last_look = {shard: self._seen.get(shard, never)[1] for shard in shards}
        unchanged = {shard: self._seen.get(shard, never)[2] for shard in shards}
        return max(shards, key=unchanged.get), min(shards, key=last_look.get)

    def remove_abandoned(self, shard: int) -> bool:
        """Delete the lease on ``shard`` if its owner is dead; return whether there is none now."""
        text, lease = self._read(shard)
        if text is None or not self._abandoned(shard, text, lease):
            return text is None
        path = self.path(shard)
        grave = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.rename(grave)
            mistaken = grave.read_bytes() != text
            if mistaken:
                # Another observer was faster, and this is its own lease: put it back.
                with contextlib.suppress(FileExistsError), where_known():
                    os.link(grave, path)
                if not path.exists():
                    grave.rename(path)  # without hard links
            grave.unlink(missing_ok=True)
        except FileNotFoundError:
            return False
        return not mistaken

    def report(self, shard: int, images: int) -> None:
        """Tell the others how many images of a leased shard are sampled."""
        with self._lock, contextlib.suppress(OSError):
            self._held[shard] = self._held[shard][0], images
            self._write(shard)

    def release(self, shard: int) -> None:
        """Give ``shard`` back, finished or not."""
        with self._lock, contextlib.suppress(OSError):
            os.close(self._held.pop(shard)[0])
        if self._read(shard)[1].get("owner") == self._owner["owner"]:
            self.path(shard).unlink(missing_ok=True)

    def progress(self) -> dict[int, int]:
        """Images sampled so far of every leased shard; reads as many files."""
        shards = listing.look(self.folder).leased
        leases = {shard: self._read(shard)[1] for shard in shards}
        return {shard: lease.get("images", 0) for shard, lease in leases.items()}

    def _abandoned(self, shard: int, text: bytes, lease: dict) -> bool:
        now = time.monotonic()
        last_text, last_look, unchanged = self._seen.get(shard, (None, now, 0.0))
        here = bool(lease and lease["machine"] and lease["machine"] == self._owner["machine"])
        # A long gap between two looks counts little: this process or the file system may have hung.
        gap = min(now - last_look, _LONGEST_GAP * self.beat_seconds)
        unchanged = unchanged + gap if text == last_text and not here else 0.0
        self._seen[shard] = text, now, unchanged
        if here:
            return _started(lease["pid"]) != lease["started"]
        return unchanged >= self.stale_seconds

    def _read(self, shard: int) -> tuple[bytes | None, dict]:
        """A lease's text (None if missing) and content (empty while its owner is writing)."""
        try:
            text = self.path(shard).read_bytes()
        except OSError:
            return None, {}
        try:
            lease = json.loads(text)
        except ValueError:
            return text, {}
        whole = isinstance(lease, dict) and {*self._owner, "images"} <= lease.keys()
        sound = whole and type(lease["pid"]) is type(lease["images"]) is int
        return text, lease if sound else {}

    def _write(self, shard: int) -> None:
        file, images = self._held[shard]
        self._beats += 1
        lease = json.dumps({**self._owner, "images": images, "beat": self._beats})
        # Written through its descriptor, so that a lost lease never overwrites another one.
        os.pwrite(file, lease.ljust(_WIDTH).encode(), 0)

    def _beat(self) -> None:
        while not self._stop.wait(self.beat_seconds):
            with self._lock:
                for shard, (file, _) in self._held.items():
                    with contextlib.suppress(OSError):
                        self._write(shard)
                        os.fsync(file)  # other machines see it only then


def _create(path: Path) -> int | None:
    """A descriptor of the new file at ``path``; None if there is one."""
    try:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return None


@functools.cache
def _machine() -> str | None:
    """The scope in which process ids are unique: a boot and a container; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _process() -> dict:
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _started(pid: int) -> str | None:
    """When a process of this machine started, in ticks since the boot; None if it is gone."""
    try:
        # proc(5): after the name, which may hold anything, come fields 3 (state) and up.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # dead but unreaped; field 22, starttime
