"""Images that a dataset ships as arrays of pixels; each becomes a PNG, which loses nothing."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fasticcl.convert.source import Listing


def pictures(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    rows: NDArray[np.integer],
    classes: list[str],
    split: str,
) -> Listing:
    """Return a listing of some images of an array, named ``split/class/row``.

    Args:
        images: [N, H, W] grey or [N, H, W, 3] RGB pixels.
        labels: [N] classes.
        rows: which of them, in which order.
        classes: class names.
        split: name of the split.
    """

    def png(place: int, _: str) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(images[rows[place]]).save(buffer, "PNG")
        return buffer.getvalue()

    chosen = np.asarray(labels)[rows].tolist()
    names = (f"{split}/{classes[label]}/{row}" for label, row in zip(chosen, rows.tolist(), strict=True))
    return Listing(names, chosen, png)
