"""From shares to the allocation of a pipeline's steps."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from models.errors import InputError
from stitch.allocation import Allocation, check_fractions

Allocate = Callable[[Sequence[float]], Allocation]
Shares = Mapping[str, float] | Allocation | Allocate

# How shares become steps: the paper's rule (sec. 3.2), and that of the official SD code.
RULES = {"round": round, "floor": math.floor}


def allocator(shares: Shares, names: Sequence[str], rule: str) -> Allocate:
    """A function from the timesteps of a trajectory to its allocation.

    Args:
        shares: see ``stitch_pipeline``.
        names: of the denoisers, from noise to image.
        rule: a key of ``RULES``.

    Raises:
        InputError: for shares that do not fit; the function too.
    """
    if rule not in RULES:
        raise InputError(f"rule={rule!r} is unknown; known: {', '.join(RULES)}")
    if isinstance(shares, Mapping):
        check_names("shares", shares, names)
        check_fractions(shares, "shares")
        ordered = {name: shares[name] for name in names if name in shares}
        return lambda timesteps: Allocation.from_fractions(ordered, len(timesteps), RULES[rule])
    if isinstance(shares, Allocation):
        check_names("shares", shares.denoisers, names)
    elif not callable(shares):
        raise InputError(
            f"shares={shares!r} must be a mapping such as {{'small': 0.4, 'large': 0.6}}, an "
            "Allocation, or a function from timesteps to one"
        )

    def allocate(timesteps: Sequence[float]) -> Allocation:
        allocation = shares if isinstance(shares, Allocation) else shares(timesteps)
        if not isinstance(allocation, Allocation):
            raise InputError(f"shares gave {allocation!r}; the function must give an Allocation")
        check_names("shares", allocation.denoisers, names)
        if len(allocation) != len(timesteps):
            raise InputError(
                f"shares={allocation} is for {len(allocation)} steps, and the scheduler has "
                f"{len(timesteps)} timesteps; give shares as a mapping, or as many steps"
            )
        return allocation

    return allocate


def check_names(setting: str, chosen: Iterable[str], names: Collection[str]) -> None:
    """Raise InputError, naming the ``setting``, if a chosen name is none of the denoisers'."""
    unknown = [str(name) for name in chosen if name not in names]
    if unknown:
        raise InputError(
            f"{setting}: there is no denoiser {', '.join(unknown)}; known: {', '.join(names)}"
        )
