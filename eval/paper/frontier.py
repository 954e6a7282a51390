"""What a search found: its result as plain data, a page, and a picture of the frontiers."""

import csv
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scipy.stats import spearmanr
from torch import Tensor

from eval import terminal
from eval.candidates import Candidates
from eval.confidence import standard_error
from eval.markdown import markdown
from eval.paper import plots
from eval.search import Setting
from stitch import pareto_frontier
from stitch.runs import devices, provenance

SPEED_UPS = (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # the budgets of the table
CERTAIN = 1.96  # standard errors on either side of an interval of 95 %


def result(
    candidates: Candidates,
    rounds: Sequence[Mapping[Setting, float]],
    images: Sequence[int],
    records: Mapping[Setting, dict],
    influences: Mapping[Setting, Tensor],
    times: Mapping[Setting, dict],
    cost: Callable[[Setting], float],
    hours: float,
) -> dict:
    """All that a search found, as plain data.

    Args:
        rounds: of ``eval.search.search``, with these numbers of images.
        records, influences, times: of the settings of the last round.
        cost: setting -> predicted seconds of one image.
        hours: that the search took; what was recorded before took more.
    """
    space, base = candidates.space, candidates.space.base
    points = []
    for setting, record in records.items():
        run = candidates.run(setting, images[-1])
        own, other = influences[setting], influences[base]
        points.append(
            {
                "base": setting == base,
                "methods": [m for m in space.methods if space.covers(m, setting)],
                "choices": dict(zip(space.axes, space.words(setting), strict=True)),
                "allocation": str(run.allocation),
                "fid": record["metrics"]["fid"],
                "fid_error": standard_error(own),
                "above_base": record["metrics"]["fid"] - records[base]["metrics"]["fid"],
                "above_base_error": standard_error(own - other),
                **run.cost(),
                **times[setting],
                "predicted_ms": 1e3 * cost(setting),
                "run": run.id,
                "command": candidates.command(setting, images[-1]),
            }
        )
    first = candidates.run(base, images[-1])
    return {
        "zoo": first.zoo.name,
        "base": str(first.allocation),
        "methods": {name: list(axes) for name, axes in space.methods.items()},
        "rounds": [
            {"images": count, "settings": len(found), **_agreement(found, rounds[-1])}
            for count, found in zip(images, rounds, strict=True)
        ],
        "images": images[-1],
        "hours": hours,
        "batch_size": first.batch_size,
        "dtype": first.settings["dtype"],
        "device": devices.name(first.zoo.device) + (", compiled" if first.compile else ""),
        "commit": provenance.commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "points": sorted(points, key=lambda point: point["ms_per_image"]),
    }


def _agreement(found: Mapping[Setting, float], last: Mapping[Setting, float]) -> dict:
    """How a round ranks the settings that the last one has measured as well."""
    both = [one for one in last if one in found]
    if len(both) < 3:
        return {}
    rank = spearmanr([found[one] for one in both], [last[one] for one in both]).statistic
    return {"rank_correlation": float(rank), "compared": len(both)}


def of_method(found: dict, method: str) -> list[dict]:
    """The frontier of a method, by ascending time."""
    points = [point for point in found["points"] if method in point["methods"]]
    best = pareto_frontier([p["ms_per_image"] for p in points], [p["fid"] for p in points])
    return [points[index] for index in best]


def base_of(found: dict) -> dict:
    """The setting that all methods start from."""
    return next(point for point in found["points"] if point["base"])


def as_good(found: dict, method: str) -> dict:
    """A method's fastest setting whose FID is not certainly above that of the base."""
    points = [
        point
        for point in found["points"]
        if method in point["methods"] and point["above_base"] <= CERTAIN * point["above_base_error"]
    ]
    return min(points, key=lambda point: point["ms_per_image"])


def page(found: dict) -> str:
    """The numbers as Markdown."""
    base = base_of(found)
    slowest = base["ms_per_image"]
    equal = []
    for method in found["methods"]:
        point = as_good(found, method)
        equal.append(
            [
                method,
                f"{point['ms_per_image']:.3g}",
                f"{slowest / point['ms_per_image']:.2f}",
                _fid(point),
                f"{base['macs_per_image'] / point['macs_per_image']:.1f}",
                _choices(point),
            ]
        )
    *single, everything = [of_method(found, method) for method in found["methods"]]
    names = list(found["methods"])
    alone = [
        (name, line)
        for name, line in zip(names, single, strict=False)
        if not name.startswith("all but") and " and " not in name
    ]
    budgets = []
    for factor in SPEED_UPS:
        best = _best(everything, slowest / factor)
        if best is None:
            continue
        others = [_best(line, slowest / factor) for _, line in alone]
        budgets.append(
            [
                f"{slowest / factor:.3g} ms ({factor:g} times)",
                _fid(best),
                *(f"{other['fid']:.3f}" if other else "-" for other in others),
                f"`{best['command']}`",
            ]
        )
    rounds = [
        f"{one['settings']} settings on {one['images']:,} images"
        + (
            f" (rank correlation with the last round {one['rank_correlation']:.2f} over "
            f"{one['compared']})"
            if "rank_correlation" in one
            else ""
        )
        for one in found["rounds"]
    ]
    return (
        f"**The fastest setting as good as {found['base']}** (FID not certainly above, by paired "
        "seeds; ± is 95 %)\n\n"
        + markdown(
            ("method", "ms per image", "times faster", "FID", "times fewer MACs", "setting"), equal
        )
        + "\n\n**The best setting within a time per image**\n\n"
        + markdown(("at most", names[-1], *(name for name, _ in alone), "command"), budgets)
        + f"\n\n{'; '.join(rounds)}; {found['hours']:.2f} hours, what was recorded before not "
        f"counted. {caption(found)}.\n\n"
        "![FID against time](frontier.png)\n"
    )


def _best(line: list[dict], limit: float) -> dict | None:
    within = [point for point in line if point["ms_per_image"] <= limit]
    return min(within, key=lambda point: point["fid"]) if within else None


def _fid(point: dict) -> str:
    return f"{point['fid']:.3f} ± {CERTAIN * point['fid_error']:.3f}"


def _choices(point: dict) -> str:
    """A setting in few words."""
    return f"{point['allocation']}, {_words(point)}"


def _words(point: dict) -> str:
    """A setting without its allocation."""
    chosen = [word for axis, word in point["choices"].items() if not axis.startswith("share of")]
    return ", ".join(w.replace("sampler.", "").replace("cache.", "") for w in chosen if w)


def caption(found: dict) -> str:
    return (
        f"zoo {found['zoo']}, {found['images']:,} images, {found['dtype']}, batch "
        f"{found['batch_size']}, {found['device']}, commit {found['commit']}"
    )


def write(folder: Path, found: dict) -> str:
    """Store ``frontier.json``, ``.csv``, ``.md`` and the picture in ``folder``; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "frontier.md", page(found)
    path.write_text(text)
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    with open(path.with_suffix(".csv"), "w", newline="") as file:
        rows = [
            {**point["choices"], **{k: v for k, v in point.items() if k != "choices"},
             "methods": "; ".join(point["methods"])}
            for point in found["points"]
        ]  # fmt: skip
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    draw(path.with_suffix(".png"), found)
    return text


def in_short(found: dict) -> list[str]:
    """The frontier of everything, as a table and in plain characters, as lines of text."""
    everything = list(found["methods"])[-1]
    rows = [
        {**point, "gmacs_per_image": point["macs_per_image"] / 1e9, "setting": _words(point)}
        for point in of_method(found, everything)
    ]
    points = [(point["ms_per_image"], point["fid"]) for point in found["points"]]
    return [
        f"the frontier of {len(points)} settings measured on {found['images']:,} images",
        *terminal.listing(rows, ["run", "setting"]),
        "",
        *terminal.frontier(points, "ms per image", "FID"),
    ]


def draw(path: Path, found: dict) -> None:
    """The frontiers of single methods and of everything."""
    shown = [m for m in found["methods"] if not m.startswith("all but") and " and " not in m]
    lines = []
    for number, method in enumerate(shown):
        line = of_method(found, method)
        lines.append(
            plots.Curve(
                method,
                [point["ms_per_image"] for point in line],
                [point["fid"] for point in line],
                colour=number,
                error=CERTAIN * statistics.median(point["fid_error"] for point in line),
            )
        )
    panel = plots.Panel("", "ms per image", "FID", lines, log="xy")
    plots.panels(path, [[panel]], f"The frontier on {found['zoo']}", caption(found))
