"""The page in headless Chromium. The tests are skipped if it is not installed."""

import re

import pytest

from tests.support.browser import DARK, needs_chromium, run_script

pytestmark = needs_chromium
PROBE = """
Object.assign(results, { errors: window.problems, figures: [], images: [], orders: {} });
for (const svg of document.querySelectorAll("figure svg")) {
  const box = svg.getBoundingClientRect();
  const paths = svg.querySelectorAll("path").length;
  results.figures.push([box.width, box.height, document.documentElement.clientWidth, paths]);
}
for (const image of document.querySelectorAll("img"))
  results.images.push([image.complete, image.naturalWidth]);
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    for (const click of ["first", "second"]) {
      header.querySelector("button").click();
      results.orders[`${header.innerText} ${click}`] =
        [header.ariaSort, [...table.tBodies[0].rows].map((row) => row.cells[column].innerText)];
    }
  });
}
results.background = getComputedStyle(document.body).backgroundColor;
results.axis = getComputedStyle(document.querySelector("svg text")).fill;
results.overflows = document.documentElement.scrollWidth > document.documentElement.clientWidth;
"""
LISTENER = """
<script>
window.problems = [];
addEventListener("error", (event) => problems.push(event.message), true);
</script>
"""


@pytest.fixture(scope="module")
def page(report_html):
    return report_html.replace("<head>", "<head>" + LISTENER)


def test_the_page_loads_without_errors_and_shows_its_figures(page, tmp_path):
    results, console = run_script(page, PROBE, tmp_path, "--window-size=1200,900")
    assert console == []
    assert results["errors"] == []
    assert len(results["figures"]) == 5
    for width, height, _, paths in results["figures"]:
        assert width > 300
        assert height > 150
        assert paths > 10
    assert len({round(width) for width, *_ in results["figures"]}) == 1, "all figures have the same width"
    assert results["images"]
    assert all(complete and width for complete, width in results["images"])


def test_a_click_on_a_column_header_sorts_the_table(page, tmp_path):
    results, _ = run_script(page, PROBE, tmp_path)
    orders = results["orders"]
    (header,) = {key.removesuffix(" first") for key in orders if key.startswith("training images")} - {
        key for key in orders if key.endswith("second")
    }
    direction, sizes = orders[f"{header} first"]
    assert direction == "ascending"
    assert [*map(int, sizes)] == sorted(map(int, sizes))
    direction, sizes = orders[f"{header} second"]
    assert direction == "descending"
    assert [*map(int, sizes)] == sorted(map(int, sizes), reverse=True)
    names = next(names for key, (_, names) in orders.items() if re.fullmatch(r"class\W+first", key))
    assert names == sorted(names)


def test_nothing_is_wider_than_a_phone_screen(page, tmp_path):
    results, _ = run_script(page, PROBE, tmp_path, "--window-size=500,900")
    assert not results["overflows"]
    assert all(width <= screen for width, _, screen, _ in results["figures"])


def test_axes_are_readable_in_light_and_dark_mode(page, tmp_path):
    (tmp_path / "light").mkdir()
    (tmp_path / "dark").mkdir()
    light, _ = run_script(page, PROBE, tmp_path / "light")
    dark, _ = run_script(page, PROBE, tmp_path / "dark", DARK)
    assert brightness(light["background"]) > 0.9
    assert brightness(light["axis"]) < 0.2
    assert brightness(dark["background"]) < 0.2
    assert brightness(dark["axis"]) > 0.8


def brightness(color):
    return sum(map(int, re.findall(r"\d+", color)[:3])) / (3 * 255)
