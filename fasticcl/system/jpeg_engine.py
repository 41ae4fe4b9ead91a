"""The hardware JPEG decoders of a GPU, as reported by nvJPEG."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import Any

_HARDWARE = 3  # NVJPEG_BACKEND_HARDWARE of nvjpeg.h
# NVJPEG_STATUS_ARCH_MISMATCH and NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED, as on a GPU without an engine
_NO_ENGINE = (7, 9)
_LIBRARY = "libnvjpeg.so.12"  # the library of DALI for CUDA 12, which nvImageCodec loads by this name


@dataclass(frozen=True)
class JpegEngines:
    """The JPEG engines of a GPU. DALI decodes without them, and does not report that they are missing."""

    count: int | None
    """Number of engines, or None if it is unknown."""
    cores: int = 0
    """Number of cores of each engine."""
    reason: str = ""
    """Reason why the number is unknown, without paths."""

    def describe(self) -> int | str:
        """Return the number of engines, or the reason why it is unknown."""
        return f"unknown: {self.reason}" if self.count is None else self.count


def query_jpeg_engines(load: Callable[[], Any] | None = None) -> JpegEngines:
    """Return the JPEG engines of the current CUDA device, as nvImageCodec determines them. Never raise.

    In a container, nvJPEG finds them only with the driver capability ``video``.

    Args:
        load: returns the nvJPEG library, or None to load the library that DALI uses.
    """
    try:
        return _query((load or _load)())
    except OSError:
        return JpegEngines(None, reason=f"{_LIBRARY} cannot be loaded")
    except AttributeError:
        return JpegEngines(None, reason="nvJPEG is too old to report them")
    except Exception as error:  # a record of the hardware must not end a run
        return JpegEngines(None, reason=type(error).__name__)


def _query(nvjpeg: Any) -> JpegEngines:
    handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
    status = nvjpeg.nvjpegCreateEx(_HARDWARE, None, None, 0, ctypes.byref(handle))
    if status in _NO_ENGINE:
        return JpegEngines(0)
    if status:
        return JpegEngines(None, reason=f"nvJPEG returned status {status}")
    try:
        status = nvjpeg.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
    finally:
        nvjpeg.nvjpegDestroy(handle)
    if status:
        return JpegEngines(None, reason=f"nvJPEG returned status {status}")
    return JpegEngines(engines.value, cores.value)


def _load() -> Any:
    """Return the nvJPEG library from its Python package, or else from the search path of the linker."""
    for package in distributions():
        if (package.metadata["Name"] or "").startswith("nvidia-nvjpeg"):
            for file in package.files or ():
                if file.name == _LIBRARY:
                    return ctypes.CDLL(str(package.locate_file(file)))
    return ctypes.CDLL(_LIBRARY)
