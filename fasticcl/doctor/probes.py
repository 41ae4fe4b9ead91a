"""Probes that may crash the interpreter, so each group of them runs in a subprocess.

``python -m fasticcl.doctor.probes NAME…`` writes one line of JSON after each probe.
"""

import ctypes
import json
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import distributions
from typing import Any

from fasticcl.doctor.reference_image import JPEG, square_colors

_HARDWARE = 3  # NVJPEG_BACKEND_HARDWARE of nvjpeg.h
_NO_ENGINE = (7, 9)  # NVJPEG_STATUS_ARCH_MISMATCH and NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED


def torch() -> dict[str, Any]:
    """Import torch."""
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda or ""}


def torchvision() -> dict[str, Any]:
    """Import torchvision."""
    import torchvision

    return {"version": torchvision.__version__}


def torchvision_decoding() -> dict[str, Any]:
    """Decode the reference image with torchvision on the CPU."""
    import torch
    from torchvision.io import decode_jpeg

    channels = torch.as_tensor(decode_jpeg(torch.frombuffer(bytearray(JPEG), dtype=torch.uint8)))
    return {"colors": square_colors(channels.permute(1, 2, 0).tolist())}


def torch_on_gpu() -> dict[str, Any]:
    """Compute a sum on every GPU that torch sees."""
    import torch

    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    for device in devices:
        if torch.ones(2, device=f"cuda:{device}").sum().item() != 2:
            raise RuntimeError(f"GPU {device} computes a wrong result for 1 + 1")
    return {"gpus": [torch.cuda.get_device_name(device) for device in devices]}


def dali() -> dict[str, Any]:
    """Import DALI."""
    import nvidia.dali

    return {"version": nvidia.dali.__version__}


def dali_decoding() -> dict[str, Any]:
    """Decode the reference image with DALI on the CPU."""
    return {"colors": _decode_with_dali("cpu")}


def dali_decoding_on_gpu() -> dict[str, Any]:
    """Decode the reference image with DALI on the GPU."""
    return {"colors": _decode_with_dali("mixed")}


def joint_decoding() -> dict[str, Any]:
    """Decode the reference image with torch, torchvision and DALI in one process, as in training."""
    import numpy as np
    import torchvision  # noqa: F401

    from fasticcl.data.dali.decoding import decoded

    return {"colors": square_colors(decoded([np.frombuffer(JPEG, np.uint8)], threads=1)[0].tolist())}


def jpeg_engine() -> dict[str, Any]:
    """Query nvJPEG, which is installed with DALI, for the hardware JPEG decoders of the first GPU."""
    nvjpeg = ctypes.CDLL(_library_path("libnvjpeg.so"))
    handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
    status = nvjpeg.nvjpegCreateEx(_HARDWARE, None, None, 0, ctypes.byref(handle))
    if status in _NO_ENGINE:
        return {"engines": 0, "cores": 0}
    status = status or nvjpeg.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
    if status:
        raise RuntimeError(f"nvJPEG returned status {status}")
    return {"engines": engines.value, "cores": cores.value}


def _decode_with_dali(device: str) -> list[list[int]]:
    import numpy as np
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=0 if device == "mixed" else None)
    with pipeline:
        encoded = fn.external_source(source=lambda: [np.frombuffer(JPEG, np.uint8)], dtype=types.UINT8)
        pipeline.set_outputs(fn.decoders.image(encoded, device=device, output_type=types.RGB))
    pipeline.build()
    (images,) = pipeline.run()
    return square_colors(np.array((images.as_cpu() if device == "mixed" else images).at(0)).tolist())


def _library_path(name: str) -> str:
    """Return the path of a shared library from one of the installed NVIDIA packages."""
    for package in distributions():
        if (package.metadata["Name"] or "").startswith("nvidia-"):
            for file in package.files or ():
                if file.name.startswith(name):
                    return str(package.locate_file(file))
    raise FileNotFoundError(f"no installed package contains {name}")


PROBES: Mapping[str, Callable[[], dict[str, Any]]] = {
    probe.__name__: probe
    for probe in (
        torch,
        torchvision,
        torchvision_decoding,
        torch_on_gpu,
        dali,
        dali_decoding,
        dali_decoding_on_gpu,
        joint_decoding,
        jpeg_engine,
    )
}


def main(names: list[str]) -> None:
    """Run probes in order and report each immediately, because the next one may end the process."""
    for name in names:
        try:
            outcome: dict[str, Any] = {"values": PROBES[name]()}
        except Exception as error:
            outcome = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"probe": name, **outcome}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
