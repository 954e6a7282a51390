"""From settings of the page to runs: the same runs that ``scripts.sample`` makes of the command."""

import threading
from collections.abc import Callable, Sequence
from functools import cached_property

from omegaconf import DictConfig, OmegaConf

import models
from eval.explorer import setting as settings
from eval.explorer.setting import Offer, Setting
from models.errors import InputError
from models.first_stage import FirstStage
from stitch.runs import build, devices
from stitch.runs.owner import differences
from stitch.runs.records import content_hash
from stitch.runs.run import Run

# What of a run the quality in its record does not depend on, or hardly (precision).
_BY_THE_WAY = ("labels", "seed", "dtype")
# What the command line may say that is on no control, and that the commands of the page repeat.
_REPEATED = ("zoo", "device", "runs")


class Studio:
    """The zoo of a page, and its runs.

    Args:
        config: ``configs/explore.yaml``, composed: what the page begins with.
        compose: a command's name and overrides -> its config, as ``scripts.cli.compose``.
        overrides: of the command line.

    Attributes:
        offer: what there is to choose from.
        first: the setting that the page begins with.

    Raises:
        InputError: if the command line says what the page has no control for.
    """

    def __init__(
        self,
        config: DictConfig,
        compose: Callable[[str, Sequence[str]], DictConfig],
        overrides: Sequence[str],
    ):
        self._compose, self._lock = compose, threading.Lock()
        self.device = devices.start(config.device)
        repeated = [word for word in overrides if _group(word) in _REPEATED]
        named = any(word.startswith("zoo=") for word in repeated)
        self._given = repeated if named else [f"zoo={config.zoo.name}", *repeated]
        self._configs: dict[tuple[str, ...], DictConfig] = {}
        self._zoos: dict[str, models.Zoo] = {}  # by precision
        self.zoo = zoo = build.load_zoo(config, self.device)
        self.offer = Offer(
            zoo.classes.names or tuple(range(zoo.num_classes)),
            tuple(zoo.default_denoisers),
            tuple(config.samplers),
            ("fp32", "bf16") if self.device.type == "cpu" else ("fp32", "bf16", "fp16"),
        )
        self._config = config
        self.first = self._first(build.create(build.unsampled(config), zoo))

    def run(self, setting: Setting) -> Run:
        """The run of a setting; it stores nothing.

        Raises:
            InputError: if its parts do not fit together.
        """
        with self._lock:  # neither Hydra nor a zoo is made for several threads
            config = self._composed(setting.groups)
            for name, value in setting.leaves(self.offer).items():
                OmegaConf.update(config, name, value)  # of every setting with these groups
            if setting.precision not in self._zoos:
                self._zoos[setting.precision] = build.load_zoo(config, self.device)
            return build.create(config, self._zoos[setting.precision])

    def command(self, setting: Setting) -> str:
        """The line that samples the same images."""
        return settings.command([*self._given, *setting.words(self.offer)])

    def python(self, setting: Setting) -> str:
        """The lines of Python that sample the same images."""
        changes = [
            word for word in self._given if _group(word) == "zoo" and not word.startswith("zoo=")
        ]
        if changes:
            return f"# models.load_zoo knows nothing of {', '.join(changes)}: use the command\n"
        return settings.python(self.run(setting), setting.label)

    @cached_property
    def preview(self) -> FirstStage:
        """What decodes while a walk goes on: the zoo's small decoder, or its only one."""
        decoder = "preview" if self.zoo.has("preview") else "first-stage"
        config = OmegaConf.merge(self._config, {"decoder": decoder})
        return build.load_zoo(config, self.device).first_stage

    def _composed(self, groups: list[str]) -> DictConfig:
        """The config of ``scripts.sample`` with some groups; composing it takes long."""
        words = (*self._given, *groups)
        if words not in self._configs:
            self._configs[words] = build.unsampled(self._compose("sample", words))
        return self._configs[words]

    def _first(self, run: Run) -> Setting:
        """The setting of the command line's run."""
        one = isinstance(run.label_rule, list) and len(run.label_rule) == 1
        label = self.offer.classes[run.label_rule[0] if one else 0]
        first = settings.of_run(run.settings, label, run.settings["seed"], self.offer)
        if first is None:
            beyond = f"allocation={run.allocation}, or a value out of range"
        else:
            same = self.run(first)
            beyond = differences(run.settings, same.settings) or ", ".join(
                f"{name}={getattr(run, name)}"
                for name in ("compile", "num_images", "batch_size")
                if getattr(run, name) != getattr(same, name)
            )
        if beyond:
            raise InputError(
                "the page shows what its controls can set: class, seed, guidance, sampler "
                f"({', '.join(self.offer.samplers)}), steps, cache, precision and shares; leave "
                f"out what is beyond that: {beyond}"
            )
        return first


def key(run: dict) -> str:
    """What the quality of a run's settings depends on, as a name: all but seed, class, precision.

    The recorded quality is that of many images of all classes, so it is of no seed and no class.
    """
    return content_hash({name: value for name, value in run.items() if name not in _BY_THE_WAY})


def _group(override: str) -> str:
    return override.lstrip("+~").split("=")[0].split(".")[0]
