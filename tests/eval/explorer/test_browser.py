"""The explorer in a real browser: all that it offers, once, and what its command samples."""

import base64
import importlib.util
import io
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stitch.runs.shards import open_folder
from tests import ROOT

REQUIRED = os.environ.get("REQUIRE_BROWSER")
PATIENCE = 60_000  # milliseconds: machines are busy at times


def missing(reason):
    (pytest.fail if REQUIRED else pytest.skip)(reason)


@pytest.fixture(scope="module")
def address(records, runs):
    """The page of few records, served by the command."""
    if importlib.util.find_spec("gradio") is None:
        missing("no Gradio: pip install -r requirements-explore.txt")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with start(port, records, runs) as first:
        waited_for(port)
        first.kill()  # it is killed and started again: the page is the same
    with start(port, records, runs) as second:
        waited_for(port)
        yield f"http://127.0.0.1:{port}"
        second.terminate()


def start(port, records, runs):
    settings = [f"port={port}", f"records=[{records}]", f"runs={runs}", "sampler.steps=10"]
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.explore", *settings],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def waited_for(port):
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/"):
                return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise TimeoutError("the page does not open")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        path = shutil.which("chromium") or playwright.chromium.executable_path
        if not Path(path).is_file():
            missing("no Chromium: playwright install chromium, or apt-get install chromium")
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


def opened(browser, address, width=1280):
    """The page, and a list that collects what goes wrong on it and whom else it asks."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE)
    view, problems = context.new_page(), []
    view.on("pageerror", lambda error: problems.append(str(error)))
    view.on("request", lambda request: problems.append(request.url)
            if not request.url.startswith((address, "data:", "blob:")) else None)  # fmt: skip
    view.goto(address)
    view.wait_for_selector("#timeline svg")
    view.wait_for_selector("#frontier svg")
    return view, problems


def pixels(view, card=0):
    """(4, H, W, C) images of a card."""
    sources = view.locator("#cards .card").nth(card).locator("img").evaluate_all(
        "images => images.map(image => image.src)"
    )  # fmt: skip
    data = [base64.b64decode(source.partition(",")[2]) for source in sources]
    arrays = [np.asarray(Image.open(io.BytesIO(one))) for one in data]
    return np.stack([one[..., None] if one.ndim == 2 else one for one in arrays])


def sampled(view, allocation):
    """Wait until both cards are done, the first of them of an allocation."""
    card = view.locator("#cards .card").first
    card.locator("b", has_text=allocation).wait_for()
    card.locator(".note", has_text="times as fast").wait_for()


def test_the_page_from_choosing_to_the_pixels_of_the_command(browser, address, tmp_path):
    view, problems = opened(browser, address)

    view.get_by_label("Class").click()
    view.get_by_role("option", name="ankle boot").click()
    # On a busy machine, the answer to one choice may come after the next.
    view.wait_for_function("document.querySelector('#command textarea').value.includes('ankle')")
    small = view.get_by_role("spinbutton", name="Share of DiT-S")
    small.fill("70")
    small.press("Tab")
    view.wait_for_selector('#timeline svg[aria-label="DiT-S 7 steps, then DiT-XL 3 steps"]')
    assert view.get_by_role("spinbutton", name="Share of DiT-XL").input_value() == "30"

    view.get_by_role("button", name="Sample").click()
    sampled(view, "DiT-S*7+DiT-XL*3")
    before = pixels(view)
    assert before.shape == (4, 28, 28, 1)
    assert (before != pixels(view, card=1)).any()

    # The cheapest point of the frontier: the small denoiser alone, in bf16.
    view.locator('#frontier [role="button"]').first.focus()
    view.keyboard.press("Enter")
    view.wait_for_selector('#timeline svg[aria-label="DiT-S 20 steps"]')
    assert view.get_by_role("radio", name="bf16").is_checked()
    # Another one, by a click; it is sampled instead.
    view.locator('#frontier [role="button"]').nth(2).click()
    view.wait_for_selector('#timeline svg:not([aria-label="DiT-S 20 steps"])')
    runs = view.locator("#python textarea").input_value().partition('.parse("')[2].split('"')[0]
    sampled(view, runs)

    view.get_by_role("button", name="Copy command").click()
    command = view.evaluate("navigator.clipboard.readText()")
    assert command.startswith("python -m scripts.sample zoo=fashion ")
    assert command == view.locator("#command textarea").input_value()
    assert "ankle boot" in command
    program, *words = shlex.split(command)
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if " images in " in line)
    folder = line.partition(" images in ")[2].split(" (all")[0]
    ((stored, _),) = open_folder(ROOT / folder).batches(4)
    np.testing.assert_array_equal(pixels(view), stored)

    view.screenshot(path=tmp_path / "explorer.png", full_page=True)
    assert problems == []


def test_stop_ends_the_sampling_between_two_steps(browser, address):
    view, _ = opened(browser, address)
    steps = view.get_by_role("spinbutton", name="Steps")
    steps.fill("100")
    steps.press("Tab")
    view.wait_for_selector('#timeline svg[aria-label^="DiT-S 40 steps"]')
    view.get_by_role("button", name="Sample").click()
    view.wait_for_selector("#cards img")
    view.get_by_role("button", name="Stop").click()
    view.locator("#cards .note", has_text="stopped after step").first.wait_for()


def test_a_mistake_is_told_on_the_page(browser, address):
    view, problems = opened(browser, address)
    seed = view.get_by_label("Seed")
    seed.fill("")
    view.get_by_role("button", name="Sample").click()
    view.get_by_text("seed=None must be a whole number").first.wait_for()
    assert problems == []


@pytest.mark.parametrize("width", [380, 1000, 1900])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_narrow_and_wide_windows(browser, address, width, scheme):
    view, problems = opened(browser, address, width)
    view.emulate_media(color_scheme=scheme)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("Class", "Seed", "Sampler"):
        assert view.get_by_label(name).first.is_visible()
    assert problems == []
