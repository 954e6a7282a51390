"""Claims of the paper about training; see ``eval.paper.claims``."""

from eval.paper import reported
from eval.paper.claims import Claim, Finding, early_steps_are_safe
from eval.paper.measured import Data, fids_of_pair, value


def own_interval_is_best(data: Data) -> Finding:
    """Of the later denoisers: pretrained, fine-tuned on all timesteps, and on their own."""
    found = [value(record, "fid") for _, record in data.points("table6")]
    names = ("pretrained", "all timesteps", "their own")
    text = ", ".join(f"{name} {fid:.3f}" for name, fid in zip(names, found, strict=True))
    return Finding(text, found[-1], min(found[:-1]), "lower", unit="g")


def young_is_enough(data: Data) -> Finding:
    """Of small denoisers of every age: the rise of FID at a share of 40 %."""
    lines: dict[str, list] = {}
    for point, record in data.points("fig18"):
        lines.setdefault(point.first, []).append((point, record))
    return early_steps_are_safe(data, {age: fids_of_pair(line) for age, line in lines.items()})


def _table6() -> str:
    rows = reported.look_up("tables.T6.rows")
    names = {"pretrained": "pretrained", "finetuned_all_timesteps": "all timesteps",
             "finetuned_stitched_interval": "their own"}  # fmt: skip
    return ", ".join(f"{text} {rows[name]['FID']}" for name, text in names.items())


CLAIMS = [
    Claim(
        "fine-tuning the later denoisers on their own timesteps is better than on all",
        _table6(),
        own_interval_is_best,
    ),
    Claim(
        "a young DiT-S is enough for the first 40 %",
        "from 8 % of its training on; numbers unknown",
        young_is_enough,
    ),
]
