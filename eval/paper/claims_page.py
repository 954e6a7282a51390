"""Claims as HTML: what the paper says, what was found, and how far that is from the limit."""

import html
import json
from pathlib import Path

from eval.paper.markup import inline

MARKS = {"yes": ("✓", "holds"), "no": ("✗", "does not hold")}
WIDTH, MARGIN = 320, 4  # of a bar, in its own units


def claims(path: Path) -> str:
    """The claims of a file that ``scripts.claims`` wrote."""
    if not path.is_file():
        return "<p>Not judged yet: <code>python -m scripts.claims</code></p>"
    found = json.loads(path.read_text())
    judged = [one["holds"] for one in found["claims"]]
    counts = f"{judged.count('yes')} of {len(judged)} claims hold, {judged.count('no')} do not"
    others = len(judged) - judged.count("yes") - judged.count("no")
    if others:
        counts += f", {others} cannot be judged here"
    items = "\n".join(_item(one) for one in found["claims"])
    about = html.escape(f"{found['about']} Commit {found['commit']}.")
    return f"<p><b>{counts}.</b> <small>{about}</small></p>\n<ol>{items}</ol>"


def _item(claim: dict) -> str:
    mark, words = MARKS.get(claim["holds"], ("·", claim["holds"]))
    kind = claim["holds"].replace(" ", "-")
    return (
        f'<li class="claim {kind}"><h3><span class="mark" role="img" aria-label="{words}">{mark}'
        f"</span> {inline(claim['statement'])}</h3>"
        f"<p><i>Paper:</i> {inline(claim['reported'])}<br><i>Ours:</i> {inline(claim['ours'])}</p>"
        f"{_bar(claim) if 'value' in claim else ''}</li>"
    )


def _bar(claim: dict) -> str:
    """From the limit to the value: to the right of a lower limit is right, as is to the left of an
    upper one."""
    value, limit = claim["value"], claim["limit"]
    low, high = min(0.0, value, limit), max(value, limit)
    scale = (WIDTH - 2 * MARGIN) / (1.15 * (high - low) or 1)
    x, at = (MARGIN + scale * (one - low) for one in (value, limit))
    least = "at least" if claim["better"] == "higher" else "at most"
    text = f"{_number(value, claim)}, {least} {_number(limit, claim)}"
    return (
        f'<div class="bar"><svg viewBox="0 0 {WIDTH} 16" role="img" aria-label="{text}">'
        f'<rect class="track" x="{MARGIN}" y="6" width="{WIDTH - 2 * MARGIN}" height="4" rx="2"/>'
        f'<rect class="margin" x="{min(x, at):.1f}" y="4" width="{abs(x - at):.1f}" height="8"/>'
        f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="16"/>'
        f'<circle class="value" cx="{x:.1f}" cy="8" r="4"/></svg><span>{text}</span></div>'
    )


def _number(value: float, claim: dict) -> str:
    """A value in its unit; ``g`` is none."""
    if claim["unit"] == "%":
        return f"{100 * value:.0f} %"
    return f"{value:.3g}" if claim["unit"] == "g" else f"{value:.3g} {claim['unit']}"
