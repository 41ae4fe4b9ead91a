"""Kinds and texts of DALI errors.

Some errors are provoked on the CPU. Those of a GPU are quoted from issues of NVIDIA/DALI and from the sources
of DALI (include/dali/core/cuda_error.h) and nvImageCodec (extensions/nvjpeg).
"""

import re

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn, types

from fasticcl.data.dali.errors import BatchFailed, error_kind, error_reason, explain
from fasticcl.errors import TrainingFailed
from tests.support.damaged_shards import UNDECODABLE
from tests.support.images import encode, noise


def in_operator(reason, operator="Mixed operator `nvidia.dali.fn.decoders.image_slice`"):
    """Return the message of DALI 2.4 for an error in an operator."""
    return (
        f"Critical error in pipeline:\nCritical error in pipeline:\nError in {operator},\n"
        "which was used in the pipeline definition with the following traceback:\n\n"
        '  File "graph.py", line 122, in decode\n    return fn.decoders.image_slice(\n\n'
        f"encountered:\n\n{reason}\n"
        "Current pipeline object is no longer valid.\nCurrent pipeline object is no longer valid."
    )


MESSAGES = {
    # CUDABadAlloc of cuda_error.h, as in issue 1137
    "gpu memory": (in_operator("Can't allocate 129499136 bytes on device 0."), "memory"),
    "pinned memory": (in_operator("Can't allocate 67108864 bytes on host."), "memory"),
    # issue 2836, in the older form
    "cuda allocation": (
        "Critical error in pipeline:\nError when executing Mixed operator ImageDecoder encountered:\n"
        "CUDA allocation failed\nCurrent pipeline object is no longer valid.",
        "memory",
    ),
    # issue 144, without an operator
    "no operator": (
        "Critical error in pipeline: CUDA allocation failed\nCurrent pipeline object is no longer valid.",
        "memory",
    ),
    # issue 1434, with a stack trace
    "nvjpeg allocator": (
        "Critical error in pipeline: Error in thread 0: [/opt/dali/dali/pipeline/operators/decoder/nvjpeg/"
        'decoupled_api/nvjpeg_decoder_decoupled_api.h:355] NVJPEG error "5" : '
        "NVJPEG_STATUS_ALLOCATOR_FAILURE n02130308/ILSVRC2012_val_00033687.JPEG\n"
        "Stacktrace (7 entries):\n[frame 0]: /usr/lib/python3.7/site-packages/libdali_operators.so(+0x3979)",
        "memory",
    ),
    # CUDAError of cuda_error.h. CUDA also reports exhausted memory with this form for other calls.
    "cuda out of memory": (
        in_operator("CUDA driver API error CUDA_ERROR_OUT_OF_MEMORY (2):\nout of memory"),
        "memory",
    ),
    "torch": (
        in_operator("DLTensorPythonFunction error: OutOfMemoryError: CUDA out of memory. Tried to"),
        "memory",
    ),
    "allocator status": (in_operator("nvImageCodec failure: '#15'"), "memory"),
    # issue 6149
    "cuda argument": (
        in_operator("Error in thread 0: CUDA runtime API error cudaErrorInvalidValue (1):\ninvalid argument"),
        "device",
    ),
    # issue 4393
    "illegal address": (
        in_operator(
            "CUDA runtime API error cudaErrorIllegalAddress (700):\nan illegal memory access was encountered"
        ),
        "device",
    ),
    # raised by torch when a result is read
    "torch illegal address": (
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously "
        "reported at some other API call",
        "device",
    ),
    "cuda call status": (in_operator("nvImageCodec failure: '#21'"), "device"),
    # strings of libdali_core.so and libdali_operators.so 2.4
    "no driver": (
        "Failed to load libcuda.so. Check your library paths and if the driver is installed correctly.",
        "device",
    ),
    "no cuda": (
        'Assert on "!params.device_id.has_value() || cuInitChecked()" failed: You are trying to create a GPU '
        "DALI pipeline while CUDA is not available. Please install CUDA",
        "device",
    ),
    "old driver": (in_operator("CUDA driver version is insufficient for CUDA runtime version"), "device"),
    "no nvimgcodec": (
        "Critical error when building pipeline:\nError in CPU operator `nvidia.dali.fn.decoders.image`,\n"
        'which was used in the pipeline definition with the following traceback:\n\n  File "a.py", line 1\n\n'
        "encountered:\n\ndlopen libnvimgcodec.so failed!. Please install nvimagecodec: See "
        "https://developer.nvidia.com/nvimgcodec-downloads or simply do `pip install nvimgcodec`.\n"
        "Current pipeline object is no longer valid.",
        "library",
    ),
    # libnvjpeg_ext.so of nvImageCodec 0.9
    "no nvjpeg": (
        "Failed to load nvjpeg library! Please install CUDA toolkit or, if using nvImageCodec's Python "
        "distribution, the nvJPEG python wheel (e.g. python -m pip install nvidia-nvjpeg-cu12).",
        "library",
    ),
    # nvImageCodec issue 17
    "no decoder": ("[ERROR] [nvimgcodec] Could not create decoder", "library"),
    # issue 2649
    "unregistered": ('Operator "ImageDecoder" not registered for mixed.', "library"),
    # image_decoder.h of DALI, and issue 3084
    "sample": (in_operator("Failed to decode sample #7 : "), "image"),
    "nvjpeg unsupported": ('NVJPEG error "4" : NVJPEG_STATUS_JPEG_NOT_SUPPORTED image.jpg', "image"),
    "unknown status": (in_operator("nvImageCodec failure: '#8'"), "other"),
    "unknown": (in_operator("something else"), "other"),
}


