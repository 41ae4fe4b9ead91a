"""The specification of the DALI graph, with the order, the types and the values of its inputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types

from fasticcl.config import Data
from fasticcl.data.plan import BatchPlan, Phase, StreamPlan

ImageFormat = Literal["encoded", "decoded", "resident", "squares"]
"""Format of the images that the graph reads.

- encoded: bytes of JPEG or PNG files [size].
- decoded: RGB pixels [height, width, 3] in host memory.
- resident: RGB pixels that are already in the memory of the graph's device.
- squares: RGB pixels [S, S, 3] that are only normalised.
"""

Feed = Callable[[int], Sequence[Any]]
"""Returns the inputs of batch 0, 1, 2, ... in the order of the layout: stream after stream, then
`GraphSpec.mixing_layout`."""

Stream = Mapping[str, Any]
"""The graph's input nodes for one stream, by name."""


class ImageSource(Protocol):
    """A source of images for the graph: `Shards` for encoded images, `Cache` for decoded ones."""

    @property
    def image_format(self) -> ImageFormat:
        """Format of the images that `graph_input` returns."""
        ...

    @property
    def cuda_stream(self) -> Any:
        """CUDA stream on which `graph_input` gathers resident images, or None."""
        ...

    def graph_input(self, rows: NDArray[np.integer]) -> Any:
        """Return the images in these rows of the index."""
        ...


class _Input(NamedTuple):
    """One input of a stream: its type, its number of dimensions per image, and its values for a batch."""

    dtype: Any
    ndim: int
    values: Callable[[StreamPlan], NDArray[Any]] | None = None
    """None: the images, which do not come from the plan."""


_ENCODED = {"encoded": _Input(types.UINT8, 1)}
_PIXELS = {"pixels": _Input(types.UINT8, 3)}
_LABEL = {"label": _Input(types.INT64, 0, lambda stream: stream.labels)}
_GEOMETRY = {
    "start": _Input(types.INT32, 1, lambda stream: stream.windows[:, :2]),
    "shape": _Input(types.INT32, 1, lambda stream: stream.windows[:, 2:]),
    "size": _Input(types.FLOAT, 1, lambda stream: stream.sizes),
    "cut": _Input(types.INT32, 1, lambda stream: stream.cuts),
    "flip": _Input(types.INT32, 0, lambda stream: stream.flips),
}
_COLORS = {"colors": _Input(types.FLOAT, 1, lambda stream: stream.colors)}
_LAMBDA = _Input(types.FLOAT, 0)
_REGIONS = _Input(types.INT32, 2)


