"""The command that opens the explorer, as far as no browser is needed."""

import sys

from eval import explorer
from tests.commands import refusal


def test_without_gradio_one_line_says_how_to_install_it(monkeypatch, tmp_path):
    for name in ("page", "server"):  # other tests may have imported them
        monkeypatch.delitem(sys.modules, f"eval.explorer.{name}", raising=False)
        monkeypatch.delattr(explorer, name, raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    line = refusal("explore", "sampler.steps=4", f"runs={tmp_path}")
    assert "needs gradio" in line and "pip install -r requirements-explore.txt" in line


def test_a_bad_setting_is_refused_before_anything_is_served(tmp_path):
    assert "port=0 must be a whole number" in refusal("explore", "port=0")
    assert "its controls can set" in refusal(
        "explore", "sampler.eta=0.5", "sampler.steps=4", f"runs={tmp_path}"
    )
