"""What the page can set, checked, and what it is called on the command line and in Python."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import InputError
from samplers import check
from stitch.allocation import Allocation
from stitch.runs import devices
from stitch.runs.run import Run

COUNT = 4  # images, side by side
WHOLE = 100  # shares are percent
# From, to: what a page in a browser is sensibly used for.
GUIDANCE, STEPS, INTERVAL = (0, 10), (1, 100), (1, 10)
SEED = (0, 2**53 - 1)  # more, JavaScript's numbers cannot say


@dataclass(frozen=True)
class Offer:
    """What there is to choose from.

    Attributes:
        classes: names, or numbers if the zoo names none.
        denoisers: those of the zoo's default family, by ascending cost.
        samplers, precisions: names in ``configs/sampler``, and of ``precision``.
    """

    classes: tuple[str | int, ...]
    denoisers: tuple[str, ...]
    samplers: tuple[str, ...]
    precisions: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """One state of the page's controls.

    Attributes:
        label: the class of all images.
        seed: of their noise.
        guidance: the scale w; 1 is unguided.
        sampler, steps: name, and steps as ``samplers.create`` counts them.
        interval: the networks are evaluated at every n-th step; 1 is no cache.
        precision: of the denoisers.
        shares: percent of the steps of each denoiser that is offered, in order.
    """

    label: str | int
    seed: int
    guidance: float
    sampler: str
    steps: int
    interval: int
    precision: str
    shares: tuple[int, ...]

    @classmethod
    def read(cls, values: Sequence[Any], offer: Offer) -> "Setting":
        """The setting that the controls say, one value each, the shares last.

        They come from a browser, or from whoever else can reach the page: anything is possible.

        Raises:
            InputError: naming the control, its value and what it may be.
        """
        label, seed, guidance, sampler, steps, interval, precision, *shares = values
        setting = cls(
            _chosen("class", label, offer.classes),
            _whole("seed", seed, SEED),
            _number("guidance", guidance, GUIDANCE),
            _chosen("sampler", sampler, offer.samplers),
            _whole("steps", steps, STEPS),
            _whole("cache interval", interval, INTERVAL),
            _chosen("precision", precision, offer.precisions),
            tuple(
                _whole(f"share of {name}", share, (0, WHOLE))
                for name, share in zip(offer.denoisers, shares, strict=True)
            ),
        )
        if sum(setting.shares) != WHOLE:
            raise InputError(f"the shares are {setting.shares} %; they must sum to {WHOLE}")
        return setting

    @property
    def values(self) -> list:
        """The inverse of ``read``."""
        *fields, shares = (getattr(self, field.name) for field in dataclasses.fields(self))
        return [*fields, *shares]

    @property
    def pure(self) -> "Setting":
        """The same with the largest denoiser alone."""
        alone = (*(0 for _ in self.shares[:-1]), WHOLE)
        return dataclasses.replace(self, shares=alone)

    @property
    def groups(self) -> list[str]:
        """The overrides of ``scripts.sample`` that choose files of settings."""
        return [f"sampler={self.sampler}", *(["cache=forecast"] if self.interval > 1 else [])]

    def leaves(self, offer: Offer) -> dict[str, Any]:
        """The settings of ``scripts.sample`` in them, by dotted name."""
        used = [(n, s / WHOLE) for n, s in zip(offer.denoisers, self.shares, strict=True) if s]
        names, fractions = zip(*used, strict=True)
        return {
            "sampler.steps": self.steps,
            **({"cache.interval": self.interval} if self.interval > 1 else {}),
            "allocation.denoisers": list(names),
            "allocation.fractions": list(fractions),
            "guidance.scale": self.guidance,
            "labels": [self.label],
            "seed": self.seed,
            "precision": self.precision,
            **dict.fromkeys(("num_images", "batch_size", "shard_size"), COUNT),
        }

    def words(self, offer: Offer) -> list[str]:
        """The overrides of ``scripts.sample`` that give this setting."""
        return [*self.groups, *(f"{k}={_written(v)}" for k, v in self.leaves(offer).items())]


def command(words: Sequence[str]) -> str:
    """The line that samples with overrides, for a shell."""
    return f"python -m scripts.sample {shlex.join(words)}"


def python(run: Run, label: str | int) -> str:
    """The lines of Python that sample what ``run`` does, a run of the page, of one class."""
    chosen, kind = run.settings["sampler"], type(run.sampler)
    usual = {field.name: field.default for field in dataclasses.fields(kind)}
    usual |= {"spacing": kind.default_spacing, "name": chosen["name"], "steps": None}
    options = [f"{k}={_python(v)}" for k, v in chosen.items() if v != usual[k]]
    where = [] if run.zoo.device.type == "cpu" else [f"device={_python(run.zoo.device.type)}"]
    half = run.settings["dtype"] != "float32"
    where += [f"dtype={run.zoo.dtype}"] if half else []
    zoo = ", ".join([_python(run.zoo.name), *where])
    sampler = ", ".join([_python(chosen["name"]), *options, "schedule=zoo.schedule"])
    labels = f"[{_python(label)}] * {run.num_images}"
    scale, seed = run.guidance.scale, run.settings["seed"]
    cache = f"\n    wrappers=[stitch.{run.cache!r}]," if run.cache else ""
    torch = "import torch\n\n" if half else ""
    return f"""{torch}import models, samplers, stitch

