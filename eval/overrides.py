"""Points of a sweep, from the overrides that span it."""

import itertools
import re
from decimal import Decimal

from hydra.core.override_parser.overrides_parser import OverridesParser

from models.errors import InputError


def expand(overrides: list[str]) -> list[list[str]]:
    """The points of a sweep, in the order of Hydra's multirun: the last list varies fastest.

    Args:
        overrides: as Hydra's, with lists such as ``guidance.scale=1.5,2``, ``range(...)``,
            ``choice(...)`` or ``allocation.small=0,0.1,...,1``.

    Raises:
        HydraException: for what Hydra cannot parse.
    """
    parsed = OverridesParser.create().parse_overrides([fill_in(one) for one in overrides])
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [one.input_line]
        for one in parsed
    ]
    return [list(point) for point in itertools.product(*values)]


def fill_in(override: str) -> str:
    """``0,0.1,...,1`` written out, in decimal arithmetic so that no 0.30000000000000004 comes.

    Raises:
        InputError: if the steps do not lead from the first value to the last.
    """
    number = r"-?\d+(?:\.\d+)?"

    def written_out(match: re.Match) -> str:
        first, second, last = (Decimal(text) for text in match.groups())
        step = second - first
        if not step or (last - first) / step < 1 or (last - first) % step:
            raise InputError(
                f"{override}: {match[0]} has no steps of {step} from {first} to {last}; write the "
                "values out"
            )
        count = int((last - first) / step)
        return ",".join(f"{(first + i * step).normalize():f}" for i in range(count + 1))

    return re.sub(rf"({number}),({number}),\.\.\.,({number})(?![\d.])", written_out, override)
