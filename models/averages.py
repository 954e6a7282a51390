"""Choice between the averaged and the raw weights of a training checkpoint.

Each trainer has its own names for both. Existing averages are never silently ignored in favour of
raw weights: an ambiguous file is refused, and the message lists what it has.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from models.errors import InputError
from models.pickles import Foreign

State = dict[str, Tensor]

# Words in the names of averages: ema, model_ema, ema_model1, state_dict_ema, params_ema, netEMA.
_AVERAGES = re.compile(r"(ema|averages?|averaged|avg|shadow|swa|polyak|modelema|emamodel)\d*")
_OTHERS = re.compile(r"opt|sched|lr|scaler|rng|callbacks|loops|hyper|args|config", re.IGNORECASE)
# Names of raw weights where a file has other state dicts beside them, the usual ones first.
_RAW = ("model", "state_dict", "model_state_dict", "module", "net", "network", "weights", "params")


class Source(NamedTuple):
    """Where a file had its weights.

    Attributes:
        key: their name in the file, dotted if nested; None if the file holds only weights.
        averaged: whether they are averages; None if the file does not say so.
    """

    key: str | None
    averaged: bool | None


def is_average(name: str) -> bool:
    """Whether a trainer's name denotes averaged weights."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return any(_AVERAGES.fullmatch(word) for word in words)


def choose(content: object, ema: bool) -> tuple[State, Source]:
    """The state dict that a pickle is or contains.

    Args:
        content: the unpickled object.
        ema: take the averages if the file has both.

    Raises:
        InputError: if there is none or the choice is ambiguous; the message continues a file's
            name.
    """
    if _is_state(content):
        return _tensors(content), Source(None, None)
    found = _state_dicts(content) if isinstance(content, dict) else {}
    averages = {key: state for key, state in found.items() if is_average(key)}
    raw = {key: state for key, state in found.items() if key not in averages}
    known = _keys(content)
    if not found or not (averages or raw if ema else raw):
        only = f"; it has only averages ({', '.join(averages)}): use ema=true" if averages else ""
        raise InputError(
            "is not a state dict: it must map names to tensors, itself or under a key such as ema, "
            f"state_dict or model{only}; {known}"
        )
    if ema and len(averages) > 1:
        raise InputError(
            f"has several averages: {', '.join(averages)}; store the one you want in a file of its "
            "own"
        )
    if ema and averages:
        ((key, state),) = averages.items()
        return _tensors(state), Source(key, True)
    if ema:
        _refuse_lost_averages(content, raw)
    key = next(key for key in (*_RAW, *raw) if key in raw)
    if len(raw) > 1 and key not in _RAW:
        raise InputError(f"has several state dicts: {', '.join(raw)}; store the one you want alone")
    return _tensors(raw[key]), Source(key, False)


def rename(names: Iterable[str], ema: bool) -> tuple[dict[str, str], str | None]:
    """Weight names in a state dict that holds averages beside raw weights, told apart by prefix.

    Lightning's ``model_ema.`` drops the dots of the names below ``model.``; ``ema_model.`` beside
    ``online_model.`` keeps them.

    Returns:
        name -> name in the state dict; and the prefix of the averages that were taken, if any.

    Raises:
        InputError: if it has not what is asked for, or averages of unknown weights; the message
            continues a file's name.
    """
    names = list(names)
    prefixes = dict.fromkeys(
        name.partition(".")[0] for name in names if "." in name and is_average(name.split(".")[0])
    )
    averages = {name for name in names if name.partition(".")[0] in prefixes}
    rest = {name: name for name in names if name not in averages}
    if averages and not ema and not rest:
        raise InputError(f"has only averages ({', '.join(prefixes)}): use ema=true")
    if not ema or not averages:
        return rest, None
    if len(prefixes) > 1:
        raise InputError(f"has several averages: {', '.join(prefixes)}; store one of them alone")
    (prefix,) = prefixes
    dotless = {
        name: f"{prefix}." + name.removeprefix("model.").replace(".", "")
        for name in rest
        if name.startswith("model.")
    }
    if averages.intersection(dotless.values()):
        # Weights may lack averages, those that were not trained; averages never lack weights.
        counters = {f"{prefix}.decay", f"{prefix}.num_updates"}
        lost = sorted(averages - counters - set(dotless.values()))
        if lost:
            raise InputError(
                f"has averages of weights that it lacks: {lost[0]} and {len(lost) - 1} more; get "
                "another copy, or take the raw ones with ema=false"
            )
        return {**rest, **{n: old for n, old in dotless.items() if old in averages}}, prefix
    return {name.removeprefix(f"{prefix}."): name for name in names if name in averages}, prefix


def _refuse_lost_averages(content: dict, raw: dict[str, dict]) -> None:
    """Refuse raw weights if the file seems to have averages that cannot be read."""
    for key, value in content.items():
        if isinstance(key, str) and is_average(key):
            if value is None or (isinstance(value, dict | list | tuple) and not value):
                raise InputError(
                    f"has no averaged weights: {key} is empty; ema=false takes the raw ones "
                    f"({', '.join(raw)})"
                )
            if isinstance(value, list | tuple) or (
                isinstance(value, dict)
                and any(isinstance(part, list | tuple) and part for part in value.values())
            ):
                raise InputError(
                    f"has averaged weights ({key}) without their names; store them by name, or "
                    f"take the raw ones ({', '.join(raw)}) with ema=false"
                )
    shapes = [{name: value.shape for name, value in _tensors(s).items()} for s in raw.values()]
    if any(shape == shapes[0] for shape in shapes[1:]):
        raise InputError(
            f"has several state dicts of one network: {', '.join(raw)}; none is named as averages, "
            "so store the one you want alone, or take the raw one with ema=false"
        )


def _state_dicts(content: dict, above: tuple[str, ...] = ()) -> dict[str, dict]:
    """Dotted key -> state dict, for all up to three levels deep in a pickle."""
    found = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, dict) or _OTHERS.match(key):
            continue
        path = (*above, key)
        if _is_state(value):
            found[".".join(path)] = value
        elif len(path) < 3:
            found |= _state_dicts(value, path)
    return found


def _is_state(content: object) -> bool:
    return (
        isinstance(content, dict)
        and any(isinstance(value, Tensor) for value in content.values())
        and all(isinstance(value, Tensor | Foreign) for value in content.values())
        and all(isinstance(name, str) for name in content)
    )


def _tensors(state: dict) -> State:
    for name, value in state.items():
        if isinstance(value, Foreign):
            raise InputError(
                f"was refused, it holds more than tensors: {name} is an object of {value.origin}"
            )
    return dict(state)


def _keys(content: object) -> str:
    if not isinstance(content, dict):
        return f"it is a {type(content).__name__}"
    keys = [str(key) for key in content]
    return f"its keys are {', '.join(keys[:10])}{', ...' if len(keys) > 10 else ''}"
