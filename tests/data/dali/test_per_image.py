"""Functions of one image, applied to batches by several threads."""

import threading

import numpy as np
import pytest

from fasticcl.data.dali.per_image import per_image

IMAGES = [np.full((2, 2, 3), level, np.uint8) for level in range(5)]


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
def test_results_are_in_the_order_of_the_images(threads):
    add = per_image(lambda image, value: image + value, threads, "add")
    results = add(IMAGES, [np.uint8(value) for value in (10, 20, 30, 40, 50)])
    assert [image[0, 0, 0] for image in results] == [10, 21, 32, 43, 54]


def test_images_are_computed_in_the_given_number_of_threads():
    together = threading.Barrier(2, timeout=20)

    def wait(image):
        together.wait()
        return image

    assert len(per_image(wait, 2, "wait")(IMAGES[:2])) == 2


def test_exception_in_a_thread_is_raised_by_the_caller():
    def fail(image):
        if image[0, 0, 0] == 3:
            raise ValueError("image 3")
        return image

    with pytest.raises(ValueError, match="image 3"):
        per_image(fail, 2, "fail")(IMAGES)
