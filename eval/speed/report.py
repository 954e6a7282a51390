"""A page of measurements, with the machine that they are of."""

import json
import logging
from pathlib import Path

from eval.markdown import markdown
from eval.speed import timing

log = logging.getLogger("bench")

CONVENTION = "GFLOP = 2 x multiply-accumulates of matrix products, convolutions and attention"


def write(stem: Path, command: str, facts: dict, rows: list[dict], repetitions: int) -> str:
    """Write ``stem``.json and ``stem``.md; return the page.

    Args:
        command: that measures the rows again.
        facts: of the machine, before; see ``timing.machine``.
    """
    spread = max(row.get("spread", 0.0) for row in rows)
    if spread > timing.WOBBLE:
        log.warning("times spread by up to %.0f %%: measure again on an idle machine", 100 * spread)
    result = {
        "command": command,
        "machine": facts,
        "convention": CONVENTION,
        "repetitions": repetitions,
        "rows": rows,
    }
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(page(result))
    return page(result)


def page(result: dict) -> str:
    """The result as a Markdown page."""
    facts, rows = result["machine"], result["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    about = (
        f"{facts['device']}, torch {facts['torch']}, Python {facts['python']}, load average "
        f"{facts['load_average']} on {facts['cores']} cores before, commit {facts['commit']}, "
        f"{facts['time']}. Medians of {result['repetitions']} repetitions, in turn; spread is "
        f"(slowest - fastest) / median. {result['convention']}."
    )
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    return f"`{result['command']}`\n\n{about}\n\n{markdown(columns, cells)}\n"


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
