"""How long the explorer takes: ``python -m tests.measure.explorer FOLDER [zoo=imagenette64 ...]``.

Starts the command with the settings given, opens its page in Chromium, samples, and says the
seconds from the command until the page is there, it can be used, its frontier is drawn, and from a
click until the first preview, the images, and those of the largest denoiser alone. Screenshots of
narrow and wide windows, light and dark, go to FOLDER. Measure on an idle machine.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from playwright import sync_api

from eval.speed import timing
from stitch.runs import devices
from tests import ROOT

WIDTHS = (380, 1000, 1900)
PATIENCE = 600_000  # milliseconds


class Clock:
    """Prints how long things took since it was last set."""

    def __init__(self):
        self._began = time.monotonic()

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {what}", flush=True)


def watch(address: str, clock: Clock, folder: Path) -> None:
    """Open the page, sample, and take pictures."""
    with sync_api.sync_playwright() as playwright:
        path = shutil.which("chromium") or playwright.chromium.executable_path
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1280, "height": 900})
        view.set_default_timeout(PATIENCE)
        view.goto(address)
        view.wait_for_selector("#cards .card")
        clock.say("command to page")
        view.wait_for_selector("#timeline svg")
        clock.say("command to timeline, command line and Python")
        view.wait_for_selector("#frontier figure, #frontier .none")
        clock.say("command to frontier")
        clicked, card = Clock(), view.locator("#cards .card").first
        view.get_by_role("button", name="Sample").click()
        card.locator("img").first.wait_for()
        clicked.say("click to the first preview")
        card.locator(".note", has_text="for 4 images").wait_for()
        clicked.say("click to the four images")
        card.locator(".note", has_text="times as fast").wait_for()
        clicked.say("click to those of the largest denoiser alone")
        print(*view.locator("#cards .note").all_text_contents(), sep="; ")
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                view.set_viewport_size({"width": width, "height": 900})
                view.emulate_media(color_scheme=scheme)
                view.wait_for_timeout(500)  # colours change slowly
                view.screenshot(path=folder / f"explorer-{width}-{scheme}.png", full_page=True)
        browser.close()


def main(folder: Path, settings: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    facts = timing.machine(devices.start("cpu"))
    print(", ".join(f"{name} {fact}" for name, fact in facts.items()))
    clock = Clock()
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.explore", f"port={port}", *settings],
        cwd=ROOT, env=os.environ,
    )  # fmt: skip
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        clock.say("command to an open port")
        watch(f"http://127.0.0.1:{port}", clock, folder)
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
