"""What every setting of every command may be: one table, checked before anything else is done.

A setting is named with its groups, ``guidance.scale``; in a pattern ``*`` stands for one name and
``**`` for any number of them, and the first pattern that fits counts. Types and ranges are here;
whether values fit one another, a zoo or a file is found by whoever uses them. What the library
knows by name (samplers, networks, metrics, noise schedules), it refuses by name itself.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

LARGEST = 2**63 - 1  # of what numpy and torch count with


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    Attributes:
        text: what a value of it is, for people: "SETTING must be TEXT".
        holds: plain value -> whether it is one.
        items: the kind of the items, if a single one may stand for a list of one.
    """

    text: str
    holds: Callable[[Any], bool]
    items: "Kind | None" = None

    def __or__(self, other: "Kind") -> "Kind":
        return Kind(
            f"{self.text}, or {other.text}",
            lambda value: self.holds(value) or other.holds(value),
            self.items or other.items,
        )


def one_of(*names: str) -> Kind:
    return Kind(" | ".join(names), lambda value: value in names and isinstance(value, str))


def whole(least: int, most: int = LARGEST) -> Kind:
    """Whole numbers from ``least`` to ``most``; true and false are none."""
    return Kind(
        f"a whole number, {least} or more"
        if most == LARGEST
        else f"a whole number, {least} to {most}",
        lambda value: type(value) is int and least <= value <= most,
    )


def number(least: float = -math.inf, most: float = math.inf, above: bool = False) -> Kind:
    """Finite numbers from ``least`` to ``most``, ``least`` itself left out if ``above``."""
    text = "a number"
    if most < math.inf:
        text += f" from {least:g} to {most:g}"
    elif least > -math.inf:
        text += f" above {least:g}" if above else f", {least:g} or more"
    return Kind(
        text,
        lambda value: (
            type(value) in (int, float)
            and least <= value <= most
            and abs(value) != math.inf
            and not (above and value == least)
        ),
    )


def several(kind: Kind) -> Kind:
    """Lists; a single value is a list of one."""
    return Kind(f"{kind.text}, or a list of such", _list_of(kind), kind)


def exactly(count: int, kind: Kind) -> Kind:
    return Kind(
        f"a list of {count}, each {kind.text}",
        lambda value: _list_of(kind)(value) and len(value) == count,
    )


def _list_of(kind: Kind) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and value != [] and all(map(kind.holds, value))


NULL = Kind("null", lambda value: value is None)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("text", lambda value: isinstance(value, str) and value != "")
ANYTHING = Kind("anything", lambda value: True)
NUMBERS = Kind("a list of numbers", _list_of(number()))
# Of noise, infinite where an interval has no end.
LEVEL = Kind("a number", lambda value: type(value) in (int, float) and not math.isnan(value))
SHARE = number(0, 1)
COUNT = whole(1)
SHAPE = exactly(3, COUNT)
SEED = whole(0, 2**64 - 1)
WANDB = {"wandb.mode": one_of("disabled", "offline", "online"), "wandb.project": TEXT}

SAMPLING = {
    "sampler.name": TEXT,
    "sampler.steps": COUNT,
    "sampler.spacing": TEXT | NUMBERS,
    "sampler.eta": SHARE,
    "sampler.order": whole(1, 3),
    "sampler.variance": TEXT,
    "sampler.fallback": TEXT,
    "sampler.algorithm": TEXT,
    "sampler.method": TEXT,
    "sampler.history": TEXT,
    "sampler.set_alpha_to_one": FLAG,
    "sampler.lower_order_final": FLAG,
    "sampler.exact_curvature": FLAG,
    "allocation.rule": TEXT,
    "allocation.denoisers": several(TEXT) | NULL,
    "allocation.small": SHARE,
    "allocation.fractions": several(number()) | NULL,
    "allocation.switches": several(number()),
    "allocation.runs": TEXT,
    "allocation.seed": SEED,
    "allocation.strict": FLAG,
    "guidance.scale": number(0),
    "guidance.channels": COUNT | NULL,
    "guidance.guide": TEXT | NULL,
    "guidance.steps": exactly(2, whole(0)) | NULL,
    "guidance.log_snr": exactly(2, LEVEL) | NULL,
    "schedule": TEXT | NULL,
    "alignment": one_of("log-snr", "timestep"),
    "seed": SEED,
    "labels": replace(
        TEXT | several(TEXT | whole(0)), text="random | balanced | classes by number or name"
    ),
    "num_images": COUNT,
    "precision": one_of("fp32", "bf16", "fp16", "auto"),
    "quantisation": one_of("int8", "fp8") | NULL,
    "decoder": one_of("first-stage", "preview"),
    "compile": FLAG,
    "batch_size": COUNT,
    "shard_size": COUNT,
    "runs": TEXT,
}

