"""Checks of the numbers that users give."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from models.errors import InputError


def whole(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> int:
    """``value`` as an ``int``, if it is a whole number from ``least`` to ``most``.

    It may be Python's, numpy's or torch's.

    Raises:
        InputError: for anything else, including true and false.
    """
    plain = _plain(value)
    if not isinstance(plain, Integral) or isinstance(plain, bool) or not least <= plain <= most:
        limits = "" if least == -math.inf else f", {least} or more"
        limits = limits if most == math.inf else f" from {least} to {most}"
        raise InputError(f"{name}={value!r} must be a whole number{limits}")
    return int(plain)


def number(name: str, value: Any) -> float:
    """``value`` if it is a number, finite or not.

    Raises:
        InputError: for anything else, including true, false and NaN.
    """
    plain = _plain(value)
    if not isinstance(plain, Real) or isinstance(plain, bool) or math.isnan(plain):
        raise InputError(f"{name}={value!r} must be a number")
    return plain


def numbers(name: str, values: Any) -> list[float]:
    """``values`` as a list: a sequence, a one-dimensional array or a tensor of numbers.

    Raises:
        InputError: for anything else.
    """
    listed = _plain(values)
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
        raise InputError(f"{name}={values!r} must be a sequence of numbers")
    return [number(name, value) for value in listed]


def _plain(value: Any) -> Any:
    """The value as plain Python, if it is numpy's or torch's."""
    return value.tolist() if hasattr(value, "tolist") else value
