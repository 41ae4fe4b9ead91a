"""Commands that convert and inspect datasets."""

from fasticcl.cli.datasets import layout_lines
from fasticcl.convert.layouts.registry import LAYOUTS


def test_every_layout_is_listed_with_its_next_command():
    lines = list(layout_lines())
    for name, layout in LAYOUTS.items():
        assert name in lines
        assert f"  next     {layout.example}" in lines
        assert layout.example.split()[:3] == ["fasticcl", "convert", name]
