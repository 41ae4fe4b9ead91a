"""Figure of a sweep."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

import fasticcl


@pytest.mark.parametrize(
    "over",
    [
        {"rebalance.distillation_temperature": [1, 10]},
        {"rebalance.gamma": [0, 1], "rebalance.distillation_weight": [0.2, 0.8]},
        {"rebalance.classifier": ["continue", "reinit"]},
    ],
    ids=["one setting", "two settings", "text values"],
)
def test_the_figure_shows_every_accuracy(run, over):
    folder = fasticcl.sweep(run, over=over).folder
    with Image.open(folder / "sweep.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 4
    elements = ElementTree.parse(folder / "sweep.svg").iter()
    texts = {element.text for element in elements if element.tag.endswith("}text")}
    assert next(iter(over)) in texts
    if len(over) == 1:
        assert {"overall", "few", "holdout", "simulated"} <= texts
        assert "many" not in texts, "the data has no class in this group"
    else:
        assert {"distillation_weight 0.2", "distillation_weight 0.8"} <= texts
