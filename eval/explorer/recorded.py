"""Recorded results of the settings that the page can make, and the frontier of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.explorer import setting as settings
from eval.explorer.setting import Setting
from eval.explorer.studio import Studio, key
from models.errors import InputError
from stitch import pareto_frontier
from stitch.runs.records import ResultStore, content_hash


@dataclass(frozen=True)
class Point:
    """A record of a setting.

    Attributes:
        setting: what makes its images, of the page's first class and seed.
        allocation: in run-length form.
        gmacs: billions of multiply-accumulates of one image.
        metrics: name -> value, as recorded.
        source: the file of the record.
    """

    setting: Setting
    allocation: str
    gmacs: float
    metrics: dict[str, float]
    source: Path

    @property
    def fid(self) -> float:
        return self.metrics["fid"]


@dataclass(frozen=True)
class Recorded:
    """What is known of a zoo.

    Attributes:
        points: by ascending cost.
        frontier: indices of those that no other one beats in both FID and cost.
        images: how many images every FID is of.
        found: how many records of the zoo there are, with those that the page cannot make.
    """

    points: list[Point]
    frontier: list[int]
    images: int
    found: int
    _places: dict[str, int]

    def place(self, run: dict) -> int | None:
        """The index of the point of a run's settings, whatever its class, seed and precision."""
        return self._places.get(key(run))


def recorded(studio: Studio, folders: Sequence[str]) -> Recorded:
    """The records in ``folders`` that are of settings of the page.

    FIDs under different protocols cannot be compared: those under the commonest one count.

    Raises:
        InputError: if a record is damaged.
    """
    found = [
        (store.path(record["run"], record["protocol"]), record)
        for store in map(ResultStore, folders)
        for record in store.all()
        if record["run"].get("zoo") == studio.zoo.name and "fid" in record["metrics"]
    ]
    points: dict[tuple[str, str], tuple[Point, dict]] = {}
    for path, record in found:
        name, point = key(record["run"]), _point(studio, record, path)
        # The first of several precisions counts, as do the first folders.
        if point is not None and (name, _protocol(record)) not in points:
            points[name, _protocol(record)] = point, record
    common = Counter(protocol for _, protocol in points).most_common(1)
    chosen = [
        (point, name, record)
        for (name, protocol), (point, record) in points.items()
        if protocol == common[0][0]
    ]
    chosen.sort(key=lambda one: (one[0].gmacs, one[0].fid))
    listed = [point for point, *_ in chosen]
    return Recorded(
        listed,
        pareto_frontier([p.gmacs for p in listed], [p.fid for p in listed]),
        chosen[0][2]["protocol"]["num_images"] if chosen else 0,
        len(found),
        {name: place for place, (_, name, _) in enumerate(chosen)},
    )


def _point(studio: Studio, record: dict, path: Path) -> Point | None:
    """The point of a record, or None if the page's controls do not make its run.

    They do not if weights have changed since, or of guidance intervals and fitted timesteps.
    """
    run, first = record["run"], studio.first
    if not {"allocation", "sampler", "guidance", "dtype"} <= run.keys():
        return None
    setting = settings.of_run(run, first.label, first.seed, studio.offer)
    if setting is None:
        return None
    try:
        made = studio.run(setting)
    except InputError:
        return None
    if key(made.settings) != key(run):
        return None
    gmacs = made.cost()["macs_per_image"] / 1e9
    return Point(setting, run["allocation"], gmacs, record["metrics"], path)


def _protocol(record: dict) -> str:
    """What must be alike for qualities to be compared, beside the setting."""
    return content_hash({**record["protocol"], "labels": record["run"]["labels"]})
