"""Probes that may crash the interpreter, so each group of them runs in a subprocess.

``python -m fasticcl.doctor.probes NAME…`` writes one line of JSON after each probe.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from fasticcl.doctor.reference_image import JPEG, SIDE, square_colors

_BATCH = 8  # images, of which DALI gives some to the JPEG engine and some to the cores of a GPU


def torch() -> dict[str, Any]:
    """Import torch."""
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda or ""}


def torchvision() -> dict[str, Any]:
    """Import torchvision."""
    import torchvision

    return {"version": torchvision.__version__}


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
    """Decode regions of the reference image with DALI on the CPU."""
    return {"colors": _decode_with_dali("cpu", regions=True)}


def dali_decoding_on_gpu() -> dict[str, Any]:
    """Decode the reference image with DALI on the GPU."""
    return {"colors": _decode_with_dali("mixed", regions=False)}


def dali_regions_on_gpu() -> dict[str, Any]:
    """Decode regions of the reference image with DALI on the GPU."""
    return {"colors": _decode_with_dali("mixed", regions=True)}


def joint_decoding() -> dict[str, Any]:
    """Decode the reference image with DALI after importing torch and torchvision, as in training."""
    import numpy as np
    import torchvision  # noqa: F401

    from fasticcl.data.dali.decoding import decoded

    return {"colors": square_colors(decoded([np.frombuffer(JPEG, np.uint8)], threads=1)[0].tolist())}


def jpeg_engine() -> dict[str, Any]:
    """Query nvJPEG for the hardware JPEG decoders of the first GPU."""
    from fasticcl.system.jpeg_engine import query_jpeg_engines

    engines = query_jpeg_engines()
    if engines.count is None:
        raise RuntimeError(engines.reason)
    return {"engines": engines.count, "cores": engines.cores}


def _decode_with_dali(device: str, regions: bool) -> list[list[int]]:
    """Decode a batch of regions, as in training, or of whole images, which a GPU decodes on other paths."""
    import numpy as np
    from nvidia.dali import Pipeline, fn, types

    from fasticcl.data.dali.errors import DALI_ERRORS, error_reason

    pipeline = Pipeline(batch_size=_BATCH, num_threads=2, device_id=0 if device == "mixed" else None)
    try:
        with pipeline:
            batch = [np.frombuffer(JPEG, np.uint8)] * _BATCH
            encoded = fn.external_source(source=lambda: batch, dtype=types.UINT8, ndim=1)
            options = {"device": device, "output_type": types.RGB}
            window = {"start": [0, 0], "shape": [SIDE, SIDE], "axes": [0, 1]}
            pipeline.set_outputs(
                fn.decoders.image_slice(encoded, **window, **options)
                if regions
                else fn.decoders.image(encoded, **options)
            )
        pipeline.build()
        (images,) = pipeline.run()
        decoded = images.as_cpu() if device == "mixed" else images
    except DALI_ERRORS as error:
        raise RuntimeError(error_reason(error)) from error
    return square_colors(np.array(decoded.at(_BATCH - 1)).tolist())


PROBES: Mapping[str, Callable[[], dict[str, Any]]] = {
    probe.__name__: probe
    for probe in (
        torch,
        torchvision,
        torch_on_gpu,
        dali,
        dali_decoding,
        dali_decoding_on_gpu,
        dali_regions_on_gpu,
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
