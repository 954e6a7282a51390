"""Kinds of figures: what shares an axis with what."""

import hydra
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from eval.paper import kinds as figure_kinds
from eval.paper.points import Planner
from scripts import cli

COARSE = ["zoo=fashion", "figure=fig06", "figure.fig06.series.0.allocations.resolution=1"]


@pytest.fixture(scope="module")
def planned():
    """Figure 6 of the shipped zoo, its denoisers and its points: each denoiser alone."""
    with hydra.initialize_config_dir(str(cli.CONFIGS.resolve()), version_base="1.3"):
        config = cli.compose("figures", COARSE)
        planner = Planner(config, cli.compose, COARSE)
        figure = OmegaConf.to_container(config.figure.fig06)
        return figure, planner.parts(figure), planner.points(figure)


@pytest.fixture
def saved(monkeypatch):
    """What was drawn, instead of the files that it would be written to."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: figures.append(self))
    return figures


@pytest.mark.parametrize(
    "timing, axis",
    [
        ({"ms_per_image": 7.0, "device": "A"}, "time relative to the slowest"),
        ({}, "relative to the largest\n(ours: GMACs, reported: time)"),
    ],
)
def test_reported_times_never_share_an_axis_with_other_units(
    timing, axis, planned, saved, tmp_path
):
    figure, names, points = planned
    evidence = [
        {"cost": {"macs_per_image": macs}, "timing": timing, "metrics": {"fid": fid, "is": fid}}
        for macs, fid in ((3e9, 9.0), (2e9, 10.0), (1e9, 11.0))
    ]
    figure_kinds.pareto(
        figure_kinds.Drawing(
            figure, names, points, evidence, tmp_path / "x.png", tmp_path, True, ""
        )
    )
    axes = saved[0].axes
    assert [place.get_xlabel() for place in axes] == [axis, axis]
    for place in axes:
        clouds = [one for one in place.collections if isinstance(one, PathCollection)]
        ours, reported = ([x for x, _ in cloud.get_offsets()] for cloud in clouds)
        assert (len(ours), len(reported)) == (3, 66)
        assert max(ours) == max(reported) == 1
        assert max(max(line.get_xdata()) for line in place.lines) == 1
