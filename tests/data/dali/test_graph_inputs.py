"""The inputs of the graph: their order, their types and the number of times that they are requested."""

import numpy as np
import pytest
from nvidia.dali import pipeline_def, types

from fasticcl.config import Data
from fasticcl.data.dali.graph_inputs import GraphSpec, input_nodes
from fasticcl.data.plan import PHASES, Plan
from fasticcl.shards.reader import INDEX_DTYPE

GEOMETRY = ["start", "shape", "size", "cut", "flip"]
NUMPY_TYPES = {types.UINT8: np.uint8, types.INT32: np.int32, types.INT64: np.int64, types.FLOAT: np.float32}


class RowImages:
    """A source whose images are encoded as 3 bytes that contain the row."""

    cuda_stream = None

    def __init__(self, image_format="encoded"):
        self.image_format = image_format

    def graph_input(self, rows):
        shape = (3,) if self.image_format == "encoded" else (1, 1, 3)
        return [np.full(shape, row, dtype=np.uint8) for row in rows]


def make_plan(**settings):
    index = np.zeros(12, dtype=INDEX_DTYPE)
    index["label"] = np.arange(12) // 4
    index["height"], index["width"] = 40, 30
    data = Data(dataset="test", dir="unused", **settings)
    return data, Plan(index, [4, 4, 4], data, batch_size=4, seed=0)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("jitter", "mixing"), [((0.0, 0.0, 0.0), "mixup"), ((0.0, 0.4, 0.0), "none"), ((0.0, 0.0, 0.0), "cutmix")]
)
def test_values_have_the_declared_types_and_dimensions(phase, jitter, mixing):
    data, plan = make_plan(color_jitter=jitter, mixing=mixing)
    spec = GraphSpec.training(data, phase, RowImages())
    assert [*spec.layout] == ["encoded", "label", *GEOMETRY, *(["colors"] if any(jitter) else [])]
    planned = plan.batch(phase, 0, 0)
    values = spec.values(RowImages(), planned)
    entries = [*spec.layout.values()] * len(planned.streams)
    entries += spec.mixing_layout
    assert len(values) == len(entries)
    for entry, batch in zip(entries, values, strict=True):
        assert len(batch) == 4
        for value in batch:
            assert np.ndim(value) == entry.ndim
            assert value.dtype == NUMPY_TYPES[entry.dtype]
    if phase == "interpolative":
        count = 2 * len(spec.layout)
        assert values[count] is planned.lam
        assert len(values) == count + (3 if mixing == "cutmix" else 1)
        agnostic, aware = values[0], values[len(spec.layout)]
        assert [image[0] for image in agnostic] == planned.agnostic.rows.tolist()
        assert [image[0] for image in aware] == planned.aware.rows.tolist()


def test_cutmix_pastes_the_whole_first_image_and_then_a_box_of_the_second():
    data, plan = make_plan(mixing="cutmix", lambda_per="sample")
    planned = plan.batch("interpolative", 0, 0)
    *_, positions, sizes = GraphSpec.training(data, "interpolative", RowImages()).values(RowImages(), planned)
    for position, size, (top, left, height, width) in zip(positions, sizes, planned.boxes, strict=True):
        assert position.tolist() == [[0, 0], [top, left]]
        assert size.tolist() == [[224, 224], [height, width]]


def test_layout_depends_on_the_image_format():
    data, _ = make_plan(color_jitter=(0.4, 0.4, 0.4))
    assert [*GraphSpec.prediction(data).layout] == ["pixels", "label"]
    for image_format in ("decoded", "resident"):
        spec = GraphSpec.evaluation(data, RowImages(image_format))
        assert [*spec.layout] == ["pixels", "label", *GEOMETRY]  # an evaluation has no colour jitter


@pytest.mark.parametrize("crop", ["pad", "random_resized"])
def test_only_training_crops_are_padded(crop):
    data, _ = make_plan(crop=crop)
    assert GraphSpec.training(data, "warmup", RowImages()).padded == (crop == "pad")
    assert not GraphSpec.evaluation(data, RowImages()).padded


@pytest.mark.parametrize(
    ("image_format", "mixing"), [("decoded", "mixup"), ("resident", "mixup"), ("resident", "cutmix")]
)
def test_nodes_return_the_values_and_each_batch_is_requested_once(image_format, mixing):
    data, plan = make_plan(mixing=mixing)
    source = RowImages(image_format)
    spec = GraphSpec.training(data, "interpolative", source)
    requested = []

    def feed(iteration):
        requested.append(iteration)
        return spec.values(source, plan.batch("interpolative", 0, iteration))

    @pipeline_def(batch_size=4, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph():
        (agnostic, aware), both = input_nodes(spec, feed, gpu=None)
        return *agnostic.values(), *aware.values(), *both

    pipeline = graph()
    pipeline.build()
    for step in range(3):
        expected = spec.values(source, plan.batch("interpolative", 0, step))
        for output, values in zip(pipeline.run(), expected, strict=True):
            assert np.array_equal(output.as_array(), np.stack(values))
    assert requested == [*range(len(requested))]
