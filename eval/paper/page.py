"""One HTML page with all that was found; it holds its pictures and needs no server and no network.

Figures and tables that were drawn (``scripts.figures figure=all``), claims (``scripts.claims``),
image grids with a slider for the share of the small denoiser, and every record.
"""

import base64
import html
import io
import json
import re
import string
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from eval.experiments import record_store
from eval.metrics import METRICS
from eval.paper import shown
from eval.paper.evidence import Evidence
from eval.paper.points import Planner
from models.errors import InputError
from stitch.runs.provenance import commit
from stitch.runs.records import content_hash

TEMPLATE = Path(__file__).with_suffix(".html")


def report(config: DictConfig, planner: Planner, folder: Path) -> str:
    """The page, as HTML.

    Args:
        folder: of the figures, as ``scripts.figures`` drew them.

    Raises:
        InputError: if there are none.
    """
    drawn = [name for name in config.figure if (folder / f"{name}.json").is_file()]
    if not drawn:
        raise InputError(
            f"{folder} holds no figures; draw them first: python -m scripts.figures figure=all"
        )
    sections = {"Claims": claims(folder)}
    sections |= {name: figure(folder, name) for name in drawn}
    sections["Images"] = sliders(config, planner)
    records = [r for r in record_store(config).all() if r["run"].get("zoo") == config.zoo.name]
    sections[f"Records ({len(records)})"] = record_table(records)
    return string.Template(TEMPLATE.read_text()).substitute(
        title=f"T-Stitch on the zoo {html.escape(config.zoo.name)}",
        about=f"Protocol {planner.protocol}, made at commit {commit()}. "
        "Every number is that of a file: the JSON beside each figure names the record of its "
        "quality and the measurement of its time.",
        links="".join(f'<a href="#{_anchor(name)}">{html.escape(name)}</a>' for name in sections),
        body="".join(
            f'<h2 id="{_anchor(name)}">{html.escape(name)}</h2>\n{text}\n'
            for name, text in sections.items()
        ),
    )


def claims(folder: Path) -> str:
    path = folder / "claims.md"
    if not path.is_file():
        return "<p>Not judged yet: <code>python -m scripts.claims</code></p>"
    return from_markdown(path.read_text(), "claims")


def figure(folder: Path, name: str) -> str:
    """A picture with its caption, or a table."""
    picture, text = folder / f"{name}.png", folder / f"{name}.md"
    if text.is_file():
        return from_markdown(text.read_text(), "")
    data = base64.b64encode(picture.read_bytes()).decode()
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"></figure>'


def from_markdown(text: str, kind: str) -> str:
    """Paragraphs and tables, all that our own Markdown has."""
    parts = []
    for block in text.strip().split("\n\n"):
        if not block.startswith("|"):
            parts.append(f"<p>{_inline(block)}</p>")
            continue
        head, _, *rows = [line.strip("|").split("|") for line in block.splitlines()]
        parts.append(table(head, rows, kind))
    return "\n".join(parts)


def table(head, rows, kind: str = "") -> str:
    def line(cells, tag: str) -> str:
        cells = (_inline(str(cell).strip()) for cell in cells)
        return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead>{line(head, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def sliders(config: DictConfig, planner: Planner) -> str:
    """The grids whose samples are there, each with a slider over the share of the small one."""
    evidence, parts = Evidence(config, planner), []
    for name, settings in planner.possible(OmegaConf.to_container(config.figure)).items():
        if settings["kind"] != "grid" or settings["across"] == "fraction":
            continue
        points = planner.points(settings)
        if any(evidence.get(settings, point) is None for point in points):
            continue
        rows = []
        for point in points:
            images, _ = shown.images(settings, point.run)
            rows.append(
                {
                    "label": f"{point.first} in {point.share:.0%} of the steps",
                    "image": strip(images),
                }
            )
        parts.append(
            f'<div class="slider"><h3>{name}</h3><img alt="samples"><input type="range" min="0" '
            f'max="{len(rows) - 1}" value="0" aria-label="share of the small denoiser">'
            f'<output></output><script type="application/json">{json.dumps(rows)}</script></div>'
        )
    command = "python -m scripts.figures figure=grid run=true"
    return "\n".join(parts) or f"<p>No samples are kept: <code>{command}</code></p>"


def strip(images: np.ndarray) -> str:
    """(n, H, W, C) images side by side, small ones enlarged, as a data URL."""
    row = np.concatenate(list(images), axis=1)
    picture = Image.fromarray(row.squeeze(-1) if row.shape[-1] == 1 else row)
    factor = max(1, 96 // images.shape[1])
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def record_table(records: list[dict]) -> str:
    """Every record; a click on a heading sorts."""
    names = [name for name in METRICS if any(name in record["metrics"] for record in records)]
    columns = [
        "allocation", "sampler", "steps", "guidance", "images", *names, "GMACs",
        "ms per image as sampled", "run",
    ]  # fmt: skip
    rows = []
    for record in records:
        run, cost, found = record["run"], record["cost"], record["metrics"]
        metrics = [
            f"{found[name]:.{max(4, METRICS[name].digits)}f}" if name in found else ""
            for name in names
        ]
        milliseconds = cost.get("ms_per_image")
        rows.append([
            run["allocation"], run["sampler"]["name"], run["sampler"]["steps"],
            f"{run['guidance']['scale']:g}", record["protocol"]["num_images"], *metrics,
            f"{cost['macs_per_image'] / 1e9:.4g}" if "macs_per_image" in cost else "",
            "" if milliseconds is None else f"{milliseconds:.2f}", content_hash(run),
        ])  # fmt: skip
    return f'<div class="records">{table(columns, rows)}</div>'


def _inline(text: str) -> str:
    """Bold and code of Markdown."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def _anchor(name: str) -> str:
    return html.escape(name.split()[0].lower())
