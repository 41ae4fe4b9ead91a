"""Query of the JPEG engines with fake nvJPEG libraries."""

import pytest
import torch

from fasticcl.system.jpeg_engine import JpegEngines, query_jpeg_engines


class FakeNvjpeg:
    """nvJPEG with given status codes, which counts open handles."""

    def __init__(self, created=0, queried=0, engines=1, cores=7):
        self.created, self.queried, self.values, self.handles = created, queried, (engines, cores), 0

    def nvjpegCreateEx(self, backend, _device, _pinned, flags, handle):
        assert (backend, flags) == (3, 0)
        if not self.created:
            self.handles += 1
            handle._obj.value = 1234
        return self.created

    def nvjpegGetHardwareDecoderInfo(self, handle, engines, cores):
        assert handle.value == 1234
        engines._obj.value, cores._obj.value = self.values
        return self.queried

    def nvjpegDestroy(self, handle):
        self.handles -= handle.value == 1234
        return 0


class OldNvjpeg:
    """nvJPEG from before the query existed."""

    nvjpegCreateEx = FakeNvjpeg.nvjpegCreateEx
    nvjpegDestroy = FakeNvjpeg.nvjpegDestroy
    created = handles = 0


@pytest.mark.parametrize(
    ("nvjpeg", "engines", "description"),
    [
        (FakeNvjpeg(engines=8, cores=1), JpegEngines(8, 1), 8),
        (FakeNvjpeg(created=7), JpegEngines(0), 0),
        (FakeNvjpeg(created=9), JpegEngines(0), 0),
        (
            FakeNvjpeg(created=6),
            JpegEngines(None, 0, "nvJPEG returned status 6"),
            "unknown: nvJPEG returned status 6",
        ),
        (
            FakeNvjpeg(queried=8),
            JpegEngines(None, 0, "nvJPEG returned status 8"),
            "unknown: nvJPEG returned status 8",
        ),
        (
            OldNvjpeg(),
            JpegEngines(None, 0, "nvJPEG is too old to report them"),
            "unknown: nvJPEG is too old to report them",
        ),
    ],
)
def test_engines_or_the_reason_why_they_are_unknown(nvjpeg, engines, description):
    assert query_jpeg_engines(lambda: nvjpeg) == engines
    assert engines.describe() == description
    assert nvjpeg.handles == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("/home/someone/libnvjpeg.so"), "libnvjpeg.so.12 cannot be loaded"),
        (ValueError("x"), "ValueError"),
    ],
)
def test_query_never_raises_and_names_no_path(error, reason):
    def load():
        raise error

    assert query_jpeg_engines(load) == JpegEngines(None, reason=reason)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the result on a machine without a GPU")
def test_real_library_without_a_gpu_reports_a_status():
    assert "nvJPEG returned status" in query_jpeg_engines().reason
