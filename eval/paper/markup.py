"""HTML of tables, of our own Markdown, and of pictures that a page holds itself."""

import base64
import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ENLARGED = 64  # pixels; smaller images are enlarged by a whole factor


def from_markdown(text: str) -> str:
    """Paragraphs and tables, all that our own Markdown has."""
    parts = []
    for block in text.strip().split("\n\n"):
        if not block.startswith("|"):
            parts.append(f"<p>{inline(block)}</p>")
            continue
        head, _, *rows = [line.strip("|").split("|") for line in block.splitlines()]
        parts.append(table(head, rows))
    return "\n".join(parts)


def table(head: Sequence, rows: Iterable[Sequence], sortable: bool = False) -> str:
    """A table that scrolls by itself where it is wider than the page; headings may be buttons."""

    def cell(tag: str, content) -> str:
        text = inline(str(content).strip())
        if tag == "th" and sortable:
            return f'<th aria-sort="none"><button type="button">{text}</button></th>'
        return f"<{tag}>{text}</{tag}>"

    def line(cells, tag: str) -> str:
        return f"<tr>{''.join(cell(tag, one) for one in cells)}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    kind = "scroll sortable" if sortable else "scroll"
    return (
        f'<div class="{kind}" tabindex="0"><table><thead>{line(head, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def inline(text: str) -> str:
    """Bold and code of Markdown."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def data_of(content) -> str:
    """Plain data for the page's scripts."""
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def picture(path: Path, text: str) -> str:
    """A PNG file as an image of 60 % of its pixels: sharp on screens of twice the pixels."""
    data = path.read_bytes()
    width, height = Image.open(io.BytesIO(data)).size
    return (
        f'<img alt="{html.escape(text, quote=True)}" width="{round(0.6 * width)}" '
        f'height="{round(0.6 * height)}" src="{url(data, "png")}">'
    )


def strip(images: np.ndarray) -> str:
    """(n, H, W, C) uint8 images side by side, small ones enlarged, as a data URL.

    Photographs are compressed with loss, as a report may hold hundreds of them.
    """
    row = np.concatenate(list(images), axis=1)
    gray = row.shape[-1] == 1
    picture = Image.fromarray(row.squeeze(-1) if gray else row)
    factor = max(1, ENLARGED // images.shape[1])
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.NEAREST)
    buffer = io.BytesIO()
    if gray:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=90)
    return url(buffer.getvalue(), "png" if gray else "jpeg")


def url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
