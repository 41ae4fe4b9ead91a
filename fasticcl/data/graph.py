"""The DALI graph: decode, resize, cut, flip, jitter, mix, normalise; one definition for CPU and GPU.

Only resizing has an operator of each: on a CPU DALI's takes three to four times as long as torch's.

It holds no random operator. What happens to an image is an input, fed beside its bytes, and so are its
label and λ: what belongs together leaves the graph together, however far it runs ahead.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, math, types

from fasticcl.config import Data
from fasticcl.data.dali_pipeline import GraphPipeline
from fasticcl.data.resize import resizer

Images = Literal["encoded", "decoded", "resident", "squares"]
"""What images are fed as: files, pixels, pixels that lie on the device of the graph already, or [S, S, 3]."""

Feed = Callable[[int], Sequence[Any]]
"""Called with 0, 1, 2, ...: returns a batch's inputs, stream after stream and then λ."""

Stream = Mapping[str, Any]
"""The graph's inputs for one stream, by name."""

# dtype and number of dimensions of what is fed per image of a stream.
_ENCODED = {"encoded": (types.UINT8, 1)}
_PIXELS = {"pixels": (types.UINT8, 3)}
_LABEL = {"label": (types.INT64, 0)}
_WINDOW = {"start": (types.INT32, 1), "shape": (types.INT32, 1)}
_CHOICES = {
    "size": (types.FLOAT, 1),
    "cut": (types.INT32, 1),
    "flip": (types.INT32, 0),
}
_COLORS = {"colors": (types.FLOAT, 1)}
_LAMBDA = (types.FLOAT, 0)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow and torchvision weigh grey


def build(
    feed: Feed,
    data: Data,
    *,
    mixed: bool,
    padded: bool,
    jitter: bool,
    batch_size: int,
    threads: int,
    prefetch: int,
    gpu: int | None,
    images: Images = "encoded",
    stream: Any = None,
) -> GraphPipeline:
    """Build the pipeline of one phase.

    Its outputs are image [B, S, S, 3] float32 and label [B] int64 of the first stream, then, when
    ``mixed``, the mixed image x_f = λ·x_h + (1 - λ)·x_t (equation 3), the label of the second stream
    and λ [B].

    Args:
        feed: source of the inputs.
        data: image size, normalisation and jitter settings.
        mixed: whether there are two streams, which are mixed.
        padded: whether cuts reach beyond the resized window, into black padding.
        jitter: whether colour factors apply; evaluation and undisturbed colours leave the operators out.
        batch_size: most images per stream in a batch.
        threads: threads that decode and augment.
        prefetch: batches prepared ahead.
        gpu: device number; None: the CPU backend.
        images: what they are fed as; decoded ones are [height, width, 3], squares are only normalised.
        stream: the CUDA stream on which resident images are made.
    """
    pipeline = GraphPipeline(
        batch_size=batch_size, num_threads=threads, device_id=gpu, prefetch_queue_depth=prefetch
    )
    with pipeline:
        streams, lam = inputs(feed, mixed=mixed, jitter=jitter, images=images, gpu=gpu, stream=stream)
        cut: list[Any] = []
        for each in streams:
            image = decode(each, data, gpu)
            image = image if images == "squares" else resize(image, each, data, padded, threads, gpu)
            cut.append(jitter_colors(image, each, gpu) if jitter else image)
        labels = [_to_device(each["label"], gpu) for each in streams]
        outputs = [normalise(cut[0], data), labels[0]]
        if mixed:
            lam = _to_device(lam, gpu)
            outputs += [normalise(mix(cut[0], cut[1], lam), data), labels[1], lam]
        pipeline.set_outputs(*outputs)
    pipeline.build()
    return pipeline


