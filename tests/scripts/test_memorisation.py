"""``python -m scripts.memorisation`` on the shipped photographs' zoo and a few pictures."""

import json

import pytest

from tests import commands
from tests.eval.test_imagenette import contents, picture, write


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Twenty to train on and ten to test with, no two alike."""
    files = {name: picture(seed) for seed, name in enumerate(contents())}
    return write(tmp_path_factory.mktemp("photographs"), files)


def test_samples_and_held_out_photographs_are_compared_with_the_training_ones(
    photographs, tmp_path
):
    code, output, errors = commands.run(
        "memorisation",
        "zoo=imagenette64",
        "denoisers=[DiT-S]",
        f"data.root={photographs}",
        "sampler.steps=2",
        "num_images=20",
        "batch_size=20",
        "shard_size=20",
        "labels=balanced",
        f"runs={tmp_path}",
        f"results={tmp_path / 'here'}",
    )
    assert code == 0, errors
    found = json.loads((tmp_path / "here" / "memorisation.json").read_text())
    assert found["photographs"] == 20 and found["mirrored"]
    assert found["images_seen"]["DiT-S"] > 0
    held_out, samples = found["nearest"]["held-out photographs"], found["nearest"]["DiT-S"]
    assert held_out["pixels"]["images"] == 10 and samples["pixels"]["images"] == 20
    assert abs(held_out["features"]["copying_score"]) < 0.1
    assert samples["pixels"]["median_distance"] > 0
    assert all(0 <= held_out[space]["share_closer_to_training"] <= 1 for space in held_out)
    decoded = found["nearest"]["held-out photographs, through first-stage"]
    assert decoded["features"]["share_closer_to_training"] is None
    assert found["floor"]["held-out photographs"]["fid"] > 0
    assert "held-out photographs, through preview" in found["floor"]
    page = (tmp_path / "here" / "memorisation.md").read_text()
    assert page in output and "DiT-S" in page
    (row,) = (line for line in page.splitlines() if line.startswith("| DiT-S |"))
    for space, place in (("features", 6), ("pixels", 10)):
        share = samples[space]["share_closer_to_training"]
        assert (
            20 * share == pytest.approx(round(20 * share))
            and row.split("|")[place].strip() == f"{share:.1%}"
        )
    assert (tmp_path / "here" / "memorisation.png").stat().st_size > 10_000


def test_a_zoo_without_photographs_is_refused():
    line = commands.refusal("memorisation", "zoo=imagenet256-ldm", "eval=imagenet")
    assert "zoo=imagenet256-ldm names no photographs" in line


def test_missing_photographs_are_found_out_before_sampling(tmp_path):
    arguments = ["zoo=imagenette64", f"data.root={tmp_path}", f"runs={tmp_path / 'runs'}"]
    assert "Imagenette is not in" in commands.refusal("memorisation", *arguments)
    assert not (tmp_path / "runs" / "samples").exists()
