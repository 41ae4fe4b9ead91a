"""Resizing on a CPU, by torch's kernel for 8-bit images in several threads; graph and prediction call it.

On a CPU DALI's own takes three to four times as long; it stays for GPUs.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Images = list[NDArray[np.uint8]]
Values = list[NDArray[Any]]


def resizer(side: int, threads: int) -> Callable[[Images, Values, Values, Values], Images]:
    """Return a function of a batch that does what DALI's ``resize_crop_mirror`` does.

    It takes images [H, W, 3], the sizes [2] to which they are resized, the places [2] (top, left) of the
    square that is cut from them, and flips [] (1: mirrored), and returns images [side, side, 3].

    Args:
        side: height and width of the square, in pixels.
        threads: how many images are resized at a time.
    """
    pool = ThreadPoolExecutor(threads, "resize")

    def resize(images: Images, sizes: Values, cuts: Values, flips: Values) -> Images:
        batch = list(zip(images, sizes, cuts, flips, strict=True))
        squares = list(images)

        def share(first: int) -> None:
            squares[first::threads] = [
                resized_square(image, size.tolist(), cut.tolist(), bool(flip), side)
                for image, size, cut, flip in batch[first::threads]
            ]

        list(pool.map(share, range(threads)))  # the list raises what a thread raised
        return squares

    return resize


def resized_square(
    image: NDArray[np.uint8], size: Sequence[float], cut: Sequence[int], flip: bool, side: int
) -> NDArray[np.uint8]:
    """Return one image [H, W, 3] as `resizer` has it."""
    # A batch of one in channels_last, for which the kernel needs no copy.
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    height, width = size
    pixels = functional.interpolate(pixels, (int(height), int(width)), mode="bilinear", antialias=True)
    top, left = cut
    pixels = pixels[:, :, top : top + side, left : left + side]
    if flip:
        pixels = pixels.flip(3)
    return pixels[0].permute(1, 2, 0).numpy()
