"""Figures on a zoo that has not all families of denoisers."""

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
