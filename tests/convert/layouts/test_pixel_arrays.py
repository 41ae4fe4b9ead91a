"""PNGs of datasets that are distributed as arrays of pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from fasticcl.convert.layouts.pixel_arrays import png_items


@pytest.mark.parametrize("shape", [(5, 8, 9), (5, 8, 9, 3)], ids=["grey", "rgb"])
def test_selected_rows_become_lossless_pngs_with_names_and_labels(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    items = png_items(images, np.array([0, 1, 0, 1, 1]), np.array([3, 0]), ["ant", "bee"], "val")
    assert [(item.name, item.label) for item in items] == [("val/bee/3", 1), ("val/ant/0", 0)]
    for item, row in zip(items, (3, 0), strict=True):
        image = Image.open(io.BytesIO(item.read()))
        assert image.format == "PNG"
        assert (np.asarray(image) == images[row]).all()
