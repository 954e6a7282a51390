"""The report in a real browser: alone on its page, its slider slides, its table sorts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

FEW = [
    "sampler.steps=2", "num_images=10", "batch_size=10", "shard_size=10",
    "figure.fig05.series.0.allocations.resolution=2",
    "figure.fig05.series.1.allocations.resolution=1",
    "figure.fig05.series.2.allocations.resolution=1",
    "figure.grid.series.0.allocations.resolution=2",
]  # fmt: skip


def run(name, *overrides):
    return subprocess.run(
        [sys.executable, "-m", f"scripts.{name}", *overrides],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two tiny figures."""
    runs = tmp_path_factory.mktemp("report")
    few = [*FEW, "figure=[fig05,grid]", f"runs={runs}"]
    for command in (["figures", *few, "run=true"], ["report", *few]):
        result = run(*command)
        assert result.returncode == 0, result.stderr
    return runs / "figures" / "fashion" / "cpu" / "report.html"


def test_the_report_holds_all_it_shows(page):
    text = page.read_text()
    assert text.count("data:image/png;base64,") >= 5  # two figures, three rows of the slider
    assert "http://" not in text
    assert "https://" not in text


def test_the_report_works_in_a_browser(page, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium
        path = shutil.which("chromium") or chromium.executable_path
        if not Path(path).is_file():
            reason = "no Chromium: playwright install chromium, or apt-get install chromium"
            (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(reason)
        browser = chromium.launch(executable_path=path, args=["--no-sandbox"])
        view = browser.new_page()
        problems = []
        view.on("pageerror", lambda error: problems.append(str(error)))
        view.on("request", lambda request: problems.append(request.url)
                if not request.url.startswith(("data:", "file:")) else None)  # fmt: skip
        view.goto(page.as_uri())
        slider = view.locator(".slider").first
        before = slider.locator("img").get_attribute("src")
        slider.locator("input").fill("2")
        assert slider.locator("img").get_attribute("src") != before
        assert slider.locator("output").text_content() == "DiT-S in 100% of the steps"

        def fids():
            cells = view.locator(".records tbody td:nth-child(6)").all_text_contents()
            return [float(cell) for cell in cells]

        assert len(fids()) > 3
        for order in (sorted(fids()), sorted(fids(), reverse=True)):
            view.locator(".records th", has_text="fid").click()
            assert fids() == order
        view.screenshot(path=tmp_path / "report.png")
        assert (tmp_path / "report.png").stat().st_size > 10_000
        assert problems == []
        browser.close()
