"""The report on a phone of 375 px, and printed."""

import re
import shutil
import subprocess

import pytest
from PIL import Image

from tests.support.browser import DARK, look, look_on_phone, needs_chromium, start

pytestmark = needs_chromium
needs_poppler = pytest.mark.skipif(shutil.which("pdftotext") is None, reason="apt install poppler-utils")
# What the widest accuracies would be: no table may fit only because a run is bad.
WIDEST = """
for (const cell of document.querySelectorAll("td.number"))
  cell.textContent = cell.textContent.replace(/^\\d+\\.\\d/, "100.0");
"""
TABLES = """
seen.screen = document.documentElement.clientWidth;
seen.wide = document.documentElement.scrollWidth > seen.screen;
seen.tables = [...document.querySelectorAll(".scroll")].map((box) => {
  const table = box.querySelector("table"), head = [...table.tHead.rows[0].cells];
  const few = head.findIndex((each) => /^few/.test(each.textContent));
  const cells = few < 0 ? [] : [...table.rows].map((row) => row.cells[few].getBoundingClientRect().right);
  const hidden = box.scrollWidth - box.clientWidth;
  const faded = getComputedStyle(box).maskImage !== "none";
  box.scrollLeft = hidden;
  const first = [...table.rows].map((row) => row.cells[0].getBoundingClientRect().left);
  const offset = Math.min(...first) - box.getBoundingClientRect().left;
  return { cells, hidden, faded, offset, name: head.map((each) => each.textContent) };
});
"""
ENDS = """
const wide = [...document.querySelectorAll(".scroll")].find((box) => box.scrollWidth > box.clientWidth);
wide.scrollLeft = wide.scrollWidth;
wide.dispatchEvent(new Event("scroll"));
seen.faded = getComputedStyle(wide).maskImage !== "none";
"""
LETTERS = """
seen.sizes = [...document.querySelectorAll("figure svg text")].map((each) =>
  parseFloat(getComputedStyle(each).fontSize) * Math.hypot(each.getScreenCTM().a, each.getScreenCTM().b));
seen.names = [...document.querySelectorAll("figure svg")].map((svg) => [...svg.querySelectorAll("text")]
  .filter((each) => ["warmup", "interpolative", "rebalance"].includes(each.textContent))
  .map((each) => each.getBoundingClientRect()).map((box) => [box.left, box.right]));
"""


def test_on_a_phone_the_few_are_seen_without_scrolling(report, tmp_path):
    seen = look_on_phone(report, WIDEST + TABLES, tmp_path)
    assert (seen["screen"], seen["wide"]) == (375, False)
    (table,) = [each for each in seen["tables"] if each["cells"]]
    assert len(table["cells"]) == 4
    assert max(table["cells"]) <= 375
    assert not table["faded"]


def test_on_a_phone_the_few_of_a_comparison_are_seen_or_a_faded_edge_shows_that_there_is_more(
    comparison, tmp_path
):
    seen = look_on_phone(comparison, TABLES, tmp_path)
    compared, runs = [each for each in seen["tables"] if each["cells"]]
    assert max(compared["cells"]) <= 375
    assert max(runs["cells"]) > 375, "the case that is tested below"
    assert runs["faded"]


def test_what_does_not_fit_fades_at_its_edge_until_one_scrolled_there(report, tmp_path):
    seen = look_on_phone(report, TABLES, tmp_path)
    shown = [each for each in seen["tables"] if each["name"] != ["setting", "value"]]
    assert any(each["hidden"] > 0 for each in shown)
    assert all(each["faded"] == (each["hidden"] > 1) for each in shown)
    assert all(abs(each["offset"]) <= 1 for each in shown), "the first column stays"
    assert not look_on_phone(report, ENDS, tmp_path)["faded"]


def test_on_a_phone_letters_of_figures_are_read_and_names_of_phases_lie_apart(report, tmp_path):
    seen = look_on_phone(report, LETTERS, tmp_path)
    assert min(seen["sizes"]) >= 8
    assert [len(each) for each in seen["names"] if each] == [3, 3, 3]
    for boxes in filter(None, seen["names"]):
        ends = [edge for box in boxes for edge in box]
        assert ends == sorted(ends)


@pytest.fixture(scope="module")
def printed(report, tmp_path_factory):
    return print_page(report, tmp_path_factory.mktemp("printed"))


def print_page(text, folder):
    (folder / "page.html").write_text(text)
    pdf = folder / "page.pdf"
    start(folder / "page.html", folder, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", DARK)
    return pdf


def words(pdf, *flags):
    return subprocess.run(["pdftotext", *flags, pdf, "-"], capture_output=True, text=True, check=True).stdout


@needs_poppler
def test_paper_has_what_is_folded_on_the_screen(printed):
    assert "All settings" in words(printed)
    assert "optim.nesterov" in words(printed)


@needs_poppler
@pytest.mark.parametrize("size", ["letter", "A4", "170mm 212mm", "170mm 160mm", "170mm 146mm"])
def test_no_figure_is_split_and_no_heading_ends_a_page(report, tmp_path, size):
    pdf = print_page(report.replace("@page {", f"@page {{ size: {size};"), tmp_path)
    pages = [re.sub(r"\s+", " ", page).strip() for page in words(pdf).split("\f")]
    assert len(pages) > 2, "there are page breaks to be tested"
    captions = re.findall(r"</svg>\s*<figcaption>(.*?)</figcaption>", report)
    titles = ("Top-1 accuracy", "Training loss", "Per-class accuracy", "Class norms", "Throughput")
    assert len(captions) == len(titles)
    for title, caption in zip(titles, captions, strict=True):
        begin = " ".join(caption.split()[:4])  # what wraps is mixed with the caption beside it
        (page,) = [page for page in pages if begin in page]
        assert title in page
    headings = re.findall(r"<h2>(.*?)</h2>", report)
    assert not any(re.search(rf"(^| ){re.escape(each)}$", page) for page in pages for each in headings)


@needs_poppler
def test_nothing_is_cut_off_at_the_edge_of_the_paper(printed):
    boxes = words(printed, "-bbox")
    width = float(re.search(r'<page width="([\d.]+)"', boxes)[1])
    rights = [float(each) for each in re.findall(r'xMax="([\d.]+)"', boxes)]
    assert len(rights) > 200
    margin = 72 * 15 / 25.4
    assert max(rights) <= width - margin + 1


@needs_poppler
def test_dark_mode_does_not_reach_the_paper(printed, tmp_path):
    subprocess.run(["pdftoppm", "-r", "20", "-png", printed, tmp_path / "page"], check=True)
    for page in tmp_path.glob("*.png"):
        with Image.open(page) as picture:
            assert picture.convert("L").getpixel((3, 3)) == 255


def test_the_rules_for_paper_leave_no_dark_colour_fade_or_scroll(report, tmp_path):
    """Chromium prints in light colours by itself; other browsers are left to the page's own rules."""
    paper = report.replace("@media print", "@media all")
    script = """
    seen.paper = getComputedStyle(document.body).backgroundColor;
    seen.axis = getComputedStyle(document.querySelector("svg text")).fill;
    seen.boxes = [...document.querySelectorAll(".scroll")].map((box) => getComputedStyle(box))
      .map((style) => [style.overflowX, style.overflowY, style.maskImage, style.maxHeight]);
    """
    seen, _ = look(paper, script, tmp_path, "--window-size=500,900", DARK)
    assert (seen["paper"], seen["axis"]) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    assert {*map(tuple, seen["boxes"])} == {("visible", "visible", "none", "none")}
