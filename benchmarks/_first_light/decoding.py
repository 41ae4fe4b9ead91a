"""Check 2: DALI decodes JPEGs and regions of them on the GPU, compared with the CPU.

Regions come last, because nvImageCodec 0.9 crashes on some GPUs when it decodes them (its issue 55).
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from PIL import Image

from _first_light.checks import REGIONS
from _first_light.report import Report
from _first_light.setup import Setup
from _first_light.workloads import start
from fasticcl.bench.synthetic_images import random_image
from fasticcl.config import Data
from fasticcl.data.dali import graph
from fasticcl.system.jpeg_engine import query_jpeg_engines

_LOADS = (0.0, 0.65)  # shares of the hardware JPEG engine: none, and the default of data.hw_decoder_load
# Mean differences in levels from 0 to 255. The GPU enlarges subsampled chroma without interpolation.
_THREADS = 4
_LIMITS = {"4:4:4": 2.0, "4:2:2": 4.0, "4:2:0": 4.0, "progressive": 4.0, "grey": 2.0}


def check(setup: Setup, report: Report) -> None:
    """Decode one image of each kind on the device and on the CPU, and then batches of regions."""
    start(setup)
    images = encode_kinds(97, 61) if setup.small else encode_kinds(501, 375)
    expected = decode(images, "cpu", 0.0)
    pillow = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in images.values()]
    compare(images, pillow, expected, "the CPU against Pillow", report)
    if setup.gpu is None:
        report.skip("mixed decoder", "it needs a GPU")
    else:
        engines = query_jpeg_engines()
        report.add("jpeg_engines", {"found": engines.describe(), "cores_of_each": engines.cores})
        for load in _LOADS:
            with report.part(f"hardware load {load:g}"):
                decoded = decode(images, "mixed", load)
                compare(images, expected, decoded, f"the GPU with hardware load {load:g}", report)
        report.note += f", JPEG engines: {engines.describe()}"
    if not setup.decode_regions:
        report.skip(REGIONS, "--whole-images")
        return
    note = report.note
    with report.part(REGIONS):
        check_regions(setup, images, report)
    report.note = note


def check_regions(setup: Setup, images: Mapping[str, bytes], report: Report) -> None:
    """Compare random regions, decoded in batches as in training, with the same parts of whole images."""
    batches, size = (1, 8) if setup.small else (4, 32)
    kinds = [*islice(cycle(images), size)]
    encoded = [images[kind] for kind in kinds]
    windows = random_windows(batches, [Image.open(io.BytesIO(content)).size for content in encoded])
    data = Data(dataset="folder", dir=setup.folder, decode_regions=False)
    expected = decode_windows(encoded, windows, data, None)
    data = data.model_copy(update={"decode_regions": True})
    decoded = decode_windows(encoded, windows, data, None)
    equal = all(np.array_equal(one, two) for one, two in zip(expected, decoded, strict=True))
    report.add("regions on the CPU", {"regions": len(decoded), "bit_equal": equal})
    report.expect(equal, "regions on the CPU differ from the same parts of whole images")
    for load in _LOADS if setup.gpu is not None else ():
        data = data.model_copy(update={"hw_decoder_load": load})
        decoded = decode_windows(encoded, windows, data, setup.gpu)
        title = f"regions on the GPU with hardware load {load:g}"
        compare(kinds * batches, expected, decoded, title, report)


def random_windows(batches: int, sizes: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """Return start and shape [batches, images, 4] of windows of at least a quarter of each side.

    Args:
        batches: number of windows of each image.
        sizes: width and height of each image.
    """
    whole = np.array(sizes)[:, ::-1]
    rng = np.random.default_rng(0)
    shape = rng.integers(whole // 4, whole, (batches, *whole.shape), endpoint=True)
    start = rng.integers(0, whole - shape, endpoint=True)
    return np.concatenate([start, shape], axis=-1).astype(np.int32)


def decode_windows(
    encoded: Sequence[bytes], windows: NDArray[np.int32], data: Data, gpu: int | None
) -> list[NDArray[np.uint8]]:
    """Return the windows [batches, images, 4] of images, decoded by the operators of the DALI graph."""
    files = [np.frombuffer(content, np.uint8) for content in encoded]

    def feed(iteration: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.int32], NDArray[np.int32]]:
        window = windows[iteration % len(windows)]  # DALI also prefetches batches that are not used
        return files, window[:, :2].copy(), window[:, 2:].copy()

    pipeline = Pipeline(batch_size=len(files), num_threads=_THREADS, device_id=gpu)
    with pipeline:
        inputs = fn.external_source(
            source=feed, num_outputs=3, dtype=[types.UINT8, types.INT32, types.INT32], ndim=[1, 1, 1]
        )
        stream = dict(zip(("encoded", "start", "shape"), inputs, strict=True))
        pipeline.set_outputs(graph.decode(stream, data, gpu))
    pipeline.build()
    decoded = []
    for _ in windows:
        (batch,) = pipeline.run()
        batch = batch if gpu is None else batch.as_cpu()
        decoded += [np.array(batch.at(position)) for position in range(len(files))]
    return decoded


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
    kinds: Iterable[str],
    expected: list[NDArray[np.uint8]],
    actual: list[NDArray[np.uint8]],
    title: str,
    report: Report,
) -> None:
    """Report the differences of decoded images by kind, and expect them within the limits."""
    found: dict[str, list[NDArray[np.int_]]] = {}
    for kind, one, two in zip(kinds, expected, actual, strict=True):
        if one.shape != two.shape:
            report.expect(False, f"{title}: {kind} has the shape {two.shape}, not {one.shape}")
            continue
        found.setdefault(kind, []).append(np.abs(one.astype(int) - two).ravel())
    figures = {}
    for kind, differences in found.items():
        levels = np.concatenate(differences)
        figures[kind] = {"mean_levels": round(float(levels.mean()), 3), "max_levels": int(levels.max())}
        mean, limit = figures[kind]["mean_levels"], _LIMITS[kind]
        report.expect(mean <= limit, f"{title}: {kind} differs by {mean} levels, more than {limit}")
    largest = max((each["mean_levels"] for each in figures.values()), default=0)
    report.note = f"{title}: at most {largest} levels"
    report.add(title, figures)
