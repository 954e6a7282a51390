"""The page: Gradio's controls, and which of them asks for what."""

import contextlib
import functools
import html
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it is read when Gradio is imported

import gradio as gr
from fastapi import FastAPI

from eval.explorer import setting as settings
from eval.explorer.desk import Desk
from eval.explorer.server import application
from eval.explorer.setting import Setting
from models.errors import is_mistake

STYLE, SCRIPT = (Path(__file__).with_name(f"page.{kind}") for kind in ("css", "js"))
# Nothing is queued behind a walk but other walks, which wait for each other by themselves.
_AT_ONCE = 16
_WAIT = "<p>Looking through the records ...</p>"
# For a moment a button says that it was of use.
_COPY = """(text) => {
  navigator.clipboard?.writeText(text);
  const button = document.activeElement, before = button.textContent;
  // Browsers have a clipboard for pages of their own machine, or of https.
  button.textContent = navigator.clipboard ? "Copied" : "No clipboard here: select the text";
  setTimeout(() => { button.textContent = before; }, 1200);
}"""


def blocks(desk: Desk) -> gr.Blocks:
    """The page of a desk."""
    studio = desk.studio
    offer, first = studio.offer, studio.first
    ask = {"preprocess": False, "show_progress": "hidden"}  # a Setting checks what it is given

    def read(values: tuple) -> Setting:
        return Setting.read(values, offer)

    def describe(*values: Any) -> list:
        with _said():
            setting = read(values)
            return [*desk.described(setting), desk.frontier(setting)]

    def begin(*values: Any) -> list:
        with _said():
            return desk.described(read(values))

    def place(*values: Any) -> str:
        with _said():
            return desk.frontier(read(values))

    def move(index: int, *values: Any) -> list:
        with _said():
            count = len(offer.denoisers)
            shares = settings.rescaled(values[-count:], index)
            return [*shares, *describe(*values[:-count], *shares)]

    def choose(event: gr.EventData, *values: Any) -> list:
        with _said():
            data = event._data if isinstance(event._data, dict) else {}
            setting = desk.point(data.get("index"), read(values))
            return [*setting.values, *describe(*setting.values)]

    def sample(request: gr.Request, *values: Any) -> Iterator[str]:
        with _said():
            yield from desk.sampled(read(values), request.session_hash)

    def stop(request: gr.Request) -> None:
        desk.stop(request.session_hash)

    with gr.Blocks(title=f"T-Stitch on {studio.zoo.name}", analytics_enabled=False) as page:
        gr.HTML(
            f"<h1>T-Stitch on {html.escape(studio.zoo.name)}</h1><p>The first steps of the "
            "trajectory by small denoisers, the last by larger ones: choose how many.</p>"
        )
        with gr.Row(elem_classes="page"):
            with gr.Column(min_width=280, scale=1):
                controls, shares = _controls(desk)
                with gr.Row():
                    sample_button = gr.Button("Sample", variant="primary", min_width=80)
                    stop_button = gr.Button("Stop", min_width=80)
            with gr.Column(min_width=280, scale=3):
                cards = gr.HTML(desk.empty(first), elem_id="cards")
                gr.HTML("<h2>Who takes which step</h2>")
                timeline = gr.HTML(elem_id="timeline")
                gr.HTML("<h2>Among the records</h2>")
                frontier = gr.HTML(_WAIT, elem_id="frontier", js_on_load=SCRIPT.read_text())
                gr.HTML("<h2>The same from elsewhere</h2>")
                command, python = _texts()
        described = [timeline, command, python]
        shown, everything = [*described, frontier], [*controls, *shares]
        last = {**ask, "trigger_mode": "always_last"}  # of many movements of a slider
        hidden = {"api_visibility": "private"}

        page.load(begin, everything, described, **ask, **hidden)
        page.load(place, everything, frontier, **ask, **hidden)
        page.unload(stop)
        gr.on(
            [control.input for control in controls], describe, everything, shown,
            api_name="describe", **last,
        )  # fmt: skip
        for index, share in enumerate(shares):
            moved = functools.partial(move, index)
            share.input(moved, everything, [*shares, *shown], **last, **hidden)
        anew = {**ask, "trigger_mode": "multiple"}  # it stops what is sampled now
        sample_button.click(sample, everything, cards, api_name="sample", **anew)
        stop_button.click(stop, concurrency_limit=None, **ask, **hidden)
        chosen = frontier.select(choose, everything, [*everything, *shown], **anew, **hidden)
        chosen.success(sample, everything, cards, **anew, **hidden)
    page.queue(default_concurrency_limit=_AT_ONCE)
    return page


def _controls(desk: Desk) -> tuple[list, list[gr.Slider]]:
    """The controls of a setting's values in order, and those of its shares."""
    offer, first = desk.studio.offer, desk.studio.first
    controls = [
        gr.Dropdown(list(offer.classes), value=first.label, label="Class"),
        gr.Number(first.seed, label="Seed", precision=0, minimum=0),
        gr.Slider(*settings.GUIDANCE, first.guidance, step=0.1, label="Guidance scale",
                  info="1 is unguided"),
        gr.Dropdown(list(offer.samplers), value=first.sampler, label="Sampler"),
        gr.Slider(*settings.STEPS, first.steps, step=1, label="Steps"),
        gr.Slider(*settings.INTERVAL, first.interval, step=1, label="Cache",
                  info="networks in full at every n-th step; 1: no cache"),
        gr.Radio(list(offer.precisions), value=first.precision, label="Precision"),
    ]  # fmt: skip
    with gr.Group():
        shares = [
            gr.Slider(0, settings.WHOLE, share, step=1, label=f"Share of {name}, %")
            for name, share in zip(offer.denoisers, first.shares, strict=True)
        ]
    return controls, shares


def _texts() -> list[gr.Textbox]:
    """Command and Python, each with a button that copies it."""
    texts = []
    for name, lines in (("command", 3), ("Python", 9)):
        text = gr.Textbox(label=name.capitalize(), lines=lines, interactive=False,
                          elem_id=name.lower(), elem_classes="code")  # fmt: skip
        button = gr.Button(f"Copy {name}", size="sm")
        button.click(None, text, js=_COPY, api_visibility="private")
        texts.append(text)
    return texts


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Say on the page what a user did wrong; anything else is a bug and stays one."""
    try:
        yield
    except Exception as error:
        if not is_mistake(error):
            raise
        raise gr.Error(
            html.escape(str(error), quote=False), duration=None, print_exception=False
        ) from error


def mounted(desk: Desk, host: str, port: int) -> FastAPI:
    """The page, with all that Gradio offers beside it switched off."""
    return gr.mount_gradio_app(
        application(host),
        blocks(desk),
        path="/",
        server_name=host,
        server_port=port,
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
        head=f"<style>{STYLE.read_text()}</style>",  # Gradio spoils @media in its own css=
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=1,
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )
