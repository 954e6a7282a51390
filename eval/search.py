"""Search settings for the frontier of quality and time: few images for many, many for few.

A setting is a choice on every axis of a space. A method varies some of the axes; the others keep
their first choice. Rounds are those of successive halving (Jamieson & Talwalkar 2016), by Pareto
fronts instead of by one number; between the tries of the first round, neighbours of the best are
tried as well. All settings have the same seeds.
"""

import itertools
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from models.errors import InputError
from stitch import pareto_frontier

log = logging.getLogger("search")

Setting = tuple[int, ...]  # the choice on every axis
Measure = Callable[[Sequence[Setting], int], Mapping[Setting, float]]


@dataclass(frozen=True)
class Space:
    """What is combined.

    Attributes:
        axes: name -> its choices, the first one that of methods that do not vary it.
        methods: name -> the axes that it varies.

    Raises:
        InputError: if there is nothing to choose from, or a method varies an unknown axis.
    """

    axes: Mapping[str, Sequence[str]]
    methods: Mapping[str, Sequence[str]]

    def __post_init__(self):
        empty = [name for name, choices in self.axes.items() if not choices]
        if empty or not self.axes or not self.methods:
            what = f"space.axes.{empty[0]}" if empty else "space.axes or space.methods"
            raise InputError(f"{what} is empty: there is nothing to search; give it choices")
        for name, varied in self.methods.items():
            unknown = [axis for axis in varied if axis not in self.axes]
            if unknown:
                raise InputError(
                    f"space.methods.{name} varies {', '.join(unknown)}, which is no axis; known: "
                    f"{', '.join(self.axes)}"
                )

    @property
    def base(self) -> Setting:
        """The first choice on every axis."""
        return (0,) * len(self.axes)

    def settings(self, method: str) -> list[Setting]:
        """Every setting of a method."""
        varied = self.methods[method]
        choices = [
            range(len(found)) if axis in varied else (0,) for axis, found in self.axes.items()
        ]
        return list(itertools.product(*choices))

    def covers(self, method: str, setting: Setting) -> bool:
        """Whether a setting is one of a method's."""
        return all(
            not choice or axis in self.methods[method]
            for axis, choice in zip(self.axes, setting, strict=True)
        )

    def words(self, setting: Setting) -> list[str]:
        """The choices of a setting, by axis."""
        chosen = zip(self.axes.values(), setting, strict=True)
        return [choices[index] for choices, index in chosen]


@dataclass(frozen=True)
class Plan:
    """How much is tried.

    Attributes:
        tries: settings of a method in the first round, beside the base and before neighbours.
        generations: how often neighbours of the best are tried, ``tries`` / 2 of them.
        images: of every round.
        kept: the share that goes on to the next round.
    """

    tries: int
    generations: int
    images: Sequence[int]
    kept: float


def search(
    space: Space,
    settings: Mapping[str, Sequence[Setting]],
    cost: Callable[[Setting], float],
    plan: Plan,
    measure: Measure,
) -> list[dict[Setting, float]]:
    """Measure settings of every method, round by round.

    Args:
        settings: method -> all of its settings.
        cost: predicted seconds of a setting; infinite if it is not to be tried, unless it is the
            base, which all others are compared with.
        measure: settings and a number of images -> quality of those that could be measured, lower
            is better. What was measured before, it returns at once.

    Returns:
        Of every round what was measured; the base is in all of them.

    Raises:
        InputError: if the base could not be measured.
    """
    going: dict[str, dict[Setting, float]] = {}
    base = space.words(space.base)
    for method, own in settings.items():
        possible = set(own)
        chosen = dict.fromkeys([space.base, *first(own, cost, plan.tries)])
        found = dict(measure(list(chosen), plan.images[0]))
        if space.base not in found:
            raise InputError(
                f"the first choices of space.axes, {' '.join(filter(None, base))}, could not be "
                "measured, and all others are compared with them; see above why, or put others "
                "first"
            )
        for _ in range(plan.generations):
            best = fronts(cost, found, max(1, plan.tries // 4))
            near = (n for n in neighbours(space, best) if n in possible and n not in found)
            affordable = (one for one in near if cost(one) < math.inf)
            wanted = list(itertools.islice(affordable, max(1, plan.tries // 2)))
            if not wanted:
                break
            found |= measure(wanted, plan.images[0])
        going[method] = found
        log.info("%s: %d of %d settings tried", method, len(found), len(own))
    rounds = [{one: value for found in going.values() for one, value in found.items()}]
    for images in plan.images[1:]:
        wanted = {
            method: fronts(cost, found, math.ceil(plan.kept * len(found)))
            for method, found in going.items()
        }
        every = dict.fromkeys([space.base, *itertools.chain(*wanted.values())])
        measured = dict(measure(list(every), images))
        going = {
            method: {one: measured[one] for one in chosen if one in measured}
            for method, chosen in wanted.items()
        }
        rounds.append(measured)
        log.info("%d settings measured on %d images", len(measured), images)
    return rounds


def first(
    settings: Sequence[Setting], cost: Callable[[Setting], float], count: int
) -> list[Setting]:
    """At most ``count`` settings, of all costs: as many at any factor of cost as at any other.

    Of several of about one cost, which are taken is as good as random, and always the same. Of many
    settings, ten times ``count`` are looked at.
    """
    scattered = sorted(settings, key=_mixed)[: 10 * count]
    costs = {one: cost(one) for one in scattered}
    possible = [one for one in scattered if costs[one] < math.inf]
    if len(possible) <= count:
        return possible
    logs = {one: math.log(costs[one]) for one in possible}
    low, high = min(logs.values()), max(logs.values())
    bins: list[list[Setting]] = [[] for _ in range(count)]
    for one in possible:
        place = (logs[one] - low) / max(high - low, 1e-12)
        bins[min(count - 1, int(place * count))].append(one)
    # In turn one of every bin, so that sparse ones do not cost the count.
    turns = itertools.chain(*itertools.zip_longest(*bins))
    return list(itertools.islice((one for one in turns if one is not None), count))


def _mixed(setting: Setting) -> int:
    """A number that scatters settings, the same on every machine."""
    return zlib.crc32(repr(setting).encode())


def fronts(
    cost: Callable[[Setting], float], quality: Mapping[Setting, float], count: int
) -> list[Setting]:
    """The best ``count`` settings or more: the frontier, then that of the rest, and so on."""
    left, chosen = sorted(quality), []
    while left and len(chosen) < count:
        found = pareto_frontier([cost(one) for one in left], [quality[one] for one in left])
        front = [left[index] for index in found]
        chosen += front
        left = [one for one in left if one not in set(front)]
    return chosen


def neighbours(space: Space, settings: Iterable[Setting]) -> Iterable[Setting]:
    """The settings that differ in one axis, by one choice; one of each of ``settings`` in turn."""
    sizes = [len(choices) for choices in space.axes.values()]
    near = []
    for setting in settings:
        own = [
            (*setting[:axis], choice, *setting[axis + 1 :])
            for axis, size in enumerate(sizes)
            for choice in (setting[axis] - 1, setting[axis] + 1)
            if 0 <= choice < size
        ]
        near.append(sorted(own, key=_mixed))
    turns = itertools.chain(*itertools.zip_longest(*near))
    yield from dict.fromkeys(one for one in turns if one is not None)
