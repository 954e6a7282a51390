"""Settings of a search space as runs."""

import copy
import itertools
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import models
from eval.search import Setting, Space
from models.errors import InputError
from stitch.runs import build, spacing
from stitch.runs.run import Run

STITCHING = "stitching"
# What a search may be told that is no setting of a run.
NOT_OF_A_RUN = {
    "space", "budget", "tries", "generations", "images", "kept", "repetitions", "warm_up",
    "measure", "results",
}  # fmt: skip


class Candidates:
    """The runs of a space's settings.

    Args:
        config: ``configs/search.yaml``, composed.
        compose: overrides -> the config that they give.
        given: the overrides of the command line, which hold for every setting.
        zoo: of all runs.

    Attributes:
        space: that of the config, with an axis for the share of every denoiser but the largest.

    Raises:
        InputError: if the command line sets what the space varies, or the space is unfit, as with
            timesteps from a file that is not there.
    """

    def __init__(
        self,
        config: DictConfig,
        compose: Callable[[Sequence[str]], DictConfig],
        given: Sequence[str],
        zoo: models.Zoo,
    ):
        self._compose, self._zoo = compose, zoo
        self._given = [w for w in given if w.split("=")[0].split(".")[0] not in NOT_OF_A_RUN]
        settings = OmegaConf.to_container(config.space, resolve=True)
        parts, axes = settings.get(STITCHING), dict(settings["axes"])
        for name, choices in axes.items():
            axes[name] = ["" if choice is None else str(choice) for choice in choices or ()]
        self._names = zoo.default_denoisers
        shares = {}
        if parts:
            choices = [f"{part / parts:.6g}" for part in range(parts + 1)]
            shares = {f"share of {name}": choices for name in self._names[:-1]}
        methods = {
            name: [axis for one in varied for axis in (shares if one == STITCHING else [one])]
            for name, varied in settings["methods"].items()
        }
        self._plain = len(axes)
        self.space = Space({**axes, **shares}, methods)
        self._configs: dict[tuple, DictConfig] = {}
        words = [word for choices in axes.values() for one in choices for word in one.split()]
        self._check_given({word.split("=")[0] for word in words}, bool(shares))
        for word in words:
            name, _, value = word.partition("=")
            # With another number of steps it is no setting, and left out; one that is not there is
            # a mistake.
            if name == "sampler.spacing" and spacing.names_file(value):
                spacing.read(value)

    def _check_given(self, varied: set[str], stitching: bool) -> None:
        both = [word for word in self._given if word.split("=")[0] in varied]
        if stitching:
            both += [word for word in self._given if word.startswith("allocation")]
        if both:
            raise InputError(
                f"{' '.join(both)}: the space varies it; leave it out, or choose another space"
            )

    def settings(self, method: str) -> list[Setting]:
        """The settings of a method whose shares are at most one."""
        return [one for one in self.space.settings(method) if self._large(one) > -1e-9]

    def corners(self) -> list[Setting]:
        """The settings of first and last choices: they call all that any setting calls."""
        ends = [sorted({0, len(choices) - 1}) for choices in self.space.axes.values()]
        return [one for one in itertools.product(*ends) if self._large(one) > -1e-9]

    def run(self, setting: Setting, num_images: int) -> Run:
        """The run of a setting.

        Raises:
            InputError: if its choices do not fit together.
        """
        words = tuple(itertools.chain(*(w.split() for w in self._words(setting))))
        own = {"allocation": self._allocation(setting), "num_images": num_images}
        return build.create(OmegaConf.merge(self._config(words), own), self._zoo)

    def _config(self, words: tuple[str, ...]) -> DictConfig:
        """The config of some choices. Composing takes long, so it is done for groups only."""
        if words not in self._configs:
            groups = tuple(word for word in words if "." not in word.split("=")[0])
            if groups not in self._configs:
                self._configs[groups] = self._compose([*self._given, *groups])
            config = copy.deepcopy(self._configs[groups])
            for one in OverridesParser.create().parse_overrides(
                [w for w in words if w not in groups]
            ):
                OmegaConf.update(config, one.get_key_element(), one.value())
            self._configs[words] = config
        return self._configs[words]

    def command(self, setting: Setting, num_images: int) -> str:
        """What samples a setting and measures it."""
        allocation = self._allocation(setting)
        listed = [
            f"allocation.{name}=[{','.join(map(str, allocation[name]))}]"
            for name in ("denoisers", "fractions")
        ]
        words = [*self._given, *" ".join(self._words(setting)).split(), *listed]
        quoted = [f"'{word}'" if "[" in word else word for word in words]
        return f"python -m scripts.sweep {' '.join(quoted)} num_images={num_images}"

    def _words(self, setting: Setting) -> list[str]:
        return self.space.words(setting)[: self._plain]

    def _shares(self, setting: Setting) -> list[float]:
        return [float(share) for share in self.space.words(setting)[self._plain :]]

    def _large(self, setting: Setting) -> float:
        return 1 - sum(self._shares(setting))

    def _allocation(self, setting: Setting) -> dict:
        shares = [*self._shares(setting), round(self._large(setting), 6)]
        names = self._names if len(shares) == len(self._names) else self._names[-1:]
        used = [(name, share) for name, share in zip(names, shares, strict=True) if share > 0]
        denoisers, fractions = zip(*used, strict=True)
        return {"denoisers": list(denoisers), "fractions": list(fractions)}
