"""fasticcl's DALI graph on repeated batches, to measure the cost of the Python code around it.

Planning, reading and checksums are excluded from the measurement. The inputs are the first batches of the
loader, so decoding, cropping and mixing cost the same as in the loader.
"""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from _peer import Pairs, Settings, Variants, main
from fasticcl_loader import loader_of

from fasticcl.data.dali import graph
from fasticcl.data.dali.graph_inputs import Feed, GraphSpec
from fasticcl.data.dali.pipeline import PipelineOptions
from fasticcl.data.loader import Loader

REPLAYED = 32  # batches


def variants(settings: Settings) -> Variants:
    return {f"the graph, fed with {REPLAYED} batches": lambda: _batches(loader_of(settings))}


def _batches(loader: Loader) -> Iterator[Pairs]:
    pipeline = _replaying_pipeline(loader)
    while True:
        yield Pairs(*pipeline.tensors())


def _replaying_pipeline(loader: Loader) -> Any:
    """Return the loader's own pipeline, with inputs that were made beforehand."""
    build = graph.build

    def build_replaying(feed: Feed, spec: GraphSpec, options: PipelineOptions) -> Any:
        inputs = [feed(iteration) for iteration in range(REPLAYED)]
        return build(lambda iteration: inputs[iteration % REPLAYED], spec, options)

    with patch.object(graph, "build", build_replaying):
        pipeline, _ = loader._pipeline("interpolative", 0)
    return pipeline


if __name__ == "__main__":
    main(variants, ["torch", "nvidia-dali-cuda120", "numpy"])
