"""The HTML page."""

from tests.support.report_files import read_page


def test_the_page_is_self_contained(finished_run):
    page = read_page(finished_run)
    assert all(url.startswith(("data:", "#")) for url in page.urls)
    assert page.elements.count("svg") == 5
