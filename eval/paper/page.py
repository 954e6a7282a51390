"""One HTML page with all that was found; it holds its pictures and needs no server and no network.

Of every zoo: its records to choose by, the claims (``scripts.claims``), the figures and tables that
were drawn (``scripts.figures``), and every record.
"""

import html
import json
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

import models
from eval.paper import markup
from eval.paper.claims_page import claims
from eval.paper.points import Planner
from eval.paper.tradeoffs import tradeoffs
from models.errors import InputError
from stitch.runs.provenance import commit

TEMPLATES = {name: Path(__file__).with_name(f"page.{name}") for name in ("html", "css", "js")}


@dataclass(frozen=True)
class Part:
    """What a page shows of one zoo.

    Attributes:
        config: ``configs/report.yaml``, composed for the zoo.
        folder: of the figures, as ``scripts.figures`` drew them.
    """

    config: DictConfig
    planner: Planner
    folder: Path

    @property
    def zoo(self) -> str:
        return self.config.zoo.name


@dataclass(frozen=True)
class Section:
    """A heading with what is under it; ``inner`` are sections of their own."""

    anchor: str
    title: str
    body: str = ""
    inner: tuple["Section", ...] = ()
    kind: str = ""

    def html(self, level: int = 2) -> str:
        inner = "\n".join(section.html(level + 1) for section in self.inner)
        kind = f' class="{self.kind}"' if self.kind else ""
        return (
            f'<section id="{self.anchor}"{kind}><h{level}>{html.escape(self.title)}</h{level}>\n'
            f"{self.body}\n{inner}</section>\n"
        )

    def link(self) -> str:
        inner = "".join(section.link() for section in self.inner)
        inner = f"<ul>{inner}</ul>" if inner else ""
        return f'<li><a href="#{self.anchor}">{html.escape(self.title)}</a>{inner}</li>'


def report(parts: Iterable[Part]) -> str:
    """The page, as HTML.

    Raises:
        InputError: if a part's folder holds no figures.
    """
    parts = list(parts)
    zoos = " and ".join(part.zoo for part in parts)
    found = [(part, sections(part)) for part in parts]
    if len(parts) == 1:
        (_, shown), *_ = found
    else:
        shown = [Section(part.zoo, f"Zoo {part.zoo}", about(part), s) for part, s in found]
    text = {name: path.read_text() for name, path in TEMPLATES.items()}
    return string.Template(text["html"]).substitute(
        title=f"T-Stitch on {html.escape(zoos)}",
        about=about(parts[0]) if len(parts) == 1 else "",
        commit=commit(),
        links="".join(section.link() for section in shown),
        body="".join(section.html() for section in shown),
        style=text["css"],
        script=text["js"],
    )


def about(part: Part) -> str:
    factors = part.config.protocols[part.planner.protocol]
    return (
        f"<p>Zoo {html.escape(part.zoo)}, protocol {part.planner.protocol}: "
        f"{factors.images * 5000:,.0f} images where the paper has 5,000, "
        f"{factors.steps * 100:.0f} steps where it has 100. FIDs of different protocols do not "
        "compare.</p>"
    )


def sections(part: Part) -> tuple[Section, ...]:
    """What there is of one zoo."""
    figures: dict[str, dict] = OmegaConf.to_container(part.config.figure)
    drawn = {n: f for n, f in figures.items() if (part.folder / f"{n}.json").is_file()}
    if not drawn:
        others = sorted(path.stem for path in part.folder.glob("*.png"))
        remedy = f", or show what is there: figure=[{','.join(others)}]" if others else ""
        raise InputError(
            f"{part.folder} holds none of the chosen figures; draw them first: python -m "
            f"scripts.figures figure=all zoo={part.zoo}{remedy}"
        )
    data = tradeoffs(part.config, models.load_zoo(part.zoo))
    tables = {n: f for n, f in drawn.items() if (part.folder / f"{n}.md").is_file()}
    pictures = {n: f for n, f in drawn.items() if n not in tables}

    def section(kind: str, title: str, body: str = "", inner: dict | None = None) -> Section:
        made = tuple(figure(part, name, settings) for name, settings in (inner or {}).items())
        return Section(f"{part.zoo}-{kind}", title, body, made, kind)

    found = [section("tradeoffs", "Choose a trade-off", explorer(data))] if data["points"] else []
    found.append(section("claims", "Claims of the paper", claims(part.folder / "claims.json")))
    found += [section("figures", "Figures", inner=pictures)] if pictures else []
    found += [section("tables", "Tables", inner=tables)] if tables else []
    title = f"Records ({len(data['points'])})"
    return (*found, section("records", title, record_table(data)))


def figure(part: Part, name: str, settings: dict) -> Section:
    """A picture or a table under its number and title, with its captions."""
    drawn = json.loads((part.folder / f"{name}.json").read_text())
    first = drawn["points"][0]
    words = {**part.planner.parts(settings), **{k: first[k] for k in ("steps", "images")}}
    words["guidance"] = f"{first['guidance']:g}"
    title, caption = (settings.get(key, "").format(**words) for key in ("title", "caption"))
    number = re.fullmatch(r"(fig|table)0*(\d+)", name)
    if number:
        kind = {"fig": "Figure", "table": "Table"}[number[1]]
        title = f"{kind} {number[2]}: {title}"
    made = f"{drawn['caption']}; commit {drawn['commit']}; numbers and their files: {name}.json."
    note = f"{html.escape(caption)} <small>{html.escape(made)}</small>"
    text = part.folder / f"{name}.md"
    if text.is_file():
        _, body, *_ = text.read_text().split("\n\n")  # title, table, caption
        shown = markup.from_markdown(body)
    else:
        shown = markup.picture(part.folder / f"{name}.png", f"{title}. {caption}")
    body = f"<figure>{shown}<figcaption>{note}</figcaption></figure>"
    return Section(f"{part.zoo}-{name}", title, body, kind="drawn")


def explorer(data: dict) -> str:
    """The frontier of the records; the page's script draws it."""
    return f'<div class="explorer">{markup.data_of(data)}</div>'


def record_table(data: dict) -> str:
    """Every record; a click on a heading sorts."""
    metrics = data["metrics"]
    head = ["allocation", "setting", "images", *(one["label"] for one in metrics)]
    rows = []
    for point in data["points"]:
        found, times = point["metrics"], point["times"]
        device, milliseconds = next(iter(times.items()), ("", None))
        rows.append([
            point["allocation"], point["setting"], point["protocol"],
            *(f"{found[one['name']]:.{max(4, one['digits'])}f}" if one["name"] in found else ""
              for one in metrics),
            "" if point["gmacs"] is None else f"{point['gmacs']:.4g}",
            "" if milliseconds is None else f"{milliseconds:.2f}", device,
            f"`{Path(point['record']).stem}`",
        ])  # fmt: skip
    head += ["GMACs", "ms per image", "of", "record"]
    return markup.table(head, rows, sortable=True)
