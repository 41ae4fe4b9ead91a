"""Check 2: DALI decodes JPEGs on the GPU, compared with the CPU."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from PIL import Image

from _first_light.report import Report
from _first_light.setup import Setup
from _first_light.workloads import start
from fasticcl.bench.synthetic_images import random_image
from fasticcl.system.jpeg_engine import query_jpeg_engines

_LOADS = (0.0, 0.65)  # shares of the hardware JPEG engine: none, and the default of data.hw_decoder_load
# Mean differences in levels from 0 to 255. The GPU enlarges subsampled chroma without interpolation.
_LIMITS = {"4:4:4": 2.0, "4:2:2": 4.0, "4:2:0": 4.0, "progressive": 4.0, "grey": 2.0}


def check(setup: Setup, report: Report) -> None:
    """Decode one image of each kind on the device and on the CPU."""
    start(setup)
    images = encode_kinds(97, 61) if setup.small else encode_kinds(501, 375)
    expected = decode(images, "cpu", 0.0)
    pillow = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in images.values()]
    compare(images, pillow, expected, "the CPU against Pillow", report)
    if setup.gpu is None:
        report.skip("mixed decoder", "it needs a GPU")
        return
    engines = query_jpeg_engines()
    report.add("jpeg_engines", {"found": engines.describe(), "cores_of_each": engines.cores})
    for load in _LOADS:
        with report.part(f"hardware load {load:g}"):
            decoded = decode(images, "mixed", load)
            compare(images, expected, decoded, f"the GPU with hardware load {load:g}", report)
    report.note += f", JPEG engines: {engines.describe()}"


def encode_kinds(width: int, height: int) -> dict[str, bytes]:
    """Return a synthetic image as JPEGs with different chroma subsampling, progressive, and grey."""
    image = Image.open(io.BytesIO(random_image(0, width, height, "PNG")))
    options: dict[str, dict[str, Any]] = {
        "4:4:4": {"subsampling": 0},
        "4:2:2": {"subsampling": 1},
        "4:2:0": {"subsampling": 2},
        "progressive": {"subsampling": 2, "progressive": True},
        "grey": {},
    }
    encoded = {}
    for kind, settings in options.items():
        buffer = io.BytesIO()
        (image.convert("L") if kind == "grey" else image).save(buffer, "JPEG", quality=92, **settings)
        encoded[kind] = buffer.getvalue()
    return encoded


def decode(images: Mapping[str, bytes], device: str, load: float) -> list[NDArray[np.uint8]]:
    """Return RGB images decoded by DALI in one batch.

    Args:
        images: encoded images.
        device: ``cpu`` or ``mixed``.
        load: share of the hardware JPEG engine.
    """
    encoded = [np.frombuffer(content, np.uint8) for content in images.values()]
    mixed = device == "mixed"
    pipeline = Pipeline(batch_size=len(encoded), num_threads=2, device_id=0 if mixed else None)
    with pipeline:
        files = fn.external_source(source=lambda: encoded, batch=True, dtype=types.UINT8, ndim=1)
        options = {"hw_decoder_load": load} if mixed else {}
        pipeline.set_outputs(fn.decoders.image(files, device=device, output_type=types.RGB, **options))
    pipeline.build()
    (decoded,) = pipeline.run()
    decoded = decoded.as_cpu() if mixed else decoded
    return [np.array(decoded.at(position)) for position in range(len(encoded))]


def compare(
    images: Mapping[str, bytes],
    expected: list[NDArray[np.uint8]],
    actual: list[NDArray[np.uint8]],
    title: str,
    report: Report,
) -> None:
    """Report the differences of decoded images, and expect them within the limits."""
    figures = {}
    for kind, one, two in zip(images, expected, actual, strict=True):
        if one.shape != two.shape:
            report.expect(False, f"{title}: {kind} has the shape {two.shape}, not {one.shape}")
            continue
        levels = np.abs(one.astype(int) - two)
        figures[kind] = {"mean_levels": round(float(levels.mean()), 3), "max_levels": int(levels.max())}
        mean, limit = figures[kind]["mean_levels"], _LIMITS[kind]
        report.expect(mean <= limit, f"{title}: {kind} differs by {mean} levels, more than {limit}")
    largest = max((each["mean_levels"] for each in figures.values()), default=0)
    report.note = f"{title}: at most {largest} levels"
    report.add(title, figures)
