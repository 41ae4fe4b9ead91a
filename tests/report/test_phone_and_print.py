"""The page on a phone screen of 375 px, and printed."""

import re
import shutil
import subprocess

import pytest
from PIL import Image

from tests.support.browser import DARK, needs_chromium, run_script, run_script_on_phone, start_chromium

pytestmark = needs_chromium
needs_poppler = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="pdftotext is not installed: apt install poppler-utils"
)
# The widest possible accuracies. Otherwise a table might fit only because its accuracies are low.
WIDEST = """
for (const cell of document.querySelectorAll("td.number"))
  cell.textContent = cell.textContent.replace(/^\\d+\\.\\d/, "100.0");
"""
TABLES = """
results.screen = document.documentElement.clientWidth;
results.overflows = document.documentElement.scrollWidth > results.screen;
results.tables = [...document.querySelectorAll(".scroll")].map((box) => {
  const table = box.querySelector("table"), headers = [...table.tHead.rows[0].cells];
  const few = headers.findIndex((header) => /^few/.test(header.textContent));
  const cells = few < 0 ? [] : [...table.rows].map((row) => row.cells[few].getBoundingClientRect().right);
  const hidden = box.scrollWidth - box.clientWidth;
  const faded = getComputedStyle(box).maskImage !== "none";
  box.scrollLeft = hidden;
  const lefts = [...table.rows].map((row) => row.cells[0].getBoundingClientRect().left);
  const offset = Math.min(...lefts) - box.getBoundingClientRect().left;
  return { cells, hidden, faded, offset, headers: headers.map((header) => header.textContent) };
});
"""
SCROLLED_TO_END = """
const box = [...document.querySelectorAll(".scroll")].find((box) => box.scrollWidth > box.clientWidth);
box.scrollLeft = box.scrollWidth;
box.dispatchEvent(new Event("scroll"));
results.faded = getComputedStyle(box).maskImage !== "none";
"""
FIGURE_TEXTS = """
results.sizes = [...document.querySelectorAll("figure svg text")].map((text) =>
  parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b));
results.phases = [...document.querySelectorAll("figure svg")].map((svg) => [...svg.querySelectorAll("text")]
  .filter((text) => ["warmup", "interpolative", "rebalance"].includes(text.textContent))
  .map((text) => text.getBoundingClientRect()).map((box) => [box.left, box.right]));
"""


def test_on_a_phone_the_few_column_is_visible_without_scrolling(report_html, tmp_path):
    results = run_script_on_phone(report_html, WIDEST + TABLES, tmp_path)
    assert (results["screen"], results["overflows"]) == (375, False)
    (table,) = [table for table in results["tables"] if table["cells"]]
    assert len(table["cells"]) == 4
    assert max(table["cells"]) <= 375
    assert not table["faded"]


def test_on_a_phone_a_comparison_shows_the_few_column_or_a_faded_edge(comparison_html, tmp_path):
    results = run_script_on_phone(comparison_html, TABLES, tmp_path)
    groups, runs = [table for table in results["tables"] if table["cells"]]
    assert max(groups["cells"]) <= 375
    assert max(runs["cells"]) > 375, "this table must be too wide"
    assert runs["faded"]


def test_a_wide_table_has_a_faded_edge_until_scrolled_to_its_end(report_html, tmp_path):
    results = run_script_on_phone(report_html, TABLES, tmp_path)
    tables = [table for table in results["tables"] if table["headers"] != ["setting", "value"]]
    assert any(table["hidden"] > 0 for table in tables)
    assert all(table["faded"] == (table["hidden"] > 1) for table in tables)
    assert all(abs(table["offset"]) <= 1 for table in tables), "the first column stays visible"
    assert not run_script_on_phone(report_html, SCROLLED_TO_END, tmp_path)["faded"]


def test_on_a_phone_figure_text_is_readable_and_phase_labels_do_not_overlap(report_html, tmp_path):
    results = run_script_on_phone(report_html, FIGURE_TEXTS, tmp_path)
    assert min(results["sizes"]) >= 8
    assert [len(boxes) for boxes in results["phases"] if boxes] == [3, 3, 3]
    for boxes in filter(None, results["phases"]):
        edges = [edge for box in boxes for edge in box]
        assert edges == sorted(edges)


@pytest.fixture(scope="module")
def printed(report_html, tmp_path_factory):
    return print_page(report_html, tmp_path_factory.mktemp("printed"))


def print_page(html, folder):
    (folder / "page.html").write_text(html)
    pdf = folder / "page.pdf"
    start_chromium(folder / "page.html", folder, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", DARK)
    return pdf


def pdf_text(pdf, *flags):
    command = ["pdftotext", *flags, pdf, "-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_poppler
def test_folded_tables_are_printed(printed):
    assert "All settings" in pdf_text(printed)
    assert "optim.nesterov" in pdf_text(printed)


@needs_poppler
@pytest.mark.parametrize("size", ["letter", "A4", "170mm 212mm", "170mm 160mm", "170mm 146mm"])
def test_page_breaks_split_no_figure_and_follow_no_heading(report_html, tmp_path, size):
    pdf = print_page(report_html.replace("@page {", f"@page {{ size: {size};"), tmp_path)
    pages = [re.sub(r"\s+", " ", page).strip() for page in pdf_text(pdf).split("\f")]
    assert len(pages) > 2, "there must be page breaks"
    captions = re.findall(r"</svg>\s*<figcaption>(.*?)</figcaption>", report_html)
    titles = ("Top-1 accuracy", "Training loss", "Per-class accuracy", "Class norms", "Throughput")
    assert len(captions) == len(titles)
    for title, caption in zip(titles, captions, strict=True):
        start = " ".join(caption.split()[:4])  # later lines are mixed with those of the caption next to it
        (page,) = [page for page in pages if start in page]
        assert title in page
    headings = re.findall(r"<h2>(.*?)</h2>", report_html)
    for page in pages:
        assert not any(re.search(rf"(^| ){re.escape(heading)}$", page) for heading in headings)


@needs_poppler
def test_nothing_printed_extends_beyond_the_margin(printed):
    boxes = pdf_text(printed, "-bbox")
    width = float(re.search(r'<page width="([\d.]+)"', boxes)[1])
    rights = [float(right) for right in re.findall(r'xMax="([\d.]+)"', boxes)]
    assert len(rights) > 200
    margin = 72 * 15 / 25.4
    assert max(rights) <= width - margin + 1


@needs_poppler
def test_pages_printed_in_dark_mode_have_a_white_background(printed, tmp_path):
    subprocess.run(["pdftoppm", "-r", "20", "-png", printed, tmp_path / "page"], check=True)
    for page in tmp_path.glob("*.png"):
        with Image.open(page) as image:
            assert image.convert("L").getpixel((3, 3)) == 255


def test_print_styles_remove_dark_colours_faded_edges_and_scroll_boxes(report_html, tmp_path):
    """Chromium prints in light colours by itself. Other browsers depend on the styles of the page."""
    page = report_html.replace("@media print", "@media all")
    script = """
    results.background = getComputedStyle(document.body).backgroundColor;
    results.axis = getComputedStyle(document.querySelector("svg text")).fill;
    results.boxes = [...document.querySelectorAll(".scroll")].map((box) => getComputedStyle(box))
      .map((style) => [style.overflowX, style.overflowY, style.maskImage, style.maxHeight]);
    """
    results, _ = run_script(page, script, tmp_path, "--window-size=500,900", DARK)
    assert (results["background"], results["axis"]) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    assert {*map(tuple, results["boxes"])} == {("visible", "visible", "none", "none")}
