"""scripts.timesteps: a file of fitted timesteps, with its facts, that sampler.spacing takes."""

import json
import re

import pytest

import samplers
from tests import ROOT
from tests.commands import refusal, run

SMALL = [
    "sampler=unipc", "sampler.steps=3", "allocation.denoisers=[DiT-S,DiT-B]",
    "allocation.small=0.34", "reference_steps=12", "iterations=3", "batch_size=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    file = tmp_path_factory.mktemp("fitted") / "three.json"
    code, output, errors = run("timesteps", *SMALL, f"results={file}", f"runs={file.parent}")
    assert code == 0, errors
    return file, output


def test_the_file_has_the_timesteps_and_what_they_are_worth(fitted):
    file, output = fitted
    found = json.loads(file.read_text())
    assert found["error"]["after"] < found["error"]["before"] < 1
    assert found["held_out_error"].keys() == {"before", "after"}
    assert found["run"]["sampler"]["name"] == "unipc"
    assert found["run"]["allocation"] == "DiT-S*1+DiT-B*2"
    assert found["start"] == [999 * (1 - i / 3) for i in range(3)]
    assert found["commit"] and found["device"]
    # Walks of the search, two errors, two more of another seed; 2 evaluations a step, guided.
    walks, rest = divmod(found["evaluations"] - 2 * 12 * 2 * 4, 3 * 2 * 4)
    assert rest == 0 and 6 <= walks <= 1 + 3 * 4 + 4
    assert "evaluations: error" in output and "before" in output and str(file) in output
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_fit_is_the_same_again(fitted):
    file, _ = fitted
    again = file.with_name("again.json")
    assert run("timesteps", *SMALL, f"results={again}", f"runs={file.parent}")[0] == 0
    one, two = (json.loads(path.read_text()) for path in (file, again))
    again.unlink()
    differing = {key for key in one if one[key] != two[key]}
    assert differing <= {"seconds", "time"}


def test_images_are_sampled_with_the_file(fitted, tmp_path):
    file, _ = fitted
    words = [
        "sampler=unipc", "sampler.steps=3", "num_images=4", "batch_size=4", "shard_size=4",
        f"runs={tmp_path}",
    ]  # fmt: skip
    code, output, errors = run("sample", *words, f"sampler.spacing={file}")
    assert code == 0, errors
    timesteps = json.loads(file.read_text())["timesteps"]
    code, listed, errors = run("sample", *words, f"sampler.spacing={timesteps}".replace(" ", ""))
    assert code == 0, errors
    assert "all already existed" in listed  # the numbers are the run, whichever way they are given
    assert output.splitlines()[0] == listed.splitlines()[0]


@pytest.mark.parametrize(
    "words, message",
    [
        (["sampler=ddpm"], "DDPM adds noise at its steps"),
        (["sampler.eta=1"], "DDIM adds noise at its steps"),
        (["guidance.steps=[0,1]"], "guidance.steps=[0, 1] are not the reference's steps"),
        (["results=a.txt"], "results=a.txt must be the name of a .json file"),
        (["allocation=runs", "allocation.runs=DiT-S*3"], "has 3 steps, the sampler has 200"),
        (["reference_steps=0"], "reference_steps=0 must be a whole number, 1 or more"),
        (["sampler.spacing=none.txt"], "sampler.spacing=none.txt is not a file"),
    ],
)
def test_what_cannot_be_fitted_is_refused(words, message, tmp_path):
    words = ["sampler.steps=3", f"runs={tmp_path}", f"results={tmp_path / 'a.json'}", *words]
    assert message in refusal("timesteps", *words)
    assert not list(tmp_path.iterdir())


SHIPPED = sorted((ROOT / "docs" / "timesteps").glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_file_fits_its_sampler_and_is_on_the_page(path):
    found = json.loads(path.read_text())
    settings = {**found["run"]["sampler"], "spacing": found["timesteps"]}
    samplers.create(schedule=found["run"]["schedule"], **settings)
    assert re.fullmatch("[0-9a-f]{12}", found["commit"])
    cells = [f"`{path.name}`"]
    for error in (found["error"], found["held_out_error"]):
        cells += [f"{error['before']:.4f}", f"{error['after']:.4f}"]
    row = f"| {' | '.join([*cells, format(found['evaluations'], ',')])} |"
    assert row in (ROOT / "docs" / "timesteps.md").read_text()


def test_every_row_of_the_page_is_of_a_shipped_file():
    page = (ROOT / "docs" / "timesteps.md").read_text()
    rows = re.findall(r"^\| `(.*\.json)` ", page, re.MULTILINE)
    assert rows and sorted(rows) == [path.name for path in SHIPPED]
