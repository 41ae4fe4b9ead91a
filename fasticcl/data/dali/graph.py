"""The DALI graph: decode, resize, cut, flip, jitter, mix and normalise, with one definition for CPU and GPU.

Only the resizing of cropped images and the colour jitter use different operators on each device, because on
a CPU some of DALI's operators take several times as long as torch or NumPy.

The graph contains no random operator. All random values of an image are inputs, fed together with its bytes,
its label and λ. They stay together for any number of prefetched batches.
"""

from typing import Any

from nvidia.dali import fn, math, types

from fasticcl.config import Data
from fasticcl.data.dali.color_jitter import jitter_colors
from fasticcl.data.dali.decoding import decoder_options
from fasticcl.data.dali.errors import DALI_ERRORS, explain
from fasticcl.data.dali.graph_inputs import Feed, GraphSpec, Stream, input_nodes
from fasticcl.data.dali.pipeline import GraphPipeline, PipelineOptions
from fasticcl.data.dali.resize import LINEAR, resizer


def build(feed: Feed, spec: GraphSpec, options: PipelineOptions) -> GraphPipeline:
    """Build the pipeline of one phase.

    Its outputs are image [B, S, S, 3] float32 and label [B] int64 of the first stream. If there are two
    streams, the second image, the label of the second stream and λ [B] follow. The second image is
    x_f = λ·x_h + (1 - λ)·x_t (equation 3) with ``data.mixing=mixup``, x_h with a box of x_t with cutmix, and
    x_t with none.

    Args:
        feed: source of the inputs.
        spec: the operators and the inputs.
        options: batch size, threads, prefetch and device.

    Raises:
        TrainingFailed: DALI cannot create the pipeline.
    """
    try:
        return _built(feed, spec, options)
    except DALI_ERRORS as error:
        raise explain(error) from error


def _built(feed: Feed, spec: GraphSpec, options: PipelineOptions) -> GraphPipeline:
    gpu = options.gpu
    pipeline = GraphPipeline(options)
    with pipeline:
        streams, mixing = input_nodes(spec, feed, gpu)
        images = [_augment(stream, spec, options) for stream in streams]
        labels = [_to_device(stream["label"], gpu) for stream in streams]
        outputs = [normalise(images[0], spec.data), labels[0]]
        if spec.paired:
            lam = _to_device(mixing[0], gpu)
            second = _second_image(images[0], images[1], lam, mixing[1:], spec.data)
            outputs += [normalise(second, spec.data), labels[1], lam]
        pipeline.set_outputs(*outputs)
    pipeline.build()
    return pipeline


def _augment(stream: Stream, spec: GraphSpec, options: PipelineOptions) -> Any:
    """Return the 8-bit images [S, S, 3] of a stream."""
    image = decode(stream, spec.data, options.gpu)
    if spec.image_format != "squares":
        image = resize(image, stream, spec, options)
    return jitter_colors(image, stream["colors"], options) if spec.jitter else image


def decode(stream: Stream, data: Data, gpu: int | None) -> Any:
    """Return the decoded windows of a stream's images, 8-bit [H, W, 3]."""
    window = {"start": stream.get("start"), "shape": stream.get("shape"), "axes": [0, 1]}
    if "pixels" in stream:
        pixels = _to_device(fn.reinterpret(stream["pixels"], layout="HWC"), gpu)
        return fn.slice(pixels, **window) if "start" in stream else pixels
    options = decoder_options(gpu, data.hw_decoder_load)
    if data.decode_regions:
        return fn.decoders.image_slice(stream["encoded"], **window, **options)
    return fn.slice(fn.decoders.image(stream["encoded"], **options), **window)


def resize(image: Any, stream: Stream, spec: GraphSpec, options: PipelineOptions) -> Any:
    """Return windows resized, cut and flipped, 8-bit [S, S, 3]."""
    side = spec.data.image_size
    size, cut, flip = stream["size"], stream["cut"], stream["flip"]
    if spec.padded:
        image = fn.resize(image, size=size, **LINEAR)
        image = fn.slice(image, start=cut, shape=(side, side), axes=[0, 1], out_of_bounds_policy="pad")
        return fn.flip(image, horizontal=flip)
    if options.gpu is None:
        return fn.python_function(
            image,
            size,
            cut,
            flip,
            function=resizer(side, options.threads),
            batch_processing=True,
            output_layouts="HWC",
        )
    # One operator does all three steps. It expects the position of the cut as a fraction of the free space.
    position = cut / math.max(size - side, 1.0)
    return fn.resize_crop_mirror(
        image,
        size=size,
        **LINEAR,
        crop=(side, side),
        crop_pos_y=position[0],
        crop_pos_x=position[1],
        mirror=flip,
    )


def _second_image(image: Any, other: Any, lam: Any, regions: list[Any], data: Data) -> Any:
    match data.mixing:
        case "mixup":
            return mix(image, other, lam)
        case "cutmix":
            positions, sizes = regions
            return paste(image, other, positions, sizes)
        case "none":
            return other


def mix(image: Any, other: Any, lam: Any) -> Any:
    """Return λ·image + (1 - λ)·other.

    Mixing the 8-bit images and normalising the mix costs less than normalising three images. It gives the
    same x_f, because normalisation is affine and the weights add up to 1.
    """
    return lam * image + (1.0 - lam) * other


def paste(image: Any, other: Any, positions: Any, sizes: Any) -> Any:
    """Return 8-bit images with a box of ``other`` in the same place.

    The operator is documented for both devices. On a GPU, this has not been tested yet.

    Args:
        image, other: images [S, S, 3].
        positions, sizes: [2, 2] top, left and height, width of the whole image and of the box.
    """
    return fn.multi_paste(image, other, in_anchors=positions, out_anchors=positions, shapes=sizes)


def normalise(image: Any, data: Data) -> Any:
    """Return images as float32, minus the mean and divided by the standard deviation."""
    return fn.crop_mirror_normalize(
        image,
        mean=[255 * value for value in data.mean],
        std=[255 * value for value in data.std],
        dtype=types.FLOAT,
        output_layout="HWC",
    )


def _to_device(value: Any, gpu: int | None) -> Any:
    return value if gpu is None else value.gpu()
