"""The report in a real browser: alone on its page, by mouse and by keyboard, narrow and wide."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests import ROOT
from tests.commands import refusal, run

FEW = [
    "sampler.steps=2", "num_images=10", "batch_size=10", "shard_size=10",
    "figure.fig05.series.0.allocations.resolution=2",
    "figure.fig05.series.1.allocations.resolution=1",
    "figure.fig05.series.2.allocations.resolution=1",
]  # fmt: skip
CLAIMS = ROOT / "docs" / "fashion" / "claims.json"
WIDTHS = (380, 1000, 1900)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with records, pictures, a tiny figure, a table, and the shipped claims."""
    runs = tmp_path_factory.mktemp("report")
    few, figures = [*FEW, f"runs={runs}"], "figure=[fig05,table7]"
    for words in (["figures", *few, figures, "run=true"], ["report", *few]):
        code, _, errors = run(*words)
        assert code == 0, errors
        shutil.copy(CLAIMS, runs / "figures" / "fashion" / "cpu")  # after the first, for the second
    return runs


@pytest.fixture(scope="module")
def page(runs):
    return runs / "figures" / "fashion" / "cpu" / "report.html"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium
        path = shutil.which("chromium") or chromium.executable_path
        if not Path(path).is_file():
            reason = "no Chromium: playwright install chromium, or apt-get install chromium"
            (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(reason)
        browser = chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(browser, page):
    """Opens the page; in the end nothing went wrong on it, and no request has left it."""
    views, problems = [], []

    def look(width=1000, path=page, **options):
        view = browser.new_page(viewport={"width": width, "height": 900}, **options)
        views.append(view)
        view.on("pageerror", lambda error: problems.append(str(error)))
        view.on("request", lambda request: problems.append(request.url)
                if not request.url.startswith(("data:", "file:")) else None)  # fmt: skip
        view.goto(path.as_uri())
        return view

    yield look
    for view in views:
        view.close()
    assert problems == []


def test_the_report_holds_all_it_shows(page):
    text = page.read_text()
    assert text.count("data:image/png;base64,") >= 5  # a figure, and pictures of five records
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "https://" not in text


def test_figures_have_titles_and_captions_instead_of_file_names(look):
    view = look()
    headings = view.locator("section.drawn h3").all_text_contents()
    assert headings == [
        "Figure 5: FID of every pair of denoisers", "Table 7: Half of the steps each, four ways",
    ]  # fmt: skip
    caption = view.locator("figcaption").first.text_content()
    assert "FID against the share of the steps" in caption
    assert "2 steps, guidance 1.5, 10 images" in caption
    targets = view.locator("nav a").evaluate_all(
        "links => links.map(link => document.querySelector(link.getAttribute('href')) !== null)"
    )
    assert len(targets) > 5 and all(targets)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(look, width):
    view = look(width)
    for letter in ("A", "B"):  # the longest contents
        view.locator(f"[data-card={letter}] input").check()
        view.locator(".point").last.click(force=True)
    wide, screen = view.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= screen
    assert view.locator("nav details").evaluate("one => one.open") is (width >= 1100)
    view.emulate_media(media="print")
    assert not view.locator("nav").is_visible()
    assert view.locator(".chart svg").is_visible()


def test_a_point_says_its_numbers_when_the_mouse_is_on_it(look):
    view = look()
    assert view.locator(".tip").count() == 0
    point = view.locator("[aria-label^='DiT-S*1+DiT-XL*1:']")
    point.hover()
    said = view.locator(".tip").text_content()
    record = json.loads(Path(point.get_attribute("data-record")).read_text())
    for name, digits in (("fid", 3), ("is", 3), ("precision", 3), ("recall", 3)):
        assert f"{record['metrics'][name]:.{digits}f}" in said
    assert "DiT-S*1+DiT-XL*1" in said and "GMACs per image" in said
    assert Path(point.get_attribute("data-record")).name in said
    view.locator("h1").hover()
    assert view.locator(".tip").count() == 0


def test_a_click_shows_a_points_pictures_beside_another_setting(look):
    view = look()
    view.locator("[aria-label^='DiT-S*2:']").click()
    card = view.locator("[data-card=B]")
    assert card.locator("h4").text_content() == "B: DiT-S*2"
    assert card.locator("img").get_attribute("src").startswith("data:image/png;base64,")
    assert card.locator("img").evaluate("one => one.naturalWidth") >= 64 * 3
    assert view.locator("[data-card=A] h4").text_content() == "A: DiT-XL*2"
    assert "times the" in view.locator(".difference").text_content()
    view.locator("[data-card=A] input").check()
    view.locator("[aria-label^='DiT-S*2:']").click()
    assert view.locator("[data-card=A] h4").text_content() == "A: DiT-S*2"
    assert view.locator(".difference").text_content() == "A and B are the same."


def test_the_frontier_can_be_walked_by_keys(look):
    view = look()
    view.locator("select[aria-label='vertical axis']").focus()
    view.keyboard.press("Tab")
    focused = view.locator(".point:focus")
    view.keyboard.press("Home")
    first = focused.get_attribute("data-record")
    assert view.locator(".tip").is_visible()
    view.keyboard.press("ArrowRight")
    second = focused.get_attribute("data-record")
    assert second != first
    view.keyboard.press("Enter")
    assert Path(second).name in view.locator("[data-card=B]").text_content()
    assert focused.get_attribute("data-record") == second  # where it was
    assert focused.get_attribute("aria-pressed") == "true"


def test_the_slider_goes_through_the_shares(look):
    view = look()
    slider = view.locator(".slider input")
    slider.fill("2")
    assert view.locator(".slider output").text_content() == "DiT-S in 100 % of the steps"
    assert view.locator("[data-card=B] h4").text_content() == "B: DiT-S*2"
    before = view.locator("[data-card=B] img").get_attribute("src")
    slider.press("ArrowLeft")
    assert view.locator("[data-card=B] h4").text_content() == "B: DiT-S*1+DiT-XL*1"
    assert view.locator("[data-card=B] img").get_attribute("src") != before


def test_another_setting_and_other_axes_are_drawn(look):
    view = look()
    drawn = view.locator(".point").count()
    assert drawn == len(list(view.locator(".sortable tbody tr").all()))
    view.locator("select[aria-label='vertical axis']").select_option("is")
    assert "IS (higher is better)" in view.locator(".chart").text_content()
    view.locator("select[aria-label='horizontal axis']").select_option("GMACs per image")
    best = view.locator(".point.on").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert best and all("on the frontier" in label for label in best)


def test_claims_have_bars_and_the_records_are_sorted(look):
    view = look()
    claims = json.loads(CLAIMS.read_text())["claims"]
    assert view.locator(".claim").count() == len(claims)
    labels = view.locator(".bar svg").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert len(labels) == len([one for one in claims if "value" in one])
    assert "50 %, at least 40 %" in labels
    for kind in ("yes", "no", "not testable"):
        count = len([one for one in claims if one["holds"] == kind])
        assert view.locator(f".claim.{kind.replace(' ', '-')}").count() == count > 0

    def fids():
        cells = view.locator(".sortable tbody td:nth-child(4)").all_text_contents()
        return [float(cell) for cell in cells]

    assert len(fids()) > 3
    for order in (sorted(fids()), sorted(fids(), reverse=True)):
        view.get_by_role("button", name="FID", exact=True).press("Enter")
        assert fids() == order


def test_dark_mode_is_dark(look):
    ground = "getComputedStyle(document.body).backgroundColor"
    assert look(color_scheme="light").evaluate(ground) == "rgb(255, 255, 255)"
    dark = look(color_scheme="dark").evaluate(ground)
    assert max(int(part) for part in dark.removeprefix("rgb(").rstrip(")").split(",")) < 64


def test_several_zoos_share_a_page_and_what_is_not_kept_says_how_to_make_it(look, runs, tmp_path):
    for zoo in ("fashion", "imagenette64"):
        shutil.copytree(runs / "figures" / "fashion" / "cpu", tmp_path / zoo)
    shutil.copytree(runs / "records", tmp_path / "records")
    code, _, errors = run(
        "report", "zoos=[fashion,imagenette64]", f"runs={tmp_path}", f"report={tmp_path}/both.html",
        f"figures={tmp_path}/${{zoo.name}}",
    )  # fmt: skip
    assert code == 0, errors
    view = look(path=tmp_path / "both.html")
    assert view.locator("h1").text_content() == "T-Stitch on fashion and imagenette64"
    assert view.locator("h2").all_text_contents() == ["Zoo fashion", "Zoo imagenette64"]
    assert view.locator(".explorer").count() == 1  # the other has no records
    anchors = view.locator("section").evaluate_all("all => all.map(one => one.id)")
    assert len(anchors) == len(set(anchors))
    how = view.locator("[data-card=B] .how")
    assert "No pictures are kept" in how.text_content()
    assert "python -m scripts.sample zoo=fashion" in how.locator("code").text_content()


def test_without_figures_it_says_how_to_draw_them(tmp_path):
    line = refusal("report", f"figures={tmp_path}")
    first = "none of the chosen figures; draw them first: python -m scripts.figures figure=all"
    assert first in line and "or show" not in line
    for name in ("demo", "demo_grid"):
        (tmp_path / f"{name}.png").touch()
    line = refusal("report", f"figures={tmp_path}")
    assert first in line and line.endswith("or show what is there: figure=[demo,demo_grid]")
