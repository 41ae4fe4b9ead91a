"""Steps that may fail in any way, also by ending the process: they run in one of their own.

``python -m fasticcl.doctor.probes STEP…`` writes a line of JSON after each step.
"""

import ctypes
import json
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import distributions
from typing import Any

from fasticcl.doctor.test_picture import JPEG, colors

_HARDWARE = 3  # NVJPEG_BACKEND_HARDWARE of nvjpeg.h
_NO_ENGINE = (7, 9)  # its NVJPEG_STATUS_ARCH_MISMATCH and _IMPLEMENTATION_NOT_SUPPORTED


def torch() -> dict[str, Any]:
    """Import torch."""
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda or ""}


def torchvision() -> dict[str, Any]:
    """Import torchvision."""
    import torchvision

    return {"version": torchvision.__version__}


def torch_decodes() -> dict[str, Any]:
    """Decode with torchvision on the CPU."""
    import torch
    from torchvision.io import decode_jpeg

    channels = torch.as_tensor(decode_jpeg(torch.frombuffer(bytearray(JPEG), dtype=torch.uint8)))
    return {"colors": colors(channels.permute(1, 2, 0).tolist())}


def torch_computes() -> dict[str, Any]:
    """Compute something on every GPU that torch sees."""
    import torch

    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    for device in devices:
        if torch.ones(2, device=f"cuda:{device}").sum().item() != 2:
            raise RuntimeError(f"GPU {device} computes 1 + 1 wrongly")
    return {"gpus": [torch.cuda.get_device_name(device) for device in devices]}


def dali() -> dict[str, Any]:
    """Import DALI."""
    import nvidia.dali

    return {"version": nvidia.dali.__version__}


def dali_decodes() -> dict[str, Any]:
    """Decode with DALI on the CPU."""
    return {"colors": _decoded_by_dali("cpu")}


def dali_decodes_on_gpu() -> dict[str, Any]:
    """Decode with DALI on the GPU."""
    return {"colors": _decoded_by_dali("mixed")}


def together() -> dict[str, Any]:
    """Have torch, torchvision and DALI in one process, as training has."""
    import numpy as np
    import torchvision  # noqa: F401

    from fasticcl.data.graph import decoded

    return {"colors": colors(decoded([np.frombuffer(JPEG, np.uint8)], threads=1)[0].tolist())}


def jpeg_engine() -> dict[str, Any]:
    """Ask nvJPEG, of which DALI brings a copy, for the engines that the first GPU has for JPEG."""
    nvjpeg = ctypes.CDLL(_library("libnvjpeg.so"))
    handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
    status = nvjpeg.nvjpegCreateEx(_HARDWARE, None, None, 0, ctypes.byref(handle))
    if status in _NO_ENGINE:
        return {"engines": 0, "cores": 0}
    status = status or nvjpeg.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
    if status:
        raise RuntimeError(f"nvJPEG answers with status {status}")
    return {"engines": engines.value, "cores": cores.value}


def _decoded_by_dali(device: str) -> list[list[int]]:
    import numpy as np
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=0 if device == "mixed" else None)
    with pipeline:
        encoded = fn.external_source(source=lambda: [np.frombuffer(JPEG, np.uint8)], dtype=types.UINT8)
        pipeline.set_outputs(fn.decoders.image(encoded, device=device, output_type=types.RGB))
    pipeline.build()
    (images,) = pipeline.run()
    return colors(np.array((images.as_cpu() if device == "mixed" else images).at(0)).tolist())


def _library(name: str) -> str:
    """Return the path of a shared library that an installed package brought."""
    for package in distributions():
        if (package.metadata["Name"] or "").startswith("nvidia-"):
            for file in package.files or ():
                if file.name.startswith(name):
                    return str(package.locate_file(file))
    raise FileNotFoundError(f"no package brought {name}")


STEPS: Mapping[str, Callable[[], dict[str, Any]]] = {
    step.__name__: step
    for step in (
        torch,
        torchvision,
        torch_decodes,
        torch_computes,
        dali,
        dali_decodes,
        dali_decodes_on_gpu,
        together,
        jpeg_engine,
    )
}


def main(names: list[str]) -> None:
    """Try steps one after the other and report each at once: a later one may end the process."""
    for name in names:
        try:
            outcome: dict[str, Any] = {"found": STEPS[name]()}
        except Exception as error:
            outcome = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"step": name, **outcome}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
