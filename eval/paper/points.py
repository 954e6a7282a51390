"""What a figure needs: from ``configs/figure/NAME.yaml`` to runs, and what they cost."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

import models
from eval.estimate import check_dataset
from models.errors import InputError
from stitch import simplex
from stitch.runs import build, devices
from stitch.runs.run import Run

log = logging.getLogger("figures")

Compose = Callable[[str, Sequence[str]], DictConfig]
PARTS = ("small", "medium", "large")
CONFIG = "figures"
# What the command line may change of a protocol.
CHANGING = {"sampler", "guidance", "num_images", "labels", "schedule", "pipeline", "prompts"}
# What the command line may say that is not a setting of a run.
NOT_OF_A_RUN = {
    "figure", "run", "dry_run", "protocol", "figures", "eval", "hydra", "claims", "thresholds",
    "report", "zoos",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Point:
    """One run of a figure.

    Attributes:
        panel, series: where it is drawn, as indices into the figure's lists.
        first: the first denoiser of its series.
        fractions: of the denoisers of its series, in order.
        paper: the paper's setting of it: sampler, steps, guidance, images and the rest of ``runs``,
            among it ``settings``, overrides of the config of ``scripts.sample``.
        run: the run under the protocol.
    """

    panel: int
    series: int
    first: str
    fractions: tuple[float, ...]
    paper: dict
    run: Run

    @property
    def share(self) -> float:
        """The share of the steps that the first denoiser of the series really has."""
        steps = self.run.allocation.steps
        return steps.count(self.first) / len(steps)

    @property
    def key(self) -> tuple[str, int]:
        """What its record is found by: two points with the same key are sampled once."""
        return self.run.id, self.run.num_images


class Planner:
    """Makes points of figures; composes every setting once and opens every zoo once.

    Weights may be missing: such runs (``weights`` is None) can be counted but not made.

    Attributes:
        command: whose config a run has.
        chosen: the config group that says of what networks figures are.

    Args:
        config: ``configs/figures.yaml``, composed.
        compose: a command's name and overrides -> its config, as ``scripts.cli.compose``.
        overrides: of the command line, which hold for every run.

    Raises:
        InputError: for a zoo that no data set has, or an unknown protocol.
    """

    command, chosen = CONFIG, "zoo"

    def __init__(self, config: DictConfig, compose: Compose, overrides: Sequence[str]):
        self.config, self._composed, self.overrides = config, compose, overrides
        self.device = devices.start(config.device)
        self.dataset = check_dataset(config)
        self.facts = OmegaConf.to_container(config.datasets[self.dataset])
        self.protocol = config.protocol or self.facts["protocol"]
        if self.protocol not in config.protocols:
            known = ", ".join(config.protocols)
            raise InputError(
                f"protocol={self.protocol} is unknown; choose one of {known} (they are never "
                "mixed in one picture)"
            )
        self._zoos: dict[tuple, models.Zoo] = {}
        self._configs: dict[tuple, DictConfig] = {}

    @property
    def given(self) -> list[str]:
        """What the command line says of every run."""
        return [
            override
            for override in self.overrides
            if _key(override).split(".")[0] not in NOT_OF_A_RUN
            and _key(override) not in ("zoo", "pipeline")
        ]

    @property
    def changed(self) -> bool:
        """Whether the command line changes what the protocol says."""
        keys = {_key(override).split(".")[0] for override in self.given}
        return bool(keys & CHANGING)

    def given_text(self, figure: str) -> str:
        """The overrides that a command for the same records of a figure needs."""
        # An evaluation is no setting of a run, but of its record.
        words = [
            override
            for override in self.overrides
            if _key(override) in ("zoo", "pipeline", "protocol")
            or _key(override).split(".")[0] == "eval"
            or _key(override).startswith(f"figure.{figure}.")
        ]
        return "".join(f" {word}" for word in [*words, *self.given])

    def parts(self, figure: dict) -> dict[str, str]:
        """Part (small, medium, large) -> denoiser, and ``zoo`` -> its zoo."""
        return self.facts["families"][figure["family"]]

    def possible(self, figures: dict[str, dict]) -> dict[str, dict]:
        """Those of ``figures`` whose family of denoisers the data set has.

        Raises:
            InputError: if there is none.
        """
        known = self.facts["families"]
        found = {name: figure for name, figure in figures.items() if figure["family"] in known}
        absent = sorted({figure["family"] for figure in figures.values()} - known.keys())
        if not found:
            raise InputError(
                f"{self.dataset} has no denoisers of the family {', '.join(absent)}, which "
                f"figure={','.join(figures)} is of; it has {', '.join(known)}"
            )
        if absent:
            log.warning(
                "left out, as %s has no denoisers of the family %s: %s",
                self.dataset,
                " and ".join(absent),
                ", ".join(name for name in figures if name not in found),
            )
        return found

    def points(self, figure: dict) -> list[Point]:
        """Every point of a figure, panel by panel, series by series."""
        panels = figure.get("panels", [{}])
        return [
            point
            for p, panel in enumerate(panels)
            for s, series in enumerate(figure["series"])
            for setting in _expand(figure, panel, series)
            for point in self._points_of(figure, p, s, series, setting)
        ]

    def _points_of(self, figure, panel, index, series, setting) -> Iterable[Point]:
        config = self._compose(figure, setting)
        for fractions, allocation in self._allocations(figure, series, config):
            run = self._run(config, allocation)
            if "shown" in figure and "beside" not in figure:
                run = dataclasses.replace(run, num_images=min(figure["shown"], run.num_images))
            yield Point(panel, index, allocation["denoisers"][0], fractions, setting, run)

    def _run(self, config: DictConfig, allocation: dict) -> Run:
        """The run of a config, with these settings of the group ``allocation``."""
        group = OmegaConf.merge(config, {"allocation": allocation})
        making = self.config.run and not self.config.dry_run
        return build.create(group, self._zoo(config), planning=True, probe=making)

    def _allocations(
        self, figure: dict, series: dict, config: DictConfig
    ) -> Iterable[tuple[tuple[float, ...], dict]]:
        """(fractions, settings of the group ``allocation``) of a series."""
        wanted = series.get("allocations") or figure.get("allocations")
        if wanted is None:
            # Trajectories of every denoiser by itself.
            wanted = {"denoisers": series["denoisers"], "each": True}
        if wanted.get("stitches"):
            names, wanted = self._zoo(config).stitches, {"each": True}
        else:
            names = [self.parts(figure)[part] for part in wanted["denoisers"]]
        resolution = self._own(figure).get("resolution", wanted.get("resolution"))
        if "rule" in wanted:
            share = wanted.get("small", 0.5)
            group = {"rule": wanted["rule"], "denoisers": names, "small": share, "seed": 0}
            yield (share, 1 - share), {**group, "fractions": None}
        elif "each" in wanted:
            for name in names:
                yield (1.0,), {"denoisers": [name], "fractions": [1.0]}
        else:
            for fractions in wanted.get("fractions") or simplex(len(names), resolution):
                yield tuple(fractions), {"denoisers": names, "fractions": list(fractions)}

    def _compose(self, figure: dict, setting: dict) -> DictConfig:
        """The config of the runs with one setting; the command line's overrides come last."""
        protocol = "full" if figure.get("scaled") is False else self.protocol
        factors = {**self.config.protocols[protocol], **self._own(figure)}
        wanted = self._wanted(setting, self.parts(figure), factors)
        given = self.given
        chosen = {_key(override) for override in given}
        ours = [
            f"{key}={value}"
            for key, value in wanted.items()
            if value is not None and key not in chosen
        ]
        overrides = (*ours, *given)
        if overrides not in self._configs:
            config = self._composed(self.command, overrides)
            OmegaConf.set_struct(config, False)
            self._configs[overrides] = config
        return self._configs[overrides]

    def _own(self, figure: dict) -> dict:
        """What a figure says itself of the protocol, such as how fine its shares are."""
        return figure.get("protocols", {}).get(self.protocol, {})

    def _wanted(self, setting: dict, parts: dict[str, str], factors: dict) -> dict:
        """What a figure says of the config of its runs; None: nothing."""
        return {
            "zoo": parts["zoo"],
            "schedule": parts.get("schedule"),
            "sampler": setting["sampler"],
            "sampler.steps": max(1, round(setting["steps"] * factors["steps"])),
            "guidance.scale": setting["guidance"],
            "num_images": max(1, round(setting.get("images", 1) * factors["images"])),
            "labels": setting.get("labels", {}).get(self.dataset),
            **setting.get("settings", {}),
        }

    def _zoo(self, config: DictConfig) -> models.Zoo:
        key = (config.zoo.name, config.precision, config.quantisation, config.decoder)
        if key not in self._zoos:
            self._zoos[key] = build.load_zoo(config, self.device)
        return self._zoos[key]


def unique(points: Iterable[Point]) -> list[Point]:
    """The points without those that are another one's run again."""
    return list({point.key: point for point in points}.values())


def _expand(figure: dict, panel: dict, series: dict) -> list[dict]:
    """The settings of a series: every list of steps is one setting for each of its values."""
    setting = {**figure.get("runs", {}), **panel.get("runs", {}), **series.get("runs", {})}
    steps = setting["steps"]
    return [{**setting, "steps": n} for n in (steps if isinstance(steps, list) else [steps])]


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]