ZOO = {
    "zoo.name": TEXT,
    "zoo.image_shape": SHAPE,
    "zoo.latent_shape": SHAPE,
    "zoo.num_classes": COUNT,
    "zoo.checkpoints": TEXT,
    "zoo.schedule": TEXT,
    "zoo.guidance_channels": COUNT,
    "zoo.unconditional": TEXT,
    "zoo.default_denoisers": several(TEXT),
    "zoo.classes": several(TEXT),
    "zoo.imagenet_classes": several(whole(0, 999)),
    "zoo.data": TEXT,
    "zoo.flips": FLAG,
    "zoo.provenance.*": TEXT,
    # Networks: what models.create takes.
    "zoo.**.name": TEXT,
    "zoo.**.file": TEXT,
    "zoo.**.image_shape": SHAPE,
    "zoo.**.latent_shape": SHAPE,
    "zoo.**.num_classes": COUNT,
    "zoo.**.schedule": TEXT,
    "zoo.**.latent_space": TEXT | NULL,
    "zoo.**.prediction_type": TEXT,
    "zoo.classifier.widths": several(COUNT),
    "zoo.denoisers.*.patch_size": COUNT,
    "zoo.denoisers.*.width": COUNT,
    "zoo.denoisers.*.depth": COUNT,
    "zoo.denoisers.*.num_heads": COUNT,
    "zoo.denoisers.*.mlp_ratio": number(0, above=True),
    "zoo.denoisers.*.learn_sigma": FLAG,
    "zoo.denoisers.*.frequency_shift": whole(0),
    "zoo.denoisers.*.timestep_offset": whole(0),
    "zoo.denoisers.*.null_class": FLAG,
    "zoo.denoisers.*.conv": FLAG,
    "zoo.denoisers.*.model_channels": COUNT,
    "zoo.denoisers.*.channel_mult": several(COUNT),
    "zoo.denoisers.*.num_res_blocks": COUNT,
    "zoo.denoisers.*.attention_resolutions": several(COUNT),
    "zoo.denoisers.*.num_head_channels": COUNT | NULL,
    "zoo.denoisers.*.context_width": COUNT,
    "zoo.denoisers.*.norm_groups": COUNT,
    # First stages: what diffusers' autoencoders take, and scale and rounding.
    "zoo.*.scale": number(0, above=True),
    "zoo.*.rounding": TEXT,
    "zoo.*.patch_size": COUNT,
    "zoo.*.in_channels": COUNT,
    "zoo.*.out_channels": COUNT,
    "zoo.*.latent_channels": COUNT,
    "zoo.*.layers_per_block": COUNT,
    "zoo.*.norm_num_groups": COUNT,
    "zoo.*.*_block_types": several(TEXT),
    "zoo.*.*block_out_channels": several(COUNT),
    "zoo.*.num_*_blocks": several(COUNT),
    "zoo.first_stage.*": ANYTHING,
    "zoo.preview.*": ANYTHING,
    "zoo.files.*.path": TEXT,
    "zoo.files.*.urls": several(TEXT),
    "zoo.files.*.size": TEXT,
    "zoo.files.*.sha256": TEXT,
    "zoo.files.*.licence": TEXT,
    "zoo.files.*.member": TEXT,
    "zoo.files.*.ema": FLAG,
    "zoo.published.protocol": TEXT,
    "zoo.published.source": TEXT,
    "zoo.published.fid.*": number(0),
}

EVALUATION = {
    "eval.extractor": TEXT,
    "eval.data": TEXT,
    "eval.weights": TEXT,
    "eval.url": TEXT | NULL,
    "eval.reference": TEXT,
    "eval.metrics": several(TEXT),
    "eval.neighbours": COUNT,
    "eval.distances": one_of("float32", "float16"),
    "eval.chunk": COUNT,
    "eval.batch_size": COUNT,
    "eval.rows": COUNT,
    "eval.cache": TEXT,
    "eval.published.limits.*": number(0),
    "eval.published.batches.*.expected.*": number(),
    "eval.published.**": TEXT,
}

