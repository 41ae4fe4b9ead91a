"""The page of a result in headless Chromium. The tests are skipped if it is not installed."""

import pytest

from fasticcl.reproduce.table.page import html_page
from tests.support.browser import needs_chromium, run_script, run_script_on_phone
from tests.support.reproduced_table import small_result

pytestmark = needs_chromium
TABLES = """
results.overflows = document.documentElement.scrollWidth > document.documentElement.clientWidth;
results.tables = [...document.querySelectorAll(".result")].map((table) => {
  const box = table.parentElement, hidden = box.scrollWidth - box.clientWidth;
  const faded = getComputedStyle(box).maskImage !== "none";
  box.scrollLeft = hidden;
  const lefts = [...table.tBodies[0].rows].map((row) => row.cells[0].getBoundingClientRect().left);
  return { hidden, faded, offset: Math.max(...lefts) - box.getBoundingClientRect().left };
});
const runs = document.querySelector("table.sortable"), seed = runs.tHead.rows[0].cells[2];
seed.querySelector("button").click();
seed.querySelector("button").click();
results.seeds = [...runs.tBodies[0].rows].map((row) => row.cells[2].innerText);
results.targets = [...document.querySelectorAll(".result a")].every((link) =>
  document.getElementById(link.getAttribute("href").slice(1)));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return html_page(small_result(folder), folder, [])


def test_on_a_laptop_the_table_fits_and_the_runs_can_be_sorted(page, tmp_path):
    results, console = run_script(page, TABLES, tmp_path, "--window-size=1280,800")
    assert console == []
    assert not results["overflows"]
    assert [table["hidden"] for table in results["tables"]] == [0, 0]
    assert results["seeds"] == ["2"] * 3 + ["1"] * 3 + ["0"] * 3
    assert results["targets"]


def test_on_a_phone_the_table_scrolls_under_its_first_column(page, tmp_path):
    results = run_script_on_phone(page, TABLES, tmp_path)
    assert not results["overflows"]
    for table in results["tables"]:
        assert table["hidden"] > 0
        assert table["faded"]
        assert abs(table["offset"]) <= 1
