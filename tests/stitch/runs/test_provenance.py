"""Results are shipped from clean commits: what would not be is refused before work starts."""

import subprocess

import hydra
import pytest

from models.errors import InputError
from scripts import bench, claims, evaluate, figures, latency, plan, report, sample, sweep
from scripts.cli import CONFIGS
from stitch.runs import provenance

DOCS = provenance.SHIPPED


def composed(name, *overrides):
    with hydra.initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        return hydra.compose(name, [*overrides])


@pytest.mark.parametrize(
    "main, name, overrides, setting",
    [
        (figures.main, "figures", ["figure=fig01", "figures=DOCS"], "figures=DOCS"),
        (figures.main, "figures", ["figure=fig01", "runs=DOCS", "figures=x", "run=true"], "runs"),
        (claims.main, "claims", ["figures=DOCS"], "claims=DOCS/claims.md"),
        (report.main, "report", ["figures=DOCS"], "report=DOCS/report.html"),
        (latency.main, "latency", ["runs=DOCS"], "runs=DOCS"),
        (evaluate.main, "evaluate", ["samples=x", "runs=DOCS"], "runs=DOCS"),
        (bench.main, "bench", ["results=DOCS"], "results=DOCS"),
        (plan.main, "plan", ["budget=1s", "runs=DOCS"], "runs=DOCS/costs"),
        (sample.main, "sample", ["samples=DOCS/x"], "samples=DOCS/x"),
        (sweep.main, "sweep", ["runs=DOCS"], "runs=DOCS"),
    ],
)
def test_nothing_is_written_under_docs_from_a_dirty_tree(
    main, name, overrides, setting, monkeypatch
):
    monkeypatch.setattr(provenance, "commit", lambda: "0123456789ab-dirty")
    config = composed(name, *(one.replace("DOCS", str(DOCS)) for one in overrides))
    with pytest.raises(InputError, match="is under docs/.* at 0123456789ab-dirty; commit") as error:
        main.__wrapped__(config)
    assert str(error.value).startswith(setting.replace("DOCS", str(DOCS)))


def test_only_docs_needs_a_clean_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: "0123456789ab-dirty")
    provenance.refuse_unclean("runs", tmp_path)
    monkeypatch.setattr(provenance, "commit", lambda: "0123456789ab")
    provenance.refuse_unclean("runs", DOCS / "fashion")
    monkeypatch.setattr(provenance, "commit", lambda: "unknown")
    with pytest.raises(InputError, match="is under docs/.* at unknown; commit"):
        provenance.refuse_unclean("runs", DOCS / "fashion")


def test_the_mark_dirty_is_of_everything_but_docs(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def commit():
        return provenance.commit.__wrapped__()

    write("scripts/sample.py", "1")
    write("docs/record.json", "1")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert commit() == "unknown"
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = commit()
    assert len(clean) == 12
    write("docs/record.json", "2")
    write("docs/another.json", "2")
    assert commit() == clean
    write("scripts/sample.py", "2")
    assert commit() == f"{clean}-dirty"
    write("scripts/sample.py", "1")
    assert commit() == clean
    write("scripts/untracked.py", "1")
    assert commit() == f"{clean}-dirty"