def decoded(encoded: Sequence[NDArray[np.uint8]], threads: int) -> list[NDArray[np.uint8]]:
    """Decode images [size] as the graph does on a CPU; return them as [height, width, 3] RGB.

    Raises:
        RuntimeError: one of them cannot be decoded.
    """
    # Of larger batches DALI 2.4 reads the headers on several threads, and one that it cannot read
    # ends the batch while the other threads still work on what it then frees.
    most = 4 * (threads + 1)
    chunks = [encoded[first : first + most] for first in range(0, len(encoded), most)]
    pipeline = Pipeline(batch_size=most, num_threads=threads, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        fed = fn.external_source(source=iter(chunks), batch=True, dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(fn.decoders.image(fed, output_type=types.RGB, adjust_orientation=False))
    pipeline.build()
    images: list[NDArray[np.uint8]] = []
    for chunk in chunks:
        (batch,) = pipeline.run()
        images += [np.array(batch.at(place)) for place in range(len(chunk))]
    return images


def decodes(encoded: NDArray[np.uint8]) -> bool:
    """Return whether an encoded image [size] can be decoded, by itself."""
    try:
        decoded([encoded], threads=1)
    except RuntimeError:
        return False
    return True


def inputs(
    feed: Feed,
    *,
    mixed: bool,
    jitter: bool,
    images: Images = "encoded",
    gpu: int | None = None,
    stream: Any = None,
) -> tuple[list[Stream], Any]:
    """Return what is fed: the streams and λ, or None where there is one stream."""
    first = (_ENCODED if images == "encoded" else _PIXELS) | _LABEL
    choices = {} if images == "squares" else _WINDOW | _CHOICES
    one = first | choices | (_COLORS if jitter else {})
    kinds = [*one.values()] * (2 if mixed else 1) + [_LAMBDA] * mixed
    resident = [place for place in range(0, len(kinds) - mixed, len(one)) if images == "resident"]
    others = [place for place in range(len(kinds)) if place not in resident]
    feed = lru_cache(maxsize=1)(feed)  # resident images have a source of their own, for the same batch
    fed = _source(feed, kinds, others, no_copy=True)
    if resident:
        # DALI copies them, on the stream that made them: the gathered pixels are free for the next batch.
        device = "cpu" if gpu is None else "gpu"
        fed |= _source(feed, kinds, resident, device=device, cuda_stream=stream or 0)
    begins = range(0, len(kinds) - mixed, len(one))
    streams: list[Stream] = [{name: fed[begin + k] for k, name in enumerate(one)} for begin in begins]
    return streams, fed[len(kinds) - 1] if mixed else None


def _source(
    feed: Feed, kinds: Sequence[tuple[Any, int]], places: list[int], **options: Any
) -> dict[int, Any]:
    """Return by its place what is fed there, dtype and number of dimensions as ``kinds`` has them."""

    def source(iteration: int) -> list[Any]:
        batch = feed(iteration)
        return [batch[place] for place in places]

    nodes = fn.external_source(
        source=source,
        num_outputs=len(places),
        batch=True,
        dtype=[kinds[place][0] for place in places],
        ndim=[kinds[place][1] for place in places],
        **options,
    )
    return dict(zip(places, nodes, strict=True))


def decode(stream: Stream, data: Data, gpu: int | None) -> Any:
    """Return the windows [H, W, 3] of a stream's images, 8-bit."""
    window = {"start": stream.get("start"), "shape": stream.get("shape"), "axes": [0, 1]}
    if "pixels" in stream:
        pixels = _to_device(fn.reinterpret(stream["pixels"], layout="HWC"), gpu)
        return fn.slice(pixels, **window) if "start" in stream else pixels
    mixed = {"device": "mixed", "hw_decoder_load": data.hw_decoder_load}
    return fn.decoders.image_slice(
        stream["encoded"],
        **window,
        output_type=types.RGB,
        adjust_orientation=False,  # conversion turned every image upright
        **({"device": "cpu"} if gpu is None else mixed),
    )


def resize(image: Any, stream: Stream, data: Data, padded: bool, threads: int, gpu: int | None) -> Any:
    """Return windows resized, cut and flipped, 8-bit [S, S, 3]."""
    side = data.image_size
    size, cut, flip = stream["size"], stream["cut"], stream["flip"]
    linear = {"interp_type": types.INTERP_LINEAR, "antialias": True}
    if padded:
        image = fn.resize(image, size=size, **linear)
        image = fn.slice(image, start=cut, shape=(side, side), axes=[0, 1], out_of_bounds_policy="pad")
        return fn.flip(image, horizontal=flip)
    if gpu is None:
        return fn.python_function(
            image,
            size,
            cut,
            flip,
            function=resizer(side, threads),
            batch_processing=True,
            output_layouts="HWC",
        )
    # One operator for all three; it takes the place of the cut as a share of the room that there is.
    place = cut / math.max(size - side, 1.0)
    return fn.resize_crop_mirror(
        image, size=size, **linear, crop=(side, side), crop_pos_y=place[0], crop_pos_x=place[1], mirror=flip
    )


def jitter_colors(image: Any, stream: Stream, gpu: int | None) -> Any:
    """Apply brightness, contrast and saturation factors as torchvision does, in this order.

    torchvision draws the order anew for every image; the three commute but for the clipping at black and
    white. It also cuts fractions off where DALI rounds, hence the half that is taken away.
    """
    colors = stream["colors"]
    image = fn.brightness(image, brightness=colors[0], brightness_shift=-0.5 / 255)
    contrast = _to_device(colors[1], gpu)
    channels = fn.reductions.mean(image, axes=[0, 1])
    grey = sum(weight * channels[i] for i, weight in enumerate(_LUMA))
    image = fn.cast(contrast * image + ((1.0 - contrast) * grey - 0.5), dtype=types.UINT8)
    return fn.saturation(image, saturation=colors[2])


def mix(image: Any, other: Any, lam: Any) -> Any:
    """Return λ·image + (1 - λ)·other.

    Mixing the 8-bit images and normalising the mix costs less than normalising three images; it is the
    same x_f, because normalising is affine and the weights add up to 1.
    """
    return lam * image + (1.0 - lam) * other


def normalise(image: Any, data: Data) -> Any:
    """Return images as float32 with the mean taken away, divided by the standard deviation."""
    return fn.crop_mirror_normalize(
        image,
        mean=[255 * value for value in data.mean],
        std=[255 * value for value in data.std],
        dtype=types.FLOAT,
        output_layout="HWC",
    )


def _to_device(value: Any, gpu: int | None) -> Any:
    return value if gpu is None else value.gpu()