@dataclass(frozen=True)
class GraphSpec:
    """The properties of a phase that determine the operators and the inputs of its graph.

    Use `training`, `evaluation` or `prediction` to create one.
    """

    data: Data
    """Image size, normalisation and jitter settings."""
    paired: bool = False
    """If True, there are two streams, which are mixed as ``data.mixing`` specifies."""
    padded: bool = False
    """If True, cuts may reach beyond the resized window into black padding."""
    jitter: bool = False
    """If True, the colour factors are applied. If False, the graph has no operators for them."""
    image_format: ImageFormat = "encoded"
    cuda_stream: Any = None
    """CUDA stream on which resident images are gathered."""

    @classmethod
    def training(cls, data: Data, phase: Phase, source: ImageSource) -> "GraphSpec":
        """Return the graph of a training phase."""
        return cls(
            data,
            paired=phase == "interpolative",
            padded=data.crop == "pad",
            jitter=any(data.color_jitter),
            image_format=source.image_format,
            cuda_stream=source.cuda_stream,
        )

    @classmethod
    def evaluation(cls, data: Data, source: ImageSource) -> "GraphSpec":
        """Return the graph of an evaluation: one stream of centre crops."""
        return cls(data, image_format=source.image_format, cuda_stream=source.cuda_stream)

    @classmethod
    def prediction(cls, data: Data) -> "GraphSpec":
        """Return the graph of a prediction, which only normalises images [S, S, 3] resized by the caller."""
        return cls(data, image_format="squares")

    @property
    def layout(self) -> dict[str, _Input]:
        """The inputs of one stream, in the order in which they are fed."""
        images = _ENCODED if self.image_format == "encoded" else _PIXELS
        geometry = {} if self.image_format == "squares" else _GEOMETRY
        return images | _LABEL | geometry | (_COLORS if self.jitter else {})

    @property
    def mixing_layout(self) -> list[_Input]:
        """The inputs that both streams share: λ, and with CutMix positions and sizes of pasted regions."""
        regions = [_REGIONS, _REGIONS] if self.data.mixing == "cutmix" else []
        return [_LAMBDA, *regions] if self.paired else []

    def values(self, source: ImageSource, batch: BatchPlan) -> list[Any]:
        """Return the inputs of a batch, in the order of `input_nodes`.

        Raises:
            DamagedImages: images that changed since the conversion.
        """
        values = [
            source.graph_input(stream.rows)
            if entry.values is None
            else np.ascontiguousarray(entry.values(stream))
            for stream in batch.streams
            for entry in self.layout.values()
        ]
        if batch.lam is not None:
            values.append(batch.lam)
        if batch.boxes is not None:
            values += _pasted_regions(batch.boxes, self.data.image_size)
        return values


def _pasted_regions(boxes: NDArray[np.int32], image_size: int) -> list[NDArray[np.int32]]:
    """Return positions and sizes [B, 2, 2] of the whole first image and of a box [B, 4] of the second one."""
    image = np.array([0, 0, image_size, image_size], dtype=np.int32)
    regions = np.stack([np.broadcast_to(image, boxes.shape), boxes], axis=1)
    return [np.ascontiguousarray(regions[:, :, :2]), np.ascontiguousarray(regions[:, :, 2:])]


def input_nodes(spec: GraphSpec, feed: Feed, gpu: int | None) -> tuple[list[Stream], list[Any]]:
    """Create the input nodes of the current pipeline.

    Args:
        spec: determines the inputs.
        feed: returns their values, as `GraphSpec.values` does.
        gpu: device number, or None for the CPU backend.

    Returns:
        The nodes of each stream by name, and the nodes of `GraphSpec.mixing_layout`.
    """
    layout = spec.layout
    count = len(layout) * (2 if spec.paired else 1)
    inputs = [*layout.values()] * (2 if spec.paired else 1) + spec.mixing_layout
    starts = range(0, count, len(layout))
    resident = [*starts] if spec.image_format == "resident" else []
    others = [position for position in range(len(inputs)) if position not in resident]
    feed = lru_cache(maxsize=1)(feed)  # resident images have a separate source, which requests the same batch
    nodes = _source(feed, inputs, others, no_copy=True)
    if resident:
        # DALI copies them on the stream that gathers them, so the gathered pixels may be overwritten later.
        device = "cpu" if gpu is None else "gpu"
        nodes |= _source(feed, inputs, resident, device=device, cuda_stream=spec.cuda_stream or 0)
    streams: list[Stream] = [{name: nodes[start + k] for k, name in enumerate(layout)} for start in starts]
    return streams, [nodes[position] for position in range(count, len(inputs))]


def _source(feed: Feed, inputs: Sequence[_Input], positions: list[int], **options: Any) -> dict[int, Any]:
    """Return the nodes of the inputs at these positions, by position."""

    def source(iteration: int) -> list[Any]:
        batch = feed(iteration)
        return [batch[position] for position in positions]

    nodes = fn.external_source(
        source=source,
        num_outputs=len(positions),
        batch=True,
        dtype=[inputs[position].dtype for position in positions],
        ndim=[inputs[position].ndim for position in positions],
        **options,
    )
    return dict(zip(positions, nodes, strict=True))
