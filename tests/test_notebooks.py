"""The notebooks run from their own folder, end as they say, and are kept without outputs."""

import os

import pytest

from tests import ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def executed():
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": ROOT / "notebooks"}}
    )
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def results(cell):
    """What a cell shows, by type."""
    return {kind: data for out in cell.outputs for kind, data in out.get("data", {}).items()}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


def test_the_quickstart_samples_a_grid_and_draws_the_frontier(executed):
    assert sum("image/png" in results(cell) for cell in executed) == 2
    assert not any(out.output_type == "error" for cell in executed for out in cell.outputs)


def test_the_quickstart_names_an_allocation_that_is_faster_and_as_good(executed):
    allocation, faster = eval(results(executed[-1])["text/plain"])
    assert "DiT-S" in allocation and faster > 1.5
