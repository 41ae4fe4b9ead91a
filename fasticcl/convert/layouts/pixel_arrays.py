"""Images from arrays of pixels, as some datasets are distributed. They are stored as lossless PNGs."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fasticcl.convert.source import ItemList


def png_items(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    rows: NDArray[np.integer],
    classes: list[str],
    split: str,
) -> ItemList:
    """Return selected images of an array as PNGs named ``split/class/row``.

    Args:
        images: [N, H, W] grey or [N, H, W, 3] RGB pixels.
        labels: [N] labels.
        rows: indices of the selected images, in the order of the result.
        classes: class names.
        split: name of the split.
    """

    def png(position: int, _: str) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(images[rows[position]]).save(buffer, "PNG")
        return buffer.getvalue()

    selected = np.asarray(labels)[rows].tolist()
    names = (f"{split}/{classes[label]}/{row}" for label, row in zip(selected, rows.tolist(), strict=True))
    return ItemList(names, selected, png)