TRAINING = {
    "train.name": TEXT,
    "train.kind": TEXT,
    "train.start_from": TEXT,
    "train.seed": whole(0, 2**40),  # generators' seeds are multiples of it, and less than 2^64
    "train.minutes": number(0, above=True) | NULL,
    "train.images": COUNT | NULL,
    "train.batch_size": COUNT | NULL,
    "train.lr": number(0, above=True) | NULL,
    "train.on_gpu.images": COUNT,
    "train.on_gpu.batch_size": COUNT,
    "train.on_gpu.lr": number(0, above=True),
    "train.betas": exactly(2, SHARE),
    "train.weight_decay": number(0),
    "train.warmup_steps": COUNT,
    "train.cooldown": SHARE,
    "train.clip_grad_norm": number(0, above=True),
    "train.ema_decay": SHARE,
    "train.ema_width": SHARE,
    "train.weighting": TEXT,
    "train.interval": exactly(2, whole(0)),
    "train.label_dropout": SHARE,
    "train.label_smoothing": SHARE,
    "train.mixup": number(0),
    "train.augment.name": TEXT,
    "train.augment.pixels": whole(0),
    "train.augment.area": exactly(2, SHARE),
    "train.kl_weight": number(0),
    "train.feature_weight": number(0),
    "export_every": COUNT,
    "threads": COUNT | NULL,
    "nice": whole(0, 19),
    "export": TEXT,
    "log_every": COUNT,
    "checkpoint_seconds": number(0),
    "data.root": TEXT | NULL,
    "data.download": FLAG,
}

THROUGHPUT = {
    "**throughput.device": TEXT,
    "**throughput.basis": TEXT,
    "**throughput.source": TEXT,
    "**throughput.devices": several(COUNT),
    "**throughput.macs_per_second": number(0, above=True),
    "**throughput.ms_per_evaluation.*": number(0, above=True),
}

FIGURES = {
    "run": FLAG,
    "protocol": TEXT | NULL,
    "figures": TEXT | NULL,
    "claims": TEXT | NULL,
    "report": TEXT | NULL,
    "thresholds.*": number(),
    "**protocols.*.steps": number(0, above=True),
    "**protocols.*.images": number(0, above=True),
    "datasets.*.protocol": TEXT,
    "datasets.*.families.*.*": TEXT,
    "figure.**.title": TEXT,
    "figure.**.label": TEXT,
    "figure.*.kind": TEXT,
    "figure.*.family": TEXT,
    "figure.*.scaled": FLAG,
    "figure.*.latency": FLAG,
    "figure.*.log": several(TEXT),
    "figure.*.shown": COUNT,
    "figure.*.across": TEXT,
    "figure.*.y": several(TEXT),
    "figure.*.columns": several(TEXT),
    "figure.**.runs.sampler": TEXT,
    "figure.**.runs.steps": COUNT | Kind("a list of such", _list_of(COUNT)),
    "figure.**.runs.guidance": number(0),
    "figure.**.runs.images": COUNT,
    "figure.**.runs.labels.*": several(TEXT | whole(0)),
    "figure.**.runs.settings": ANYTHING,  # settings of runs, checked when they are composed
    "figure.**.allocations.resolution": COUNT,
    "figure.**.allocations.rule": TEXT,
    "figure.**.allocations.small": SHARE,
    "figure.**.allocations.fractions": several(Kind("a list of shares", _list_of(SHARE))),
    "figure.**.denoisers": several(TEXT),
    "figure.**.reported": TEXT,
    "figure.**.reported.*": TEXT,
}

MEASURING = {
    "bench": TEXT,
    "denoisers": several(TEXT) | NULL,
    "variants": several(TEXT),
    "fractions": several(SHARE),
    "peers": several(TEXT),
    "features": several(Kind("[samples, references, width]", SHAPE.holds)),
    "processes": several(COUNT),
    "results": TEXT,
    "repetitions": COUNT,
    "warm_up": COUNT,
    "resolution": COUNT,
    "allocations": several(TEXT) | NULL,
    "memory": FLAG,
    "budget": TEXT | number(0, above=True),
    "batch": COUNT,
    "quality": one_of("results", "heuristic"),
    "top": COUNT,
    "verify": FLAG,
    "measure": FLAG,
}

