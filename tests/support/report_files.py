"""Readers of ``report.json`` and ``report.html``."""

import json
from html.parser import HTMLParser


def read_json(folder):
    return json.loads((folder / "report.json").read_text())


def read_page(folder):
    return Page((folder / "report.html").read_text())


class Page(HTMLParser):
    """The parsed page: tables as lists of rows, URLs, texts and the names of all elements."""

    def __init__(self, html):
        super().__init__()
        self.in_cell = False
        self.tables, self.urls, self.texts, self.elements = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.urls += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_data(self, data):
        self.texts.append(data)
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")
