"""Kinds of figures: what shares an axis with what."""

from dataclasses import replace
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from eval.paper import grids
from eval.paper.draw import caption_text
from eval.paper.drawing import Drawing
from eval.paper.pareto import pareto
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
        ({"ms_per_image": 7.0, "device": "A", "batch_size": 8}, "time relative to the slowest"),
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
    pareto(Drawing(figure, names, points, evidence, tmp_path / "x.png", tmp_path, True, ""))
    axes = saved[0].axes
    assert [place.get_xlabel() for place in axes] == [axis, axis]
    for place in axes:
        clouds = [one for one in place.collections if isinstance(one, PathCollection)]
        ours, reported = ([x for x, _ in cloud.get_offsets()] for cloud in clouds)
        assert (len(ours), len(reported)) == (3, 66)
        assert max(ours) == max(reported) == 1
        assert max(max(line.get_xdata()) for line in place.lines) == 1


TIMING = {"ms_per_image": 7.0, "device": "A", "batch_size": 100}


@pytest.mark.parametrize(
    "timings, axis, times",
    [
        ([TIMING] * 3, "ms per image\n(A)", "; times: A, batch 100"),
        ([TIMING, TIMING, {**TIMING, "batch_size": 8}], "GMACs per image", ""),
        ([TIMING, TIMING, {**TIMING, "device": "B"}], "GMACs per image", ""),
        ([TIMING, TIMING, {}], "GMACs per image", ""),
    ],
)
def test_times_share_an_axis_if_all_are_of_one_device_and_batch_size(
    timings, axis, times, planned, saved, tmp_path
):
    figure, names, points = planned
    planner = SimpleNamespace(chosen="zoo", protocol="cpu", changed=False)
    evidence = [
        {"cost": {"macs_per_image": 2e9}, "timing": timing, "metrics": {"fid": 9.0, "is": 9.0}}
        for timing in timings
    ]
    caption = caption_text(planner, figure, points, evidence)
    path = tmp_path / "x.png"
    pareto(Drawing(figure, names, points, evidence, path, tmp_path, False, caption))
    assert {place.get_xlabel() for place in saved[0].axes[:2]} == {axis}
    assert caption.endswith(f"protocol cpu{times}")


def test_a_table_names_every_batch_size_that_its_times_are_of(planned):
    _, _, points = planned
    planner = SimpleNamespace(chosen="zoo", protocol="cpu", changed=False)
    found = [{"timing": timing} for timing in (TIMING, {**TIMING, "batch_size": 8}, {})]
    caption = caption_text(planner, {"kind": "table", "columns": ["time"]}, points, found)
    assert caption.endswith("; times: A, batch 100 and A, batch 8")


@pytest.mark.parametrize("template, y", [("{fraction}", "share of DiT-S"), ("{large}", "")])
def test_rows_of_a_grid_are_named_by_their_series(
    template, y, planned, saved, tmp_path, monkeypatch
):
    _, names, points = planned
    figure = {"title": "", "across": "images", "series": [{"label": template}, {"label": "last"}]}
    images = np.zeros((2, 4, 4, 1), dtype=np.uint8), [0, 1]
    monkeypatch.setattr(grids.shown, "images", lambda figure, run: images)
    pair = [replace(points[0], series=0), replace(points[1], series=1)]
    path = tmp_path / "x.png"
    grids.grid(Drawing(figure, names, pair, [None, None], path, tmp_path, True, ""))
    (axes,) = saved[0].axes
    first = {"{fraction}": f"{points[0].fractions[0]:g}", "{large}": "DiT-XL"}[template]
    assert [label.get_text() for label in axes.get_yticklabels()] == [first, "last"]
    assert axes.get_ylabel() == y


def test_columns_of_a_grid_of_prompts_are_named_by_their_series(
    planned, saved, tmp_path, monkeypatch
):
    _, names, points = planned
    labels = [{"label": "{large} alone"}, {"label": "ToMe, {fraction}"}]
    figure = {"title": "", "across": "prompts", "series": labels}
    images = np.zeros((2, 4, 4, 1), dtype=np.uint8), [0, 1]
    monkeypatch.setattr(grids.shown, "images", lambda figure, run: images)
    run = SimpleNamespace(prompts=["a tench", "a church"], settings=points[0].run.settings)
    run.num_images = 2
    pair = [replace(points[i], series=i, fractions=(0.5, 0.5), run=run) for i in (0, 1)]
    evidence, path = [{"timing": {}}, {"timing": {}}], tmp_path / "x.png"
    grids.grid(Drawing(figure, names, pair, evidence, path, tmp_path, True, ""))
    (axes,) = saved[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["DiT-XL alone", "ToMe, 0.5"]
