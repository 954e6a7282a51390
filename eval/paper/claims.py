"""Which claims of the paper hold here: every claim is a predicate on records.

What was not measured is said to be, with the command that measures it; nothing is guessed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.stats import spearmanr

from eval.markdown import markdown
from eval.paper import reported
from eval.paper.measured import (
    LARGE,
    Data,
    NotTestable,
    Unmeasured,
    fids_of_pair,
    macs,
    together,
    value,
)
from eval.paper.points import Planner
from stitch import pareto_frontier
from stitch.analysis import cosine_similarity, log_amplitude_spectrum
from stitch.runs.provenance import commit

HEADER = ("claim", "paper", "ours", "holds")
HOLDS = {"no": "**no**"}
EARLY = 0.4  # the share of the small denoiser that most claims are about


def judged(data: Data, claims: Sequence["Claim"]) -> dict:
    """Claims and whether they hold, as plain data."""
    rows = [judge(claim, data) for claim in claims]
    return {"about": about(data.planner), "commit": commit(), "claims": rows}


def page(found: dict) -> str:
    """What ``judged`` found, as Markdown."""
    rows = [
        [one["statement"], one["reported"], one["ours"], HOLDS.get(one["holds"], one["holds"])]
        for one in found["claims"]
    ]
    return f"{found['about']}\n\n{markdown(HEADER, rows)}\n"


@dataclass(frozen=True)
class Claim:
    """A statement of the paper.

    Attributes:
        statement, reported: what it says, and its numbers.
        check: data -> what was found.
    """

    statement: str
    reported: str
    check: Callable[[Data], "Finding"]


@dataclass(frozen=True)
class Finding:
    """What was found of a claim.

    Attributes:
        text: our numbers.
        value, limit: the number that decides, and the last one with which the claim holds.
        better: ``higher`` or ``lower``: which values are on the right side of the limit.
        unit: of both: ``%`` of shares, ``g`` of plain numbers, or words.
        also: what else has to be so.
    """

    text: str
    value: float
    limit: float
    better: str = "higher"
    unit: str = "%"
    also: bool = True

    @property
    def holds(self) -> bool:
        over = self.value - self.limit
        return self.also and (over >= 0 if self.better == "higher" else over <= 0)


def judge(claim: Claim, data: Data) -> dict:
    """A claim, our numbers, and whether it holds: yes, no, not measured or not testable."""
    row = {"statement": claim.statement, "reported": claim.reported}
    try:
        found = claim.check(data)
    except Unmeasured as missing:
        return {**row, "ours": f"not measured: `{missing}`", "holds": "not measured"}
    except NotTestable as reason:
        return {**row, "ours": f"not testable here: {reason}", "holds": "not testable"}
    numbers = {name: getattr(found, name) for name in ("value", "limit", "better", "unit")}
    return {**row, "ours": found.text, "holds": "yes" if found.holds else "no", **numbers}


def about(planner: Planner) -> str:
    zoo, names = planner.config.zoo.name, planner.config.protocols
    factors = names[planner.protocol]
    return (
        f"Claims of the paper on the zoo {zoo}: protocol {planner.protocol} "
        f"({factors['images'] * 5000:,.0f} images, {factors['steps'] * 100:.0f} steps where the "
        f"paper has 100), {planner.config.precision}, seed {planner.config.seed}. FIDs compare "
        "within a column only."
    )


def free_share(curve: dict[float, float], tolerance: float) -> float:
    """The share up to which FID is never above that of the large denoiser alone."""
    limit, best = curve[LARGE] * (1 + tolerance), 0.0
    for share in sorted(curve):
        if curve[share] > limit:
            break
        best = share
    return best


def early_steps_are_free(data: Data, figure: str = "fig01", share: float | None = None) -> Finding:
    curve, limits = data.curve(figure, "fid"), data.thresholds
    free = free_share(curve, limits.free)
    wanted = limits.free_share if share is None else share
    text = (
        f"free up to {free:.0%}; FID {curve[wanted]:.3f} at {wanted:.0%}, {curve[LARGE]:.3f} at 0"
    )
    return Finding(text, free, wanted)


def speed_up(data: Data) -> Finding:
    times = {point.fractions[0]: record["timing"] for point, record in data.points("fig01")}
    if not all(times.values()) or not together([*times.values()]):
        raise data.untimed("fig01")
    cost = {share: timing["ms_per_image"] for share, timing in times.items()}
    ratio = cost[LARGE] / cost[EARLY]
    return Finding(f"{ratio:.2f}x at 40 %", ratio, data.thresholds.speed_up, unit="g")


def order_matters(data: Data) -> Finding:
    found = [value(record, "fid") for _, record in data.points("table7")]
    names = ("interleaved", "decreasing probability", "large to small", "small to large")
    text = ", ".join(f"{name} {fid:.3f}" for name, fid in zip(names, found, strict=True))
    best = min(found[:-1])
    return Finding(text, found[-1], best, "lower", "g", also=found[-1] < best)


def medium_improves_the_frontier(data: Data) -> Finding:
    found = data.points("fig06")
    costs = [macs(record) for _, record in found]
    best = pareto_frontier(costs, [value(record, "fid") for _, record in found])
    of_medium = [i for i in best if found[i][0].fractions[1] > 0]
    part = len(of_medium) / len(best)
    text = f"{len(of_medium)} of {len(best)} points of the FID frontier over MACs"
    return Finding(text, part, data.thresholds.medium)


def early_steps_are_safe(data: Data, figures: dict[str, dict]) -> Finding:
    """Of several lines: the rise of FID at a share of 40 %, relative to the large one alone."""
    rises = {name: line[EARLY] / line[LARGE] - 1 for name, line in figures.items()}
    text = ", ".join(f"{name} {rise:+.0%}" for name, rise in rises.items())
    return Finding(text, max(rises.values()), data.thresholds.safe, "lower")


def guidance_scales(data: Data) -> Finding:
    lines: dict[str, list] = {}
    for point, record in data.points("fig12"):
        if point.fractions[1] == 0:
            name = f"w = {point.run.settings['guidance']['scale']:g}"
            lines.setdefault(name, []).append((point, record))
    return early_steps_are_safe(data, {k: fids_of_pair(line) for k, line in lines.items()})


def latents_agree_early(data: Data) -> Finding:
    (_, (large, _)), (_, (small, _)) = data.points("fig03")[:2]
    similarity = cosine_similarity(large, small).mean(1)
    early, end = similarity[: len(similarity) // 2].min().item(), similarity[-1].item()
    text = f"at least {early:.3f} in the first half, {end:.3f} at the end (DiT-XL and DiT-S)"
    return Finding(text, early, data.thresholds.similar, unit="g", also=end < early)


def low_frequencies_come_first(data: Data) -> Finding:
    ((_, (states, _)),) = data.points("fig11")
    change = log_amplitude_spectrum(states)
    change = ((change - change[0]) / (change[-1] - change[0])).T
    halves = [int((band >= 0.5).nonzero()[0, 0]) + 1 for band in change]
    text = f"half of the change of the lowest band by step {halves[0]}, of the highest by step "
    text += f"{halves[-1]} of {change.shape[1]}"
    return Finding(text, halves[-1] - halves[0], 1, unit="steps earlier")


def fewer_steps(data: Data) -> Finding:
    """At every number of steps of the large denoiser: is T-Stitch as good for no more MACs?"""
    worse, count = [], 0
    for panel in (0, 1):
        found = [(p, r) for p, r in data.points("fig15") if p.panel == panel]
        stitched = [(p, r) for p, r in found if p.series == 0]
        for point, record in found:
            if point.series == 0:
                continue
            cost = macs(record)
            affordable = [value(r, "fid") for _, r in stitched if macs(r) <= cost]
            if not affordable:
                continue  # cheaper than any allocation
            count += 1
            if min(affordable) > value(record, "fid"):
                run = point.run.settings
                worse.append(f"{run['sampler']['steps']} steps, w = {run['guidance']['scale']:g}")
    text = f"as good or better at {count - len(worse)} of {count} step counts"
    if worse:
        text += f"; fewer steps of the large one are better at {' and '.join(worse)}"
    reached = 1 - len(worse) / count if count else 0.0
    return Finding(text, reached, data.thresholds.fewer_steps)


def dominates_model_stitching(data: Data) -> Finding:
    """Of every stitch: is T-Stitch as good for no more MACs?"""
    found, counts, total = data.points("fig10"), {}, 0
    for metric, sign in (("fid", 1), ("is", -1)):
        stitched, theirs = (
            [(macs(r), sign * value(r, metric)) for p, r in found if p.series == series]
            for series in (0, 1)
        )
        total = len(theirs)
        counts[metric] = sum(
            any(cost <= most and one <= other for cost, one in stitched) for most, other in theirs
        )
    text = f"as good for no more MACs as {counts['fid']} of {total} stitches in FID, "
    share = min(counts.values()) / total
    return Finding(f"{text}{counts['is']} in IS", share, data.thresholds.dominates)


def few_and_many_images(data: Data) -> Finding:
    few, many = data.curve("fig13", "fid", 0), data.curve("fig13", "fid", 1)
    shares = sorted(few)
    rank = spearmanr([few[s] for s in shares], [many[s] for s in shares]).statistic
    counts = sorted({point.run.num_images for point, _ in data.points("fig13")})
    text = f"Spearman correlation {rank:.2f} of {counts[0]:,} and {counts[-1]:,} images"
    return Finding(text, rank, data.thresholds.rank, unit="g")


def precision_and_recall_follow(data: Data) -> Finding:
    drops, texts = [], []
    for metric in ("precision", "recall"):
        curve = data.curve("table9", metric)
        drops.append(curve[LARGE] - curve[EARLY])
        texts.append(f"{metric} {curve[LARGE]:.3f} to {curve[EARLY]:.3f}")
    limit = data.thresholds.drop
    return Finding(f"{', '.join(texts)} at 40 %", max(drops), limit, "lower", "g")


def overhead(data: Data) -> Finding:
    points = data.points("table8")
    _, large, both = (entry for _, entry in points)
    key = "peak_allocated_mb" if "peak_allocated_mb" in both else "peak_rss_mb"
    if key not in both or key not in large or not together([large, both]):
        raise data.untimed("table8")
    memory, params = both[key] / large[key], both["params"] / large["params"]
    text = f"memory x{memory:.2f}, parameters x{params:.2f}"
    return Finding(text, memory, data.thresholds.overhead, "lower", "g")


def _reported(path: str, share: float):
    shares = reported.look_up(".".join([*path.split(".")[:2], "x"]))["fraction_small"]
    return reported.look_up(path)[shares.index(share)]


def _at_share(path: str, share: float) -> str:
    return f"FID {_reported(path, share)} at {share:.0%}, {_reported(path, 0.0)} at 0"


def _rise(paths: dict[str, str]) -> str:
    """Reported relative rises of FID at a share of 40 %."""
    rises = {}
    for name, path in paths.items():
        values = reported.curve(path, "fid").y
        rises[name] = values[4] / values[0] - 1
    return ", ".join(f"{name} {rise:+.0%}" for name, rise in rises.items())


def _table7() -> str:
    rows = reported.look_up("tables.T7.rows")
    return ", ".join(f"{name.replace('_', ' ')} {row['FID']}" for name, row in rows.items())


def _frontier_of_medium() -> str:
    points = reported.look_up("figures.F6.pareto_FID_SBXL")
    return f"{sum(p[1] > 0 for p in points)} of {len(points)} points of the FID frontier over time"


CLAIMS = [
    Claim(
        "the first 40 % of DiT-XL's steps can be DiT-S's without loss of FID",
        _at_share("figures.F1.y.FID", EARLY),
        early_steps_are_free,
    ),
    Claim("which is 1.5 times as fast", "1.5x at 40 %", speed_up),
    Claim(
        "LDM: the first half can be LDM-S's without loss of FID",
        _at_share("tables.T1.y.FID", 0.5),
        lambda data: early_steps_are_free(data, "table1", 0.5),
    ),
    Claim(
        "U-ViT: the first 40 % can be DiT-S's, another family, without loss of FID",
        _at_share("tables.T5.y.FID", EARLY),
        lambda data: early_steps_are_free(data, "table5"),
    ),
    Claim("at 50 %, small to large is the best order", _table7(), order_matters),
    Claim("a medium denoiser improves the frontier", _frontier_of_medium(),
          medium_improves_the_frontier),
    Claim(
        "40 % is safe for DDPM, DDIM and DPM-Solver++",
        _rise({f"{name} {n} steps": f"figures.F8.y.steps_{n}.FID_{name}"
               for name in ("DDPM", "DDIM", "DPM-Solver++") for n in (10, 20, 50)}),
        lambda data: early_steps_are_safe(data, data.lines("fig08")),
    ),
    Claim(
        "40 % is safe for few and many steps",
        _rise({f"{n} steps": f"figures.F9.y.FID_T{n}" for n in (10, 20, 50, 100)}),
        lambda data: early_steps_are_safe(data, data.lines("fig09")),
    ),
    Claim("40 % is safe at guidance 1.5, 2 and 3", "w = 1.5 -3%, 2 and 3 unknown", guidance_scales),
    Claim("latents of two sizes agree early and part late", "close to 1.0 early",
          latents_agree_early),
    Claim("low frequencies come first", "timesteps 999 to 555; high ones 111 to 0",
          low_frequencies_come_first),
    Claim("competitive with fewer steps of the large denoiser", "better for 50 to 100 steps",
          fewer_steps),
    Claim("T-Stitch dominates model stitching", "better FID and IS for the same time",
          dominates_model_stitching),
    Claim("FID of 5,000 and of 50,000 images agree in order", "the same picture",
          few_and_many_images),
    Claim("precision and recall hardly change up to 40 %",
          "precision 0.81 to 0.80, recall 0.74 to 0.75", precision_and_recall_follow),
    Claim("the overhead of a second denoiser is small", "memory x1.04, parameters x1.05", overhead),
]  # fmt: skip
