"""Colour jitter: brightness, contrast and saturation in this order, as in torchvision.

torchvision draws a new order for every image. The three commute except for the clipping at black and white.
Like Pillow, every step truncates to 8 bits. DALI rounds, which is why one half is subtracted.

On a CPU, DALI's casts and linear transformations to 8 bits round value by value and took longer than
decoding the image. Its brightness and contrast of 8-bit images are table lookups, which cost a twentieth. On
a CPU, the contrast therefore takes its centre as an argument, and NumPy computes the saturation.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, math, types

from fasticcl.data.dali.per_image import per_image
from fasticcl.data.dali.pipeline import PipelineOptions

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, the weights of Pillow and torchvision for grey
_TRUNCATE = -0.5  # added before DALI rounds
_CHUNK = 28_000
"""Number of pixels multiplied together. OpenBLAS multiplies up to 29,127 pixels by a matrix [3, 3] in the
calling thread. For more, it starts threads, which would compete with the other threads of the pool."""


def jitter_colors(image: Any, colors: Any, options: PipelineOptions) -> Any:
    """Return 8-bit images [H, W, 3] with the factors [3] of brightness, contrast and saturation applied."""
    image = fn.brightness(image, brightness=colors[0], brightness_shift=_TRUNCATE / 255)
    grey = fn.color_space_conversion(image, image_type=types.RGB, output_type=types.GRAY)
    centre = math.floor(fn.reductions.mean(grey) + 0.5)
    if options.gpu is not None:
        return _contrast_and_saturation(image, centre, colors, colors[1].gpu())
    image = fn.brightness_contrast(
        image, contrast=colors[1], contrast_center=centre, brightness_shift=_TRUNCATE / 255
    )
    return fn.python_function(
        image,
        colors[2],
        function=per_image(saturated, options.threads, "saturation"),
        batch_processing=True,
        output_layouts="HWC",
    )


def _contrast_and_saturation(image: Any, centre: Any, colors: Any, contrast: Any) -> Any:
    """Return images with contrast and saturation applied, by operators without a centre per image.

    DALI's contrast operator needs the centre in host memory, and ``centre`` is in the memory of the device.

    Args:
        image: 8-bit images [H, W, 3].
        centre: grey level that the contrast does not change [].
        colors: factors [3] in host memory.
        contrast: factor of the contrast [], in the memory of ``image``.
    """
    image = fn.cast(contrast * image + ((1.0 - contrast) * centre + _TRUNCATE), dtype=types.UINT8)
    return fn.saturation(image, saturation=colors[2])


def saturated(image: NDArray[np.uint8], saturation: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return one image [H, W, 3] with a factor [] of saturation applied."""
    factor = float(saturation)
    # [3, 3] from the channels to their distance from grey times the factor, plus grey. The last factor keeps
    # results that are whole numbers, such as those of grey pixels, from being truncated to one level less.
    luma = np.array(_LUMA)[:, None]
    matrix = ((factor * np.eye(3) + (1 - factor) * luma) * (1 + 2**-16)).astype(np.float32)
    pixels = image.reshape(-1, 3)
    result = np.empty_like(pixels)
    for first in range(0, len(pixels), _CHUNK):
        levels = pixels[first : first + _CHUNK].astype(np.float32) @ matrix
        np.clip(levels, 0, 255, out=levels)
        result[first : first + _CHUNK] = levels
    return result.reshape(image.shape)
