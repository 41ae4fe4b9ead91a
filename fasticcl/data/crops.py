"""Crop geometry: the window of an image that is decoded, and the resize and centre crop of evaluation.

Windows are top, left, height and width in pixels of the stored image.
"""

import numpy as np
from numpy.typing import NDArray

from fasticcl.config import Data

_CROP_TRIES = 10  # as in torchvision's RandomResizedCrop


def whole(heights: NDArray[np.integer], widths: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return windows [B, 4] that cover whole images."""
    zeros = np.zeros_like(heights)
    return np.stack([zeros, zeros, heights, widths], axis=1).astype(np.int32)


def resized_crop_windows(
    rng: np.random.Generator,
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int32]:
    """Draw one window per image as in torchvision's RandomResizedCrop.

    The area is uniform in ``scale``, and the aspect ratio is log-uniform in ``ratio``. The first of ten tries
    that fits into the image is used. If none fits, the window is the largest centred one with the nearest
    allowed aspect ratio.

    Args:
        rng: the random generator.
        heights, widths: [B] size of each image in pixels.
        scale: smallest and largest area, as a fraction of the image.
        ratio: smallest and largest width divided by height.

    Returns:
        [B, 4] top, left, height, width.
    """
    size = len(heights)
    shape = (size, _CROP_TRIES)
    areas = rng.uniform(*scale, shape) * (heights * widths)[:, None]
    aspects = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), shape))
    tried_w = np.rint(np.sqrt(areas * aspects)).astype(np.int64)
    tried_h = np.rint(np.sqrt(areas / aspects)).astype(np.int64)
    fits = (tried_w > 0) & (tried_w <= widths[:, None]) & (tried_h > 0) & (tried_h <= heights[:, None])
    first = fits.argmax(axis=1)
    images = np.arange(size)
    fitted = fits[images, first]
    fallback_h, fallback_w = _centred(heights, widths, ratio)
    height = np.where(fitted, tried_h[images, first], fallback_h)
    width = np.where(fitted, tried_w[images, first], fallback_w)
    top = np.where(fitted, rng.integers(0, heights - height + 1), (heights - height) // 2)
    left = np.where(fitted, rng.integers(0, widths - width + 1), (widths - width) // 2)
    return np.stack([top, left, height, width], axis=1).astype(np.int32)


def _centred(
    heights: NDArray[np.int64], widths: NDArray[np.int64], ratio: tuple[float, float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    aspects = widths / heights
    height = np.where(aspects < ratio[0], np.rint(widths / ratio[0]), heights).astype(np.int64)
    width = np.where(aspects > ratio[1], np.rint(heights * ratio[1]), widths).astype(np.int64)
    return height.clip(1, heights), width.clip(1, widths)


def evaluation_crop(
    heights: NDArray[np.int64] | int, widths: NDArray[np.int64] | int, data: Data
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the resized size and the centre crop of evaluated images.

    The short side is resized to ``data.eval_resize``, and the square of ``data.image_size`` is cut from the
    centre. Both are rounded as in torchvision's Resize and CenterCrop. If ``eval_resize`` is 0, the whole
    image is resized to the square.

    Args:
        heights, widths: size of each image in pixels, [B] or scalars.
        data: provides ``image_size`` and ``eval_resize``.

    Returns:
        Sizes [B, 2] as height, width and cuts [B, 2] as top, left, in pixels, or both [2] for scalars.
    """
    original = np.stack([heights, widths], axis=-1).astype(np.int64)
    sizes = np.full_like(original, data.image_size)
    if data.eval_resize:
        sizes = original * data.eval_resize // original.min(axis=-1, keepdims=True)
    return sizes, np.rint((sizes - data.image_size) / 2).astype(np.int32)
