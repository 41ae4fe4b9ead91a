"""The reference image, decoded by Pillow."""

import io

import numpy as np
from PIL import Image

from fasticcl.doctor.reference_image import COLORS, JPEG, color_error, square_colors


def test_reference_image_has_the_expected_colors():
    with Image.open(io.BytesIO(JPEG)) as image:
        colors = square_colors(np.asarray(image).tolist())
    assert color_error(colors) <= 2
    assert color_error([*COLORS[1:], COLORS[0]]) > 100
    assert len(JPEG) < 1000
