"""The table of layouts, and options that do not apply to a layout."""

import pytest

import fasticcl
from fasticcl.cli.datasets import layout_lines
from fasticcl.convert.layouts.registry import LAYOUTS
from fasticcl.errors import UserError

OPTIONS = {"lists": "lists", "imbalance": 50, "download": True, "val_fraction": 0.1, "long_tail": 10}


LAYOUT_OPTIONS = {
    "inat2018": [],
    "imagenet-lt": ["lists"],
    "cifar10-lt": ["imbalance", "download"],
    "cifar100-lt": ["imbalance", "download"],
    "folder": ["val_fraction", "long_tail"],
    "list": ["val_fraction", "long_tail"],
}


@pytest.mark.parametrize(
    ("layout", "option"),
    [
        (layout, option)
        for layout, known in LAYOUT_OPTIONS.items()
        for option in OPTIONS
        if option not in known
    ],
)
def test_an_option_of_another_layout_gives_a_clear_error(tmp_path, layout, option):
    users = [other for other, known in LAYOUT_OPTIONS.items() if option in known]
    with pytest.raises(UserError) as refused:
        fasticcl.convert(layout, tmp_path / "nowhere", tmp_path / "shards", **{option: OPTIONS[option]})
    sentence = str(refused.value)
    assert sentence.startswith(f"--{option.replace('_', '-')} applies only to ")
    assert sentence.endswith(f". Leave it out for {layout}.")
    assert all(user in sentence for user in users)
    assert not list(tmp_path.iterdir())


def test_every_layout_is_listed_with_its_example_command():
    lines = list(layout_lines())
    for name, layout in LAYOUTS.items():
        assert name in lines
        assert f"  next     {layout.example}" in lines
        assert layout.example.split()[:3] == ["fasticcl", "convert", name]
