"""What the page shows, as HTML and SVG that need nothing from outside."""

import base64
import html
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from eval.estimate import SAMPLERS
from eval.explorer.recorded import Point, Recorded
from eval.explorer.setting import Setting
from eval.explorer.walking import View
from eval.metrics import METRICS
from stitch.runs.run import Run

_WIDTH, _HEIGHT = 520, 300  # of the frontier, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 40


def summary(setting: Setting) -> str:
    """A setting but for its shares, in few words."""
    cache = f", in full every {setting.interval} steps" if setting.interval > 1 else ""
    return (
        f"{SAMPLERS.get(setting.sampler, setting.sampler)}, {setting.steps} steps, w = "
        f"{setting.guidance:g}{cache}, {setting.precision}"
    )


def comparison(cards: Sequence[str]) -> str:
    """Cards side by side; one below the other where there is no room."""
    return f'<div class="cards">{"".join(cards)}</div>'


def card(title: str, run: Run, setting: Setting, view: View | None, note: str) -> str:
    """Images of a run, or room for them, with what they took.

    Args:
        title: what it is.
        view: the images; None: there are none yet.
        note: what is to be said below.
    """
    if view is None:
        shown = '<span class="empty"></span>' * run.num_images
    else:
        name = html.escape(str(setting.label))
        shown = "".join(
            f'<img alt="{name}, image {index}" src="{data_url(image)}">'
            for index, image in enumerate(view.images)
        )
    steps = len(run.allocation)
    done = view.step if view else 0
    state = "" if view and view.done else " underway"
    return (
        f'<section class="card{state}"><h3>{html.escape(title)}</h3>'
        f'<p class="what"><b>{html.escape(str(run.allocation))}</b><br>'
        f"{html.escape(f'{setting.label}, seed {setting.seed}; {summary(setting)}')}</p>"
        f'<div class="pictures">{shown}</div>'
        f'<progress max="{steps}" value="{done}" aria-label="steps done"></progress>'
        f"<p>{cost(run)} an image</p>"
        f'<p class="note">{html.escape(note)}</p></section>'
    )


