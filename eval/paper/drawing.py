"""What the kinds of figures share: a figure with its evidence, its labels and its axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.paper.measured import together
from eval.paper.points import Point


@dataclass(frozen=True)
class Drawing:
    """What a kind needs to draw one figure.

    Attributes:
        figure: its YAML.
        names: part -> denoiser.
        points, evidence: its runs, and what is known of each: a record, a trajectory, or nothing.
        path: of the picture, ``.png``; a table goes to ``.md``.
        runs: folder of samples and trajectories.
        same_data: whether the numbers are of the paper's data set, so that curves may share axes.
        caption: how the numbers were made.
    """

    figure: dict
    names: dict[str, str]
    points: list[Point]
    evidence: list
    path: Path
    runs: Path
    same_data: bool
    caption: str

    def text(self, template: str, point: Point, of_paper: bool = False) -> str:
        """A label of the YAML, filled in with the point's settings, ours or the paper's."""
        run, paper_says = point.run, point.paper
        setting = {
            "steps": run.settings["sampler"]["steps"],
            "guidance": f"{run.settings['guidance']['scale']:g}",
            "images": f"{run.num_images:,}",
        }
        if of_paper:
            setting = {
                "steps": paper_says["steps"],
                "guidance": f"{paper_says.get('guidance', 1):g}",
                "images": f"{paper_says.get('images', 0):,}",
            }
        fraction = f"{point.fractions[0]:g}"
        return template.format(**setting, **self.names, fraction=fraction)

    @property
    def title(self) -> str:
        return self.text(self.figure["title"], self.points[0])

    def caption_with(self, companion: bool) -> str:
        """The caption of a figure, whether or not it has panels of what the paper reports."""
        note = f"; grey ground: as the paper reports on {self.data}, another scale of FID"
        return self.caption + note if companion else self.caption

    @property
    def data(self) -> str:
        """The paper's data set for such a figure."""
        return "COCO 256" if "pipeline" in self.names else "ImageNet 256"

    @property
    def reported(self) -> str:
        """The title of panels of what the paper reports."""
        return f"reported, {self.data}  "

    def of(self, panel: int, series: int) -> list[tuple[Point, dict]]:
        """The points of one series in one panel, with their records."""
        return [
            (point, record)
            for point, record in zip(self.points, self.evidence, strict=True)
            if (point.panel, point.series) == (panel, series)
        ]

    def panel_titles(self, of_paper: bool = False) -> list[str]:
        titles = []
        for p, panel in enumerate(self.figure.get("panels", [{}])):
            first = next(point for point in self.points if point.panel == p)
            titles.append(self.text(panel.get("title", ""), first, of_paper))
        return titles


def value(record: dict, metric: str) -> float:
    """A metric of a record; ``time`` is in milliseconds per image."""
    if metric == "time":
        return record["timing"]["ms_per_image"]
    if metric == "gmacs":
        return record["cost"]["macs_per_image"] / 1e9
    return record["metrics"][metric]


def time_axis(records: Sequence[dict]) -> tuple[str, str]:
    """(metric, axis label) of time, or of MACs if not all was timed on one device in one batch."""
    timings = [record["timing"] for record in records]
    if not all(timings) or not together(timings):
        return "gmacs", "GMACs per image"
    return "time", f"ms per image\n({short_device(timings[0]['device'])})"


def relative_label(timed: str) -> str:
    """Of an axis that our ``timed`` and the reported time share."""
    if timed == "time":
        return "time relative to the slowest"
    return "relative to the largest\n(ours: GMACs, reported: time)"


def short_device(device: str) -> str:
    for word in ("NVIDIA ", " 80GB HBM3", "(R)", "(TM)", " Processor"):
        device = device.replace(word, "")
    return device
