"""Boxes of CutMix: the rectangles that are copied from the class-aware images.

Boxes are top, left, height and width in pixels of the square network input.
"""

import numpy as np
from numpy.typing import NDArray


def cutmix_boxes(rng: np.random.Generator, lam: NDArray[np.floating], image_size: int) -> NDArray[np.int32]:
    """Draw one box per λ as in the official code of CutMix.

    A box has the side S·√(1 - λ), rounded down to a multiple of 2. Its centre is uniform over the pixels of
    the image, and the parts outside the image are cut off.

    Args:
        rng: the random generator.
        lam: [N] share of the image outside of a box that is not cut off, from 0 to 1.
        image_size: S, in pixels.

    Returns:
        [N, 4] top, left, height, width. An empty box is at the corner (S, S), because DALI's multi_paste
        on a GPU pastes everything to the right of and below an empty box in another place.
    """
    half = (image_size * np.sqrt(1 - lam)).astype(np.int64)[:, None] // 2
    centres = rng.integers(0, image_size, (len(lam), 2))
    first, last = (centres - half).clip(0), (centres + half).clip(max=image_size)
    first[half[:, 0] == 0] = last[half[:, 0] == 0] = image_size
    return np.concatenate([first, last - first], axis=1).astype(np.int32)


def share_outside(boxes: NDArray[np.int32], image_size: int) -> NDArray[np.float64]:
    """Return the share of the image [N] that is outside of each box, which is the λ of the loss."""
    return 1 - boxes[:, 2] * boxes[:, 3] / image_size**2
