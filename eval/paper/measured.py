"""What was recorded of the figures that claims are about."""

from omegaconf import DictConfig, OmegaConf

from eval.paper.evidence import Evidence, latency_command
from eval.paper.points import Planner, Point
from models.errors import InputError

LARGE, SMALL = 0.0, 1.0  # shares of the small denoiser


class Unmeasured(Exception):
    """A figure's points are not all recorded."""


class NotTestable(Exception):
    """The denoisers or metrics are not there, or the large one of a pair is no better."""


class Data:
    """What was recorded of the figures that claims are about."""

    def __init__(self, config: DictConfig, planner: Planner):
        self.planner, self.evidence = planner, Evidence(config, planner)
        self.figures: dict[str, dict] = OmegaConf.to_container(config.figure)
        self.thresholds = config.thresholds
        self._known: dict[str, list[tuple[Point, object]]] = {}

    def points(self, figure: str) -> list[tuple[Point, object]]:
        """The points of a figure, and the record of each.

        Raises:
            Unmeasured: with the command that makes what is missing.
            NotTestable: if the data set has no such denoisers.
            InputError: if the command line chose figures, and not this one.
        """
        if figure not in self.figures:
            raise InputError(
                f"figure={','.join(self.figures)} lacks {figure}, which a claim is about; claims "
                "need all figures of the paper: leave figure out"
            )
        if figure not in self._known:
            settings, planner = self.figures[figure], self.planner
            if settings["family"] not in planner.facts["families"]:
                raise NotTestable(
                    f"{planner.dataset} has no denoisers of the family {settings['family']}"
                )
            points = self.planner.points(settings)
            found = list(zip(points, self.evidence.of(settings, points), strict=True))
            missing = [point for point, record in found if record is None]
            if missing and self.evidence.kind(settings) == "latency":
                raise self.untimed(figure)
            if missing:
                given = self.planner.given_text(figure)
                raise Unmeasured(f"python -m scripts.figures figure={figure} run=true{given}")
            self._known[figure] = found
        return self._known[figure]

    def untimed(self, figure: str) -> Unmeasured:
        """With the command that measures the times of a figure."""
        points = self.planner.points(self.figures[figure])
        return Unmeasured(latency_command(points, self.planner.config))

    def curve(self, figure: str, metric: str, panel: int = 0, series: int = 0) -> dict:
        """Share of the first denoiser -> metric, of one line of a figure.

        Raises:
            NotTestable: if the line's FID is not better at its large end.
        """
        points = self.points(figure)
        line = [one for one in points if (one[0].panel, one[0].series) == (panel, series)]
        fids_of_pair(line)
        return {point.fractions[0]: value(record, metric) for point, record in line}

    def lines(self, figure: str) -> dict[str, dict]:
        """Name of its setting -> FID by share, for every line of a figure.

        Raises:
            NotTestable: if one line's FID is not better at its large end.
        """
        named: dict[str, list] = {}
        for point, record in self.points(figure):
            sampler = point.run.settings["sampler"]
            name = f"{sampler['name']} {sampler['steps']} steps"
            named.setdefault(name, []).append((point, record))
        return {name: fids_of_pair(line) for name, line in named.items()}


def value(record: dict, metric: str) -> float:
    """A metric of a record.

    Raises:
        NotTestable: if it was measured without; records are immutable.
    """
    if metric not in record["metrics"]:
        raise NotTestable(f"the records have no {metric}")
    return record["metrics"][metric]


def macs(record: dict) -> float:
    """Multiply-accumulates per image."""
    return record["cost"]["macs_per_image"]


def together(measured: list[dict]) -> bool:
    """Whether times, or peaks of memory, are of one device and one batch size."""
    return len({(one.get("device"), one.get("batch_size")) for one in measured}) == 1


def fids_of_pair(line: list[tuple[Point, dict]]) -> dict[float, float]:
    """Share of the small denoiser -> FID, of all shares of a pair.

    What the paper says of a pair is of a large denoiser that is better than the small one.

    Raises:
        NotTestable: if it is not.
    """
    fids = {point.fractions[0]: value(record, "fid") for point, record in line}
    if fids[LARGE] >= fids[SMALL]:
        names = {point.fractions[0]: point.run.allocation.denoisers[0] for point, _ in line}
        raise NotTestable(
            f"FID {fids[LARGE]:.3f} of {names[LARGE]} alone is not below {fids[SMALL]:.3f} of "
            f"{names[SMALL]} alone"
        )
    return fids
