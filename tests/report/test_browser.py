"""The report in a real browser: headless Chromium, where there is one."""

import re

import pytest

from tests.support.browser import DARK, look, needs_chromium

pytestmark = needs_chromium
PROBE = """
Object.assign(seen, { errors: window.problems, figures: [], pictures: [], orders: {} });
for (const each of document.querySelectorAll("figure svg")) {
  const box = each.getBoundingClientRect();
  const paths = each.querySelectorAll("path").length;
  seen.figures.push([box.width, box.height, document.documentElement.clientWidth, paths]);
}
for (const each of document.querySelectorAll("img")) seen.pictures.push([each.complete, each.naturalWidth]);
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    for (const turn of ["up", "down"]) {
      head.querySelector("button").click();
      seen.orders[`${head.innerText} ${turn}`] =
        [head.ariaSort, [...table.tBodies[0].rows].map((row) => row.cells[column].innerText)];
    }
  });
}
seen.paper = getComputedStyle(document.body).backgroundColor;
seen.axis = getComputedStyle(document.querySelector("svg text")).fill;
seen.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
"""
LISTENER = """
<script>
window.problems = [];
addEventListener("error", (event) => problems.push(event.message), true);
</script>
"""


@pytest.fixture(scope="module")
def page(report):
    return report.replace("<head>", "<head>" + LISTENER)


def test_the_page_loads_without_errors_and_shows_its_figures(page, tmp_path):
    seen, console = look(page, PROBE, tmp_path, "--window-size=1200,900")
    assert console == []
    assert seen["errors"] == []
    assert len(seen["figures"]) == 5
    assert all(width > 300 and height > 150 and paths > 10 for width, height, _, paths in seen["figures"])
    assert len({round(width) for width, *_ in seen["figures"]}) == 1, "none is larger than the others"
    assert seen["pictures"]
    assert all(complete and width for complete, width in seen["pictures"])


def test_a_click_on_a_head_sorts_the_table(page, tmp_path):
    seen, _ = look(page, PROBE, tmp_path)
    (name,) = {key.removesuffix(" up") for key in seen["orders"] if key.startswith("training images")} - {
        key for key in seen["orders"] if key.endswith("down")
    }
    state, sizes = seen["orders"][f"{name} up"]
    assert state == "ascending"
    assert [*map(int, sizes)] == sorted(map(int, sizes))
    state, sizes = seen["orders"][f"{name} down"]
    assert state == "descending"
    assert [*map(int, sizes)] == sorted(map(int, sizes), reverse=True)
    names = next(order for key, (_, order) in seen["orders"].items() if re.fullmatch(r"class\W+up", key))
    assert names == sorted(names)


def test_on_a_phone_nothing_reaches_beyond_the_screen(page, tmp_path):
    seen, _ = look(page, PROBE, tmp_path, "--window-size=500,900")
    assert not seen["wide"]
    assert all(width <= screen for width, _, screen, _ in seen["figures"])


def test_light_and_dark_differ_and_axes_can_be_read_on_both(page, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    light, _ = look(page, PROBE, tmp_path / "one")
    dark, _ = look(page, PROBE, tmp_path / "two", DARK)
    assert brightness(light["paper"]) > 0.9
    assert brightness(light["axis"]) < 0.2
    assert brightness(dark["paper"]) < 0.2
    assert brightness(dark["axis"]) > 0.8


def brightness(color):
    return sum(map(int, re.findall(r"\d+", color)[:3])) / (3 * 255)