@pytest.mark.parametrize(("message", "kind"), MESSAGES.values(), ids=MESSAGES.keys())
def test_error_kind_and_one_line_reason(message, kind):
    reason = error_reason(RuntimeError(message))
    assert error_kind(reason) == kind
    assert not re.search(r"\n|Critical error|no longer valid|Stacktrace|/opt/dali|graph\.py", reason)
    failure = explain(RuntimeError(message))
    assert isinstance(failure, BatchFailed) == (kind in ("image", "other"))
    assert reason.rstrip(".") in str(failure)


def test_reason_is_the_text_of_dali():
    reasons = {name: error_reason(RuntimeError(message)) for name, (message, _) in MESSAGES.items()}
    assert reasons["gpu memory"] == "Can't allocate 129499136 bytes on device 0."
    assert reasons["cuda allocation"] == reasons["no operator"] == "CUDA allocation failed"
    assert reasons["cuda argument"] == "CUDA runtime API error cudaErrorInvalidValue (1): invalid argument"
    assert reasons["sample"] == "Failed to decode sample #7"
    assert error_reason(RuntimeError(in_operator("x" * 900))) == "x" * 300 + "…"
    assert error_reason(MemoryError()) == "MemoryError"


def test_memory_error_without_text_is_recognised():
    failure = explain(MemoryError())
    assert type(failure) is TrainingFailed
    assert str(failure).startswith("Out of memory in DALI: MemoryError. Use a smaller --batch-size")


def raised(outputs, gpu=None):
    """Return the error of a pipeline whose outputs a function defines."""

    def run():
        pipeline = Pipeline(batch_size=2, num_threads=2, device_id=gpu, prefetch_queue_depth=1)
        with pipeline:
            pipeline.set_outputs(outputs())
        pipeline.build()
        pipeline.run()

    with pytest.raises(RuntimeError) as error:
        run()
    return error.value


def decode_window(encoded, side=8):
    files = fn.external_source(
        source=lambda: [np.frombuffer(encoded, np.uint8)] * 2, batch=True, dtype=types.UINT8
    )
    return fn.decoders.image_slice(files, start=[0, 0], shape=[side, side], axes=[0, 1])


@pytest.mark.parametrize("damage", UNDECODABLE.values(), ids=UNDECODABLE.keys())
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_real_damaged_images_are_image_errors(image_format, damage):
    image = damage(encode(noise(np.random.default_rng(0), 40, 44), image_format))
    assert error_kind(error_reason(raised(lambda: decode_window(image)))) == "image"


def test_real_window_outside_of_the_image_is_an_image_error():
    image = encode(noise(np.random.default_rng(0), 40, 44), "PNG")
    reason = error_reason(raised(lambda: decode_window(image, side=80)))
    assert reason == "The cropping window [0..80, 0..80] is not valid for image dimensions [40 x 44]"
    assert error_kind(reason) == "image"


def test_real_failed_allocation_is_a_memory_error():
    reason = error_reason(raised(lambda: fn.random.uniform(shape=[2**20, 2**20])))
    assert (reason, error_kind(reason)) == ("std::bad_alloc", "memory")


def test_real_error_in_a_python_function():
    def of_function(error):
        def fail(_):
            raise error

        images = fn.external_source(source=lambda: [np.zeros(3, np.uint8)] * 2, batch=True)
        return error_reason(raised(lambda: fn.python_function(images, function=fail)))

    reason = of_function(ValueError("bad size"))
    assert (reason, error_kind(reason)) == ("ValueError: bad size", "other")
    assert error_kind(of_function(MemoryError("Unable to allocate 64.0 TiB"))) == "memory"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the error of a machine without a GPU")
def test_real_pipeline_without_a_gpu_is_a_device_error():
    error = raised(lambda: fn.random.uniform(shape=[2]).gpu(), gpu=0)
    assert error_kind(error_reason(error)) == "device"
