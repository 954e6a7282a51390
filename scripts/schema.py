"""The valid values of every setting of every command, checked before anything else is done.

The table is ``scripts/schema.yaml``.

A setting is named with its groups, ``guidance.scale``; in a pattern ``*`` stands for one name and
``**`` for any number of them, and the first pattern that matches counts. The table has types and
ranges; whether values fit one another, a zoo or a file is checked where they are used. Unknown
names (of samplers, networks, metrics, noise schedules) are refused by the library.
"""

import functools
import json
import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

TABLE = Path(__file__).with_suffix(".yaml")
LARGEST = 2**63 - 1  # the largest integer of numpy and torch


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    Attributes:
        text: its description in messages: "SETTING must be TEXT".
        holds: plain value -> whether it is of this kind.
        items: the kind of a list's items, if a single value may stand for a list of one.
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
    """Whole numbers from ``least`` to ``most``; true and false are excluded."""
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


_TEXT = Kind("text", lambda value: isinstance(value, str) and value != "")
_CLASS = _TEXT | whole(0)
ANYTHING = Kind("anything", lambda value: True)
# Kinds that take no arguments.
_SIMPLE = {
    "null": Kind("null", lambda value: value is None),
    "flag": Kind("true or false", lambda value: isinstance(value, bool)),
    "text": _TEXT,
    "anything": ANYTHING,
    # Infinite or null where an interval has no end.
    "level": Kind(
        "a number or null",
        lambda value: value is None or (type(value) in (int, float) and not math.isnan(value)),
    ),
    "class": _CLASS,
    "labels": replace(
        _TEXT | several(_CLASS), text="random | balanced | classes by number or name"
    ),
    "count": whole(1),
    "share": number(0, 1),
    "seed": whole(0, 2**64 - 1),
}


def parse(text: str) -> Kind:
    """The kind that a row of ``scripts/schema.yaml`` describes."""
    kinds = [_parse(part.split()) for part in text.split(" | ")]
    return functools.reduce(operator.or_, kinds)


def _parse(words: list[str]) -> Kind:
    head, *rest = words
    if head == "one-of":
        return one_of(*rest)
    if head == "whole":
        return whole(*map(int, rest))
    if head in ("number", "above"):
        return number(*map(float, rest), above=head == "above")
    if head == "list":
        return several(_parse(rest))
    if head == "several":
        kind = _parse(rest)
        text = "a list of numbers" if kind.text == "a number" else f"a list, each {kind.text}"
        return Kind(text, _list_of(kind))
    if head == "exactly":
        return exactly(int(rest[0]), _parse(rest[1:]))
    return _SIMPLE[head]


SETTINGS = {name: parse(text) for name, text in yaml.safe_load(TABLE.read_text()).items()}

# Settings whose kind differs in one command.
OF_COMMANDS = {
    command: {name: parse(text) for name, text in settings.items()}
    for command, settings in {
        **{key: {"num_images": "count | null"} for key in ("evaluate", "export", "text2image")},
        "convert": {"precision": "one-of fp32 fp16 bf16", "target": "text"},
        "train": {"precision": "one-of auto fp32 bf16", "compile": "flag | null"},
        **{
            key: {"batch_size": "count"}
            for key in ("bench", "latency", "plan", "search", "timesteps")
        },
    }.items()
}


def check(config: DictConfig, command: str) -> None:
    """Refuse ``config`` unless every setting is of its kind; make lists of single values.

    Args:
        config: composed and resolved; changed in place.
        command: whose it is, a name in ``configs/``.

    Raises:
        InputError: naming the first setting of the wrong kind, and the right kind.
    """
    for setting, value in settings(OmegaConf.to_container(config), command):
        kind = kind_of(setting, command)
        if kind and kind.items is not None and not kind.holds(value) and kind.items.holds(value):
            OmegaConf.update(config, setting, [value])
        elif wrong := _wrong(setting, value, kind):
            from models.errors import InputError  # imports torch, which is seldom needed so far

            raise InputError(wrong)


def _wrong(setting: str, value: Any, kind: Kind | None) -> str | None:
    """What is wrong with a value; None if it is of its kind."""
    if kind is None and any(pattern.startswith(f"{setting}.") for pattern in SETTINGS):
        return f"{setting}={shown(value)}: {setting} is a group, set what is in it"
    if kind is None:
        return f"{setting}={shown(value)}: there is no such setting"
    if value == "???":
        return f"{setting} is not set; it must be {kind.text}"
    if kind.holds(value):
        return None
    quoted = ""
    if isinstance(value, int | float) and kind.holds(str(value)):
        quoted = f"; in quotes it is text: '{setting}=\"{shown(value)}\"'"
    return f"{setting}={shown(value)} must be {kind.text}{quoted}"


def settings(value: Any, command: str, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting within a plain ``value``, with its value; Hydra checks its own settings."""
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
    """Whether ``value`` contains settings instead of being one."""
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
    """The first pattern of ``SETTINGS`` that matches."""
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
    """A value roughly as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)
