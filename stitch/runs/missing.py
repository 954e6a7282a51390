"""Which shards of a folder are missing, which of them a rank takes next, and how often it looks.

What a rank asks of the file system does not grow with the shards that are missing, but for the
length of a directory listing, and there are few of those: a rank leases the shards of its own part
one after the other and looks again when there are no more, or somebody was faster. A rank that
waits for others reads one of their leases at a time and looks again when one is gone.
"""

import itertools
import random
from collections.abc import Iterator

from stitch.runs import listing
from stitch.runs.leases import Leases
from stitch.runs.shards import ShardFolder

POLL_SECONDS = 0.5  # at least, between two polls of a rank that waits
LATE = 0.1  # of the time that a rank has waited may pass until it sees that the wait is over
POLLS_PER_SECOND = 100, 500  # of all ranks together: that many suffice, and more may never be
_TRIES = 3  # shards that are tried by one listing, beside the rank's own


class Missing:
    """The shards of a run that are not whole, by what their folder shows.

    Args:
        only: the one shard that counts; the others are not looked at.

    Attributes:
        shards: those that are not whole.
        seen: the names in the folder.
    """

    def __init__(self, folder: ShardFolder, num_images: int, only: int | None = None):
        self.folder, self.num_images, self.only = folder, num_images, only
        self.shards = set(range(-(-num_images // folder.shard_size))) if only is None else {only}
        self.seen = listing.Listing()
        self._lengths: dict[int, int] = {}
        self.look()

    def look(self) -> None:
        """See what is there now, in a folder that ``remove_damaged`` has verified.

        This is one listing, and the end of one shard if fewer images than a shard are wanted of it.
        """
        if self.only is not None:
            self._drop_if_whole(self.only)
            return
        self.seen = listing.look(self.folder.path)
        self.shards -= self.seen.stored - self.seen.short
        last = self.num_images // self.folder.shard_size  # there is none if all are full
        if last in self.shards & self.seen.stored:
            self._drop_if_whole(last)

    def _drop_if_whole(self, shard: int) -> None:
        if self.folder.length(shard) >= len(self.folder.indices(shard, self.num_images)):
            self.shards.discard(shard)

    def images(self, leased: dict[int, int] | None = None) -> int:
        """How many images are not there, those that leases speak of not counted.

        Reads the ends of those shards that are there in part, each once.
        """
        return sum(
            len(self.folder.indices(shard, self.num_images))
            - max(self._length(shard), (leased or {}).get(shard, 0))
            for shard in self.shards
        )

    def _length(self, shard: int) -> int:
        if shard not in self.seen.stored:
            return 0
        if shard not in self._lengths:
            self._lengths[shard] = self.folder.length(shard)
        return self._lengths[shard]

    def remove_leftovers(self, shard: int) -> None:
        """Delete what killed processes left of ``shard``; for who knows that none is at it."""
        for path in self.seen.leftovers.get(shard, []):
            path.unlink(missing_ok=True)

    def tidy(self, leases: Leases) -> None:
        """Delete what killed processes left in a folder where no shard is missing any more."""
        for shard in self.seen.leased:
            leases.remove_abandoned(shard)
        count = -(-self.num_images // self.folder.shard_size)
        for shard in self.seen.leftovers.keys() - self.seen.leased:
            if shard < count:
                self.remove_leftovers(shard)


class Search:
    """The way of one rank through the missing shards.

    Args:
        part, parts: the rank begins with its part of so many equal ones.

    Attributes:
        outdated: whether there is more to be had if it looks again.
    """

    def __init__(self, missing: Missing, leases: Leases, part: int = 0, parts: int = 1):
        self.missing, self.leases, self.ranks, self.outdated = missing, leases, parts, False
        shards = sorted(missing.shards)
        first, end = (k * len(shards) // parts for k in (part, part + 1))
        self._own = shards[first:end]
        self._disturbed = False  # by other ranks that take shards of the same part
        # A lease on one of its own may be of the process that this one stands in for.
        leased = [shard for shard in self._own if shard in missing.seen.leased]
        self._candidates = itertools.chain(leased, self._choose())

    def look(self) -> None:
        """See what is there now."""
        self.missing.look()
        self._candidates = self._choose()
        self.outdated = False

    def take(self) -> int | None:
        """Lease a missing shard; None if none could be got of what the last look showed.

        Raises:
            ShardError: if the folder cannot be written to.
        """
        for shard in self._candidates:
            free = self.missing.only is None and shard not in self.missing.seen.leased
            if self.leases.take(shard, free):
                self.outdated = True
                return shard
            if free and not self._disturbed:
                self._disturbed = self.outdated = True
        return None

    def _choose(self) -> Iterator[int]:
        """Those of its own that are free, one after the other; if there are none, a few others."""
        leased = self.missing.shards & self.missing.seen.leased
        free = self.missing.shards - leased
        self.ranks = max(self.ranks, len(leased))
        own = [] if self._disturbed else [shard for shard in self._own if shard in free]
        for shard in own:
            yield shard
            if self._disturbed:
                return
        if not own:
            # At random: many ranks that are done with their own at once want different ones.
            yield from random.sample(sorted(free), min(_TRIES, len(free)))

    def may_go_on(self) -> bool:
        """Whether a rank that found no shard to take should look again; reads one lease.

        There is something new if it is gone. An abandoned one is deleted.
        """
        leased = self.missing.shards & self.missing.seen.leased
        if not leased or leased != self.missing.shards:
            return True  # others were faster: only a look tells how it stands
        # In any order at first, so that ranks share the watching.
        shuffled = random.sample(sorted(leased), len(leased))
        return self.leases.remove_abandoned(random.choice(self.leases.suspects(shuffled)))

    def pause(self, waited: float) -> float:
        """Seconds until a rank that has waited so long for others is to see to them again.

        All ranks may be waiting, so many of them do it less often; the longer the wait, the less it
        matters to know its end at once.
        """
        enough, most = (max(POLL_SECONDS, self.ranks / polls) for polls in POLLS_PER_SECOND)
        return min(enough, max(most, LATE * waited)) * random.uniform(0.5, 1.5)