FILES = {
    "samples": TEXT | NULL,
    "reference": TEXT,
    "images.path": TEXT | NULL,
    "images.resize": COUNT | NULL,
    "images.exif": one_of("ignore", "apply"),
    "selftest": FLAG,
    "num_features": COUNT,
    "network": TEXT,
    "source": TEXT,
    "target": TEXT | NULL,
    "ema": FLAG,
    "what": one_of("weights", "reference", "all"),
    "dry_run": FLAG,
    "name": TEXT | NULL,
}

SETTINGS = {
    **SAMPLING, **ZOO, **EVALUATION, **TRAINING, **THROUGHPUT, **FIGURES, **MEASURING, **FILES,
    **WANDB,
}  # fmt: skip

# What a setting is in one command and not in the others.
OF_COMMANDS = {
    "evaluate": {"num_images": COUNT | NULL},
    "export": {"num_images": COUNT | NULL},
    "convert": {"precision": one_of("fp32", "fp16", "bf16"), "target": TEXT},
    "train": {"precision": one_of("auto", "fp32", "bf16"), "compile": FLAG | NULL},
}


def check(config: DictConfig, command: str) -> None:
    """Refuse ``config`` unless every setting is of its kind; make lists of single values.

    Args:
        config: composed and resolved; changed in place.
        command: whose it is, a name in ``configs/``.

    Raises:
        InputError: naming the first setting that is not what it must be, and what that is.
    """
    from models.errors import InputError  # takes torch, which an answer to --help does not need

    for setting, value in settings(OmegaConf.to_container(config), command):
        kind = kind_of(setting, command)
        if kind is None and any(pattern.startswith(f"{setting}.") for pattern in SETTINGS):
            raise InputError(f"{setting}={shown(value)}: {setting} is a group, set what is in it")
        if kind is None:
            raise InputError(f"{setting}={shown(value)}: there is no such setting")
        if value == "???":
            raise InputError(f"{setting} is not set; it must be {kind.text}")
        if kind.holds(value):
            continue
        if kind.items is not None and kind.items.holds(value):
            OmegaConf.update(config, setting, [value])
            continue
        quoted = ""
        if isinstance(value, int | float) and kind.holds(str(value)):
            quoted = f"; in quotes it is text: '{setting}=\"{shown(value)}\"'"
        raise InputError(f"{setting}={shown(value)} must be {kind.text}{quoted}")


def settings(value: Any, command: str, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting within a plain ``value``, and what it is; Hydra's own have their schema."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        setting = f"{name}.{key}" if name else str(key)
        if setting == "hydra":
            continue
        if is_group(setting, part, command):
            yield from settings(part, command, setting)
        else:
            yield setting, part


def is_group(setting: str, value: Any, command: str) -> bool:
    """Whether ``value`` has settings inside, or is one itself."""
    if not isinstance(value, dict | list):
        return False
    inside = value if isinstance(value, dict) else range(len(value))
    return kind_of(setting, command) is None or any(
        kind_of(f"{setting}.{key}", command) for key in inside
    )


def kind_of(setting: str, command: str) -> Kind | None:
    """The kind of a setting, or None if there is no such setting."""
    own = OF_COMMANDS.get(command, {})
    if setting in own:
        return own[setting]
    pattern = pattern_of(setting)
    return SETTINGS[pattern] if pattern else None


@functools.cache
def pattern_of(setting: str) -> str | None:
    """The first pattern of ``SETTINGS`` that fits."""
    if setting in SETTINGS:
        return setting
    return next((p for p, expression in _patterns() if expression.fullmatch(setting)), None)


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern]]:
    wild = {"**.": r"(?:[^.]+\.)*", "**": r".*", "*": r"[^.]*"}
    found = []
    for pattern in SETTINGS:
        parts = re.split(r"(\*\*\.?|\*)", pattern)
        found.append((pattern, re.compile("".join(wild.get(p) or re.escape(p) for p in parts))))
    return found


def shown(value: Any) -> str:
    """A value as one writes it on the command line, nearly."""
    return value if isinstance(value, str) else json.dumps(value)
