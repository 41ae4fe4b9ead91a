"""Figures as SVG and PNG files and in the page."""

import re
import xml.etree.ElementTree as ElementTree

from PIL import Image


def test_figures_are_written_as_svg_and_png(finished_run):
    names = {path.stem for path in (finished_run / "figures").iterdir()}
    assert names == {"accuracy", "losses", "per-class", "norms", "speed"}
    for name in names:
        root = ElementTree.fromstring((finished_run / "figures" / f"{name}.svg").read_bytes())
        assert root.tag.endswith("svg")
        with Image.open(finished_run / "figures" / f"{name}.png") as image:
            image.load()
            assert image.width > 900
            assert len(image.convert("RGB").getcolors(2**24) or ()) > 2


def test_inline_figures_use_the_text_colour_and_have_distinct_ids(report_html):
    figures = re.findall(r"<svg.*?</svg>", report_html, flags=re.DOTALL)
    assert all("currentColor" in figure and 'width="' not in figure.split(">")[0] for figure in figures)
    ids = [set(re.findall(r'<(?:path|clipPath)[^>]* id="([^"]+)"', figure)) for figure in figures]
    assert sum(map(len, ids)) == len(set().union(*ids))