zoo = models.load_zoo({zoo})
sampler = samplers.create({sampler})
allocation = stitch.Allocation.parse({_python(str(run.allocation))})
images = stitch.sample(
    zoo, sampler, allocation, labels={labels}, seed={seed}, guidance_scale={scale},{cache}
)  # uint8 ({run.num_images}, H, W, C)
"""


def rescaled(shares: Sequence[Any], moved: int) -> tuple[int, ...]:
    """Percent that sum to 100 again after the one at index ``moved`` was moved.

    The others keep their proportions; if they are all 0, the last of them takes the rest.

    Raises:
        InputError: for anything but percent.
    """
    percent = [_whole("share", share, (0, WHOLE)) for share in shares]
    left = WHOLE - percent[moved]
    others = [index for index in range(len(percent)) if index != moved]
    if not others:
        return (WHOLE,)
    weights = {index: percent[index] for index in others}
    if not any(weights.values()):
        weights[others[-1]] = 1
    parts = in_parts([weights[index] for index in others], left)
    new = dict(zip(others, parts, strict=True)) | {moved: percent[moved]}
    return tuple(new[index] for index in range(len(percent)))


def in_parts(weights: Sequence[float], whole: int) -> list[int]:
    """``whole`` divided in proportion to ``weights``, by largest remainders."""
    exact = [weight * whole / sum(weights) for weight in weights]
    parts = [int(part) for part in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: parts[i] - exact[i])
    for index in by_rest[: whole - sum(parts)]:
        parts[index] += 1
    return parts


def of_run(
    settings: Mapping[str, Any], label: str | int, seed: int, offer: Offer
) -> Setting | None:
    """The setting nearest to a run's ``settings``, if one comes near; see ``studio.key``."""
    sampler, interval = settings["sampler"], settings.get("cache", {}).get("interval", 1)
    precision = {str(v).removeprefix("torch."): k for k, v in devices.PRECISIONS.items()}
    counts = Allocation.parse(settings["allocation"]).counts
    if not counts.keys() <= set(offer.denoisers):
        return None
    steps = [counts.get(name, 0) for name in offer.denoisers]
    values = [
        label, seed, settings["guidance"]["scale"], sampler["name"], sampler["steps"], interval,
        precision.get(settings["dtype"]), *in_parts(steps, WHOLE),
    ]  # fmt: skip
    try:
        return Setting.read(values, offer)
    except InputError:
        return None


def _python(value: Any) -> str:
    """A text, a number or a truth as Python writes it, in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _written(value: Any) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str) and not value.isidentifier() and not _name(value):
        return json.dumps(value, ensure_ascii=False)
    return f"{value}"


def _name(text: str) -> bool:
    """Whether it is a word such as DiT-XL, that needs no quotes."""
    return text.replace("-", "_").isidentifier()


def _chosen(name: str, value: Any, known: Sequence[Any]) -> Any:
    if type(value) not in {type(one) for one in known} or value not in known:
        few = ", ".join(map(str, known[:20])) + (", ..." if len(known) > 20 else "")
        raise InputError(f"{name}={_short(value)} is unknown; choose one of {few}")
    return value


def _whole(name: str, value: Any, limits: tuple[int, int]) -> int:
    # JSON's 3.0 is a whole number.
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if type(whole) is not int or not limits[0] <= whole <= limits[1]:
        raise InputError(
            f"{name}={_short(value)} must be a whole number from {limits[0]} to {limits[1]}"
        )
    return whole


def _number(name: str, value: Any, limits: tuple[float, float]) -> float:
    if type(value) not in (int, float) or not limits[0] <= check.number(name, value) <= limits[1]:
        raise InputError(f"{name}={_short(value)} must be a number from {limits[0]} to {limits[1]}")
    return float(value)


def _short(value: Any) -> str:
    """A value of anybody's, as far as an error shows it."""
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge number"  # Python refuses to write very long ones
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:40]}..."
