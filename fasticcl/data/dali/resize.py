"""Resizing on a CPU: torch's kernel for 8-bit images, for the graph and for prediction, and DALI's operator.

On a CPU, DALI's operator takes three to four times as long, so the graph uses it only on GPUs and for padded
crops.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from torch.nn import functional

from fasticcl.data.dali.errors import DALI_ERRORS, explain
from fasticcl.data.dali.per_image import Images, per_image

LINEAR = {"interp_type": types.INTERP_LINEAR, "antialias": True}
"""Options of DALI's resizing operators in the graph."""

Values = list[NDArray[Any]]


def resizer(side: int, threads: int) -> Callable[[Images, Values, Values, Values], Images]:
    """Return a function that resizes a batch like DALI's ``resize_crop_mirror``.

    Its arguments are lists with one entry per image: images [H, W, 3], resized sizes [2], positions [2] (top,
    left) of the square in the resized image, and flips [] (1: mirrored). It returns images [side, side, 3].

    Args:
        side: height and width of the square, in pixels.
        threads: number of images resized at a time.
    """

    def resize(
        image: NDArray[np.uint8], size: NDArray[Any], cut: NDArray[Any], flip: NDArray[Any]
    ) -> NDArray[np.uint8]:
        return resized_square(image, size.tolist(), cut.tolist(), bool(flip), side)

    return per_image(resize, threads, "resize")


def resized_square(
    image: NDArray[np.uint8], size: Sequence[float], cut: Sequence[int], flip: bool, side: int
) -> NDArray[np.uint8]:
    """Return one image [H, W, 3] resized, cut and flipped to [side, side, 3], as by `resizer`."""
    # A batch of one image in channels_last, which the kernel does not need to copy.
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    height, width = size
    pixels = functional.interpolate(pixels, (int(height), int(width)), mode="bilinear", antialias=True)
    top, left = cut
    pixels = pixels[:, :, top : top + side, left : left + side]
    if flip:
        pixels = pixels.flip(3)
    return pixels[0].permute(1, 2, 0).numpy()


def resized_by_dali(images: Sequence[NDArray[np.uint8]], side: int, threads: int) -> Images:
    """Return RGB images [side, side, 3] from images [height, width, 3], resized as before a padded crop.

    Raises:
        TrainingFailed: DALI failed, for example because memory is exhausted.
    """
    pipeline = Pipeline(batch_size=len(images), num_threads=threads, device_id=None, prefetch_queue_depth=1)
    try:
        with pipeline:
            pixels = fn.external_source(
                source=iter([images]), batch=True, dtype=types.UINT8, ndim=3, layout="HWC"
            )
            pipeline.set_outputs(fn.resize(pixels, size=(side, side), **LINEAR))
        pipeline.build()
        (batch,) = pipeline.run()
    except DALI_ERRORS as error:
        raise explain(error) from error
    return [np.array(batch.at(position)) for position in range(len(images))]
