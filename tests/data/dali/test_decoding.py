"""Search for undecodable images in a batch. The GPU decoder is replaced by a fake."""

import numpy as np
import pytest

from fasticcl.data.dali.decoding import Decoder, decoded, decoder_options, undecodable
from fasticcl.data.dali.errors import BatchFailed
from fasticcl.errors import TrainingFailed
from tests.support.damaged_shards import UNDECODABLE
from tests.support.images import encode, noise
from tests.support.processes import Child

RNG = np.random.default_rng(0)
JPEGS = [encode(noise(RNG, 40, 44), "JPEG") for _ in range(5)]


def batch(size, *bad, kind="second half gone"):
    """Return encoded images, of which those at some positions are damaged."""
    images = [JPEGS[position % len(JPEGS)] for position in range(size)]
    for position in bad:
        images[position] = UNDECODABLE[kind](images[position])
    return [np.frombuffer(image, np.uint8) for image in images]


@pytest.mark.parametrize("kind", ["second half gone", "html"])
@pytest.mark.parametrize(
    ("size", "bad"),
    [(1, []), (1, [0]), (60, []), (60, [59]), (60, [0, 7, 8, 31, 32]), (9, [*range(9)])],
    ids=str,
)
def test_undecodable_images_are_found(size, bad, kind):
    assert undecodable(batch(size, *bad, kind=kind), Decoder(threads=2)) == bad


def undecodable_in_large_batches():
    return [undecodable(batch(64, 5, kind="html"), Decoder(threads=2)) for _ in range(20)]


def test_header_that_cannot_be_parsed_does_not_crash_the_process(tmp_path):
    """DALI parses the headers of a larger batch on several threads, which crashes within a few attempts."""
    assert Child(tmp_path / "log", undecodable_in_large_batches).result() == [[5]] * 20


@pytest.fixture
def pipelines(monkeypatch):
    """The number of images and the device of each pipeline that is created."""
    created = []

    def counted(self, encoded, size):
        created.append((len(encoded), self.gpu))
        return create(self, encoded, size)

    create = Decoder._batches
    monkeypatch.setattr(Decoder, "_batches", counted)
    return created


def test_search_splits_only_chunks_that_fail(pipelines):
    assert undecodable(batch(120, 50), Decoder(threads=2)) == [50]
    assert len(pipelines) <= 1 + 1 + 2 * 5  # the whole batch, the rest of it, and the halves of a chunk of 31


class FakeGpu:
    """Decodes everything except some images, with the same chunks as DALI."""

    def __init__(self, monkeypatch, rejected, error="Failed to decode sample #0 : "):
        self.rejected, self.error, self.pipelines = {id(image) for image in rejected}, error, 0
        on_cpu = Decoder._batches

        def batches(decoder, encoded, size):
            return on_cpu(decoder, encoded, size) if decoder.gpu is None else self.decode(encoded, size)

        monkeypatch.setattr(Decoder, "_batches", batches)

    def decode(self, encoded, size):
        self.pipelines += 1
        for first in range(0, len(encoded), size):
            chunk = encoded[first : first + size]
            if any(id(image) in self.rejected for image in chunk):
                raise RuntimeError(f"Critical error in pipeline:\nencountered:\n\n{self.error}\n")
            yield chunk


def test_gpu_decides_which_images_are_undecodable(monkeypatch):
    images = batch(60, 5, 20, 40)
    gpu = FakeGpu(monkeypatch, [images[20], images[40], images[41]])  # it accepts 5 and rejects 41
    assert undecodable(images, Decoder(threads=2, gpu=0)) == [20, 40, 41]
    assert gpu.pipelines <= 3 + 3 + 2 * 2 * 5


def test_gpu_without_own_rejections_needs_few_pipelines(monkeypatch):
    images = batch(60, 5, 20)
    gpu = FakeGpu(monkeypatch, [images[5], images[20]])
    assert undecodable(images, Decoder(threads=2, gpu=0)) == [5, 20]
    assert gpu.pipelines == 3


def test_gpu_that_rejects_many_images_is_at_fault(monkeypatch):
    images = batch(60)
    FakeGpu(monkeypatch, images)
    with pytest.raises(TrainingFailed, match="The GPU cannot decode more than 8 images of a batch"):
        undecodable(images, Decoder(threads=2, gpu=0))


@pytest.mark.parametrize(
    "error", ["Can't allocate 1024 bytes on device 0.", "CUDA runtime API error cudaErrorX (1)"]
)
def test_search_ends_if_the_gpu_fails(monkeypatch, error):
    images = batch(60)
    gpu = FakeGpu(monkeypatch, images, error)
    with pytest.raises(TrainingFailed, match=error.split("(")[0].rstrip(". ")) as failed:
        undecodable(images, Decoder(threads=2, gpu=0))
    assert not isinstance(failed.value, BatchFailed)
    assert gpu.pipelines == 1


def test_decoded_images_are_in_order():
    images = decoded(batch(30), threads=2)
    assert [image.shape for image in images] == [(40, 44, 3)] * 30
    assert all(np.array_equal(images[position], images[position % 5]) for position in range(30))
    assert not np.array_equal(images[0], images[1])
    with pytest.raises(BatchFailed, match=r"DALI cannot decode a batch: (Failed|nvImageCodec)"):
        decoded(batch(30, 17), threads=2)


def test_gpu_decodes_with_the_jpeg_engine_and_the_cpu_without():
    assert decoder_options(None, 0.25)["device"] == "cpu"
    assert decoder_options(0, 0.25).items() >= {"device": "mixed", "hw_decoder_load": 0.25}.items()
    assert "hw_decoder_load" not in decoder_options(None, 0.25)
