"""Functions of one image, applied to the batches of a Python operator by several threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = list[NDArray[np.uint8]]


def per_image(function: Callable[..., NDArray[np.uint8]], threads: int, name: str) -> Callable[..., Images]:
    """Return a function that applies ``function`` to every image of a batch.

    Its arguments are lists with one entry per image: the arguments of ``function``.

    Args:
        function: returns an image.
        threads: number of images computed at a time.
        name: prefix of the names of the threads.
    """
    pool = ThreadPoolExecutor(threads, name)

    def apply(*arguments: list[NDArray[Any]]) -> Images:
        batch = list(zip(*arguments, strict=True))
        results: Images = list(arguments[0])

        def share(first: int) -> None:
            results[first::threads] = [function(*entry) for entry in batch[first::threads]]

        list(pool.map(share, range(threads)))  # list() raises the exceptions of the threads
        return results

    return apply
