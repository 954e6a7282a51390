"""Which runs a figure has, and on a zoo that has not all families of denoisers."""

import re

import hydra
import pytest

from eval.paper.points import Planner
from scripts import cli
from tests import commands


def test_figures_of_families_that_a_zoo_lacks_are_left_out_and_named(tmp_path, caplog):
    arguments = ["zoo=imagenette64", "figure=[fig01,table1,fig24]", "dry_run=true"]
    code, output, errors = commands.run("figures", *arguments, f"runs={tmp_path}")
    assert code == 0, errors
    assert "fig01" in output and "imagenette64: DDIM 20 steps" in output
    left_out = "left out, as imagenette64 has no denoisers of the family ldm: table1, fig24"
    assert left_out in output + errors + caplog.text


def test_a_figure_of_a_family_that_the_zoo_lacks_is_refused_alone(tmp_path):
    line = commands.refusal("figures", "zoo=imagenette64", "figure=table1", f"runs={tmp_path}")
    assert "imagenette64 has no denoisers of the family ldm, which figure=table1 is of" in line


def test_every_stitch_takes_all_steps_beside_t_stitch(tmp_path):
    words = ["zoo=fashion", "figure=fig10", "protocol=cpu", f"runs={tmp_path}"]
    with hydra.initialize_config_dir(str(cli.CONFIGS.resolve()), version_base="1.3"):
        config = cli.compose("figures", words)
        points = Planner(config, cli.compose, words).points(config.figure.fig10)
    stitched = [str(point.run.allocation) for point in points if point.series == 1]
    assert stitched == [f"stitched:{index}*20" for index in range(14)]
    assert {point.run.num_images for point in points} == {2000}
    shares = [point.share for point in points if point.series == 0]
    assert sorted(shares) == [share / 10 for share in range(11)]


@pytest.mark.parametrize("figure, setting", [("table9", "columns"), ("fig01", "y")])
def test_a_metric_that_records_lack_is_named_with_a_record_and_how_to_get_it(
    figure, setting, tmp_path
):
    line = commands.refusal(
        "figures", "zoo=fashion", "precision=bf16", "runs=docs/fashion", f"figures={tmp_path}",
        f"figure={figure}", f"figure.{figure}.{setting}=[fid,kid]",
    )  # fmt: skip
    assert re.search(rf"figure\.{figure}: docs/fashion/records/\w+\.json has no kid", line)
    assert line.endswith("give eval.metrics=[fid,is,precision,recall,kid] run=true")
