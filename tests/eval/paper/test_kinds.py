"""Kinds of figures: what shares an axis with what."""

from types import SimpleNamespace

import pytest

from eval.paper import kinds as figure_kinds
from stitch import Allocation


def drawing(costs):
    points, evidence = [], []
    for small, cost in zip((0, 1, 2), costs, strict=True):
        allocation = Allocation.from_fractions({"DiT-S": small / 2, "DiT-XL": 1 - small / 2}, 2)
        settings = {"sampler": {"steps": 2}, "guidance": {"scale": 1.5}}
        run = SimpleNamespace(allocation=allocation, settings=settings, num_images=2)
        fractions = (small / 2, 1 - small / 2)
        paper = {"steps": 100, "guidance": 1.5}
        points.append(SimpleNamespace(panel=0, series=0, run=run, fractions=fractions, paper=paper))
        macs, timing = cost
        evidence.append({
            "cost": {"macs_per_image": macs}, "timing": timing, "metrics": {"fid": 9.0 + small},
        })  # fmt: skip
    return figure_kinds.Drawing(
        figure={
            "title": "T",
            "y": ["fid"],
            "series": [{"label": "allocations", "reported": "figures.F6.table"}],
        },
        names={"small": "DiT-S", "large": "DiT-XL"},
        points=points,
        evidence=evidence,
        path=None,
        runs=None,
        same_data=True,
        caption="",
    )


@pytest.mark.parametrize(
    "facts, axis",
    [
        ({"ms_per_image": 7.0, "device": "A"}, "time relative to the slowest"),
        ({}, "relative to the largest\n(ours: GMACs, reported: time)"),
    ],
)
def test_reported_times_never_share_an_axis_with_other_units(facts, axis, monkeypatch):
    drawn = []
    monkeypatch.setattr(figure_kinds.plots, "panels", lambda path, rows, *more: drawn.extend(rows))
    costs = [(macs, facts) for macs in (3e9, 2e9, 1e9)]
    figure_kinds.pareto(drawing(costs))
    ((panel,),) = drawn
    assert panel.x == axis
    assert any(curve.reported for curve in panel.curves)
    for reported in (False, True):
        xs = [x for curve in panel.curves if curve.reported == reported for x in curve.x]
        assert max(xs) == 1
