"""The HTML page of a result."""

import dataclasses
import re

import pytest

from fasticcl.reproduce.table.page import dataset_title, html_page, run_link
from tests.support.report_files import Page
from tests.support.reproduced_table import small_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(folder):
    return small_result(folder)


@pytest.fixture(scope="module")
def html(result, folder):
    (folder / "demo" / "ce-digits-s0" / "report.html").write_text("")
    return html_page(result, folder, [])


def test_cells_have_ours_the_papers_and_the_difference(html):
    last, best, *_ = Page(html).tables
    groups, metrics, ce, before, crt = last
    assert groups == ["method", "Digits, 10 %"]
    assert metrics == ["Overall", "Many", "Medium", "Few", "Tail"]
    text = [cell.replace("\xa0", " ") for cell in ce]
    assert text[1] == "36.7 ± 1.8a n = 3paper 38.3 (\N{MINUS SIGN}1.6)"
    assert text[3] == "30.0 ± 0.030.0 (0.0)"
    assert text[2] == text[2].strip() == "–"
    assert before[1].replace("\xa0", " ") == "21.0 n = 1 of 3paper 40.0 (\N{MINUS SIGN}19.0)"
    assert best[2][1].replace("\xa0", " ").startswith("38.7 ± 1.8")
    assert crt[0] == "cRT, τd = 1"


def test_every_run_is_listed_and_linked_relative_to_the_page(html, folder):
    (runs,) = [table for table in Page(html).tables if "seed" in table[0]]
    assert len(runs) == 1 + 9
    states = [row[3] for row in runs[1:]]
    assert states.count("finished") == 5
    assert "interrupted at epoch 1 of 2 of the second stage" in states
    urls = Page(html).urls
    assert "demo/ce-digits-s0/report.html" in urls, "the report, if there is one"
    assert "demo/crt-digits-s0/" in urls
    assert not any("crt-digits-s2" in url for url in urls), "it does not exist"
    for url in urls:
        assert url.startswith(("data:", "#")) or (folder / url).exists()


def test_links_to_runs_point_at_rows_of_the_page(html):
    ids = {*re.findall(r'<tr id="([^"]+)"', html)}
    targets = {url[1:] for url in Page(html).urls if url.startswith("#")}
    assert targets
    assert targets <= ids


def test_titles_are_escaped(html):
    assert "CE* [1] &lt;b&gt;|_^" in html
    assert "<b>|" not in html


def test_page_names_command_hardware_data_and_differences(html):
    text = " ".join(Page(html).texts)
    for part in (
        "fasticcl reproduce table9",
        "CPU, 1 thread",
        "5 runs",
        "weight decay 0",
        "copied",
        "optimistic",
    ):
        assert part in text


def test_problems_are_listed(result, folder):
    html = html_page(dataclasses.replace(result, problems=("no <shards>",)), folder, [])
    assert "no &lt;shards&gt;" in html


def test_link_quotes_the_folder(tmp_path):
    run = tmp_path / "a b#"
    run.mkdir()
    assert run_link(run, tmp_path) == "a%20b%23/"
    assert run_link(tmp_path / "missing", tmp_path) == ""


def test_dataset_title_has_no_options_and_no_settings():
    assert dataset_title("folder") == "Your own images"
    assert (
        dataset_title("cifar10-lt") == "CIFAR10-LT: 10 classes, the largest 100, 50 or 10 times the smallest"
    )