def data_url(image: np.ndarray) -> str:
    """An (H, W, C) uint8 image as a PNG within a URL."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def cost(run: Run) -> str:
    """What an image costs."""
    spent = run.cost()
    forecasts = f", {spent['forecasts']} forecasts" if spent.get("forecasts") else ""
    return f"{spent['macs_per_image'] / 1e9:.3g} GMACs, {spent['nfe']} evaluations{forecasts}"


def timeline(run: Run, pure: Run, denoisers: Sequence[str]) -> str:
    """Who owns which step, from noise to image, and what an image costs."""
    count = len(run.allocation)
    width = 1000 / count
    bars = []
    timesteps = run.sampler.timesteps
    for step, (owner, calls) in enumerate(zip(run.allocation.steps, run.calls, strict=True)):
        forecast = run.zoo.specs.keys().isdisjoint(calls)
        how = ", forecast by the cache" if forecast else ""
        bars.append(
            f'<rect class="d{denoisers.index(owner)}{" forecast" if forecast else ""}" '
            f'x="{step * width:.2f}" width="{width:.2f}" height="36"><title>step {step + 1} of '
            f"{count}: {html.escape(owner)}, timestep {timesteps[step]:g}{how}</title></rect>"
        )
    words = ", then ".join(f"{name} {steps} steps" for name, steps in run.allocation.runs)
    legend = "".join(
        f'<span><i class="d{denoisers.index(name)}"></i>{html.escape(name)}: {steps} of {count} '
        f"steps</span>"
        for name, steps in run.allocation.counts.items()
    )
    fewer = pure.cost()["macs_per_image"] / run.cost()["macs_per_image"]
    return (
        f'<div class="timeline"><svg viewBox="0 0 1000 36" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(words)}">{"".join(bars)}</svg>'
        f'<div class="ends"><span>noise</span><span>image</span></div>'
        f'<div class="legend">{legend}</div>'
        f"<p>{cost(run)} an image: {fewer:.3g} times fewer MACs than {denoisers[-1]} alone "
        f"({cost(pure)}).</p></div>"
    )


def frontier(recorded: Recorded, here: Run, pure: Run, zoo: str) -> str:
    """FID against cost of what is recorded, and where a setting lies; points can be chosen."""
    if not recorded.points:
        return no_records(recorded, zoo)
    macs = [one.cost()["macs_per_image"] / 1e9 for one in (here, pure)]
    xs = _Axis([*(p.gmacs for p in recorded.points), *macs], _LEFT, _WIDTH - _RIGHT)
    ys = _Axis([p.fid for p in recorded.points], _HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(xs, ys)]
    best = set(recorded.frontier)
    line = " ".join(
        f"{xs.at(recorded.points[i].gmacs):.1f},{ys.at(recorded.points[i].fid):.1f}"
        for i in recorded.frontier
    )
    parts.append(f'<polyline class="line" points="{line}"/>')
    order = sorted(range(len(recorded.points)), key=lambda i: i in best)  # the best on top
    parts += [_dot(recorded.points[i], i, i in best, xs, ys) for i in order]
    marks = [
        _mark(recorded, run, kind, xs, ys)
        for run, kind in ((pure, "pure"), (here, "here"))
        if kind == "here" or run.settings != here.settings
    ]
    said = "".join(
        f'<span><i class="{kind}"></i>{html.escape(text)}</span>' for kind, _, text in marks[::-1]
    )
    text = (
        f"The line is the frontier of {len(recorded.points)} recorded settings, FID of "
        f"{recorded.images:,} images each. Of the {recorded.found} records of the zoo, the others "
        "are under other protocols, or of what this page has no control for. A click on a point "
        "loads its setting and samples it."
    )
    drawn = "".join([*parts, *(mark for _, mark, _ in marks)])
    return (
        f'<figure class="frontier"><div class="legend">{said}</div><svg viewBox="0 0 {_WIDTH} '
        f'{_HEIGHT}" role="group" aria-label="FID against cost">{drawn}</svg>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def no_records(recorded: Recorded, zoo: str) -> str:
    """What to say of a zoo without a frontier, and how to make one."""
    why = (
        f"None of the {recorded.found} records of {zoo} is of a setting of this page and of the "
        "present weights."
        if recorded.found
        else f"There are no records of {zoo} yet, so there is no frontier to show."
    )
    command = (
        f"python -m scripts.sweep -m zoo={zoo} sampler.steps=20 num_images=2000 "
        "allocation.small=0,0.1,...,1"
    )
    return (
        f'<div class="frontier none"><p>{html.escape(why)} This makes eleven, FID of 2,000 images '
        f"each; they appear when the page is started again:</p><pre>{html.escape(command)}</pre>"
        "</div>"
    )


def _mark(recorded: Recorded, run: Run, kind: str, xs: "_Axis", ys: "_Axis") -> tuple:
    """Where a run lies: what it is, its mark, and that in words."""
    gmacs = run.cost()["macs_per_image"] / 1e9
    place, x = recorded.place(run.settings), xs.at(gmacs)
    if place is None:
        mark = f'<path class="mark {kind}" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
        return kind, mark, f"{run.allocation}: {gmacs:.3g} GMACs, FID not recorded"
    point = recorded.points[place]
    mark = f'<circle class="mark {kind}" cx="{x:.1f}" cy="{ys.at(point.fid):.1f}" r="7"/>'
    fid = f"FID {point.fid:.3f}, recorded in {point.setting.precision}"
    return kind, mark, f"{run.allocation}: {gmacs:.3g} GMACs, {fid}"


def _dot(point: Point, index: int, best: bool, xs: "_Axis", ys: "_Axis") -> str:
    found = ", ".join(
        f"{METRICS[name].label} {value:.{METRICS[name].digits}f}"
        for name, value in point.metrics.items()
        if name in METRICS
    )
    text = (
        f"{point.allocation}; {summary(point.setting)}; {found}; {point.gmacs:.3g} GMACs; "
        f"{point.source.name}"
    )
    reached = 'tabindex="0" role="button" ' if best else ""
    return (
        f'<circle class="{"best" if best else "point"}" data-point="{index}" {reached}'
        f'aria-label="{html.escape(text)}" cx="{xs.at(point.gmacs):.1f}" '
        f'cy="{ys.at(point.fid):.1f}" r="{3.6 if best else 2.4}"><title>{html.escape(text)}'
        f"</title></circle>"
    )


def _axes(xs: "_Axis", ys: "_Axis") -> str:
    bottom = _HEIGHT - _BOTTOM
    lines = [
        f'<path d="M{xs.at(v):.1f} {_TOP}V{bottom}"/><text x="{xs.at(v):.1f}" y="{bottom + 14}" '
        f'text-anchor="middle">{v:g}</text>'
        for v in xs.ticks
    ]
    lines += [
        f'<path d="M{_LEFT} {ys.at(v):.1f}H{_WIDTH - _RIGHT}"/><text x="{_LEFT - 5}" '
        f'y="{ys.at(v) + 3.5:.1f}" text-anchor="end">{v:g}</text>'
        for v in ys.ticks
    ]
    middle = (_TOP + bottom) / 2
    return (
        f'<g class="axes">{"".join(lines)}<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" '
        f'y="{_HEIGHT - 8}" text-anchor="middle">GMACs per image</text><text x="11" '
        f'y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">FID</text></g>'
    )


class _Axis:
    """A logarithmic axis.

    Args:
        values: which it has room for.
        start, end: its ends on the picture.
    """

    def __init__(self, values: Sequence[float], start: float, end: float):
        low, high = _log(min(values)), _log(max(values))
        room = max(0.05 * (high - low), 0.02)
        self._low, self._high, self._start, self._end = low - room, high + room, start, end

    def at(self, value: float) -> float:
        share = (_log(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    @property
    def ticks(self) -> list[float]:
        """Round numbers, more of them on a short axis."""
        steps = (1, 2, 3, 5) if self._high - self._low < 2 else (1, 3)
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        every = [step * 10.0**power for power in powers for step in steps]
        return [v for v in every if self._low <= _log(v) <= self._high]


def _log(value: float) -> float:
    return math.log10(max(value, 1e-6))  # a distance that is zero but for rounding is drawn, too
