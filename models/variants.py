"""Names of other weights of a denoiser: ``DiT-XL@0-199``, ``DiT-XL@all``, ``DiT-S@64k``.

What stands before the @ is a denoiser of the zoo's card, whose architecture the weights are of.
They lie in the zoo's folder under the whole name.
"""

import re

SIGN = "@"


def base(name: str) -> str:
    """The denoiser of the card that ``name`` is a variant of, or ``name`` itself."""
    return name.partition(SIGN)[0]


def bases(allocation: str) -> str:
    """The text of an allocation with the base of every denoiser in its place."""
    return re.sub(rf"{SIGN}[^*+]*", "", allocation)


def tuned(name: str, interval: tuple[int, int] | None) -> str:
    """The name of ``name`` fine-tuned on the timesteps [low, high), or on all for None."""
    if interval is None:
        return f"{name}{SIGN}all"
    low, high = interval
    return f"{name}{SIGN}{low}-{high - 1}"


def aged(name: str, images: int) -> str:
    """The name of ``name`` as it was after ``images`` images of its training."""
    age = f"{images // 1000}k" if images % 1000 == 0 else str(images)
    return f"{name}{SIGN}{age}"


def order(name: str) -> tuple[str, list[int], str]:
    """What names are sorted by: their bases, then ages and intervals as numbers."""
    first, _, rest = name.partition(SIGN)
    numbers = [int(digits) * 1000 ** len(k) for digits, k in re.findall(r"(\d+)(k?)", rest)]
    return first, numbers, name


def interval(name: str) -> tuple[int, int] | None:
    """The timesteps [low, high) that a variant was fine-tuned on, by its name; None: all."""
    found = re.fullmatch(rf"[^{SIGN}]*{SIGN}(\d+)-(\d+)", name)
    return (int(found[1]), int(found[2]) + 1) if found else None
