"""Images per second of ``fasticcl convert`` and of a plain script with Pillow and webdataset.

    python benchmarks/convert.py [--images 3000] [--shard-size 50] [--repeats 7] [--dir DIR] [--json FILE]
    python benchmarks/convert.py --memory [--repeats 3] [--dir DIR] [--json FILE]

It needs the extras ``demo`` (the images of ``loader.py``, JPEGs of 500×375 pixels and about 70 kB, as files
in SRC/train/CLASS and SRC/val/CLASS) and ``dev`` (webdataset). There are two modes:

    copy        every image is decoded to check it, and its bytes are kept
    short_side  every image is resized (bicubic) to a short side of 256 pixels, JPEG quality 90

These systems are measured in interleaved runs:

    peer        a single-process script: Image.open and load, in the second mode also convert, resize and
                save, then webdataset.ShardWriter with the bytes
    ours_1, _2  fasticcl.convert.conversion.convert with one and two workers
    rgb_1, _2   decoding alone: simplejpeg to RGB from memory, with one and two threads
    check_1, _2 the same to the smallest grey image, which is how the copy mode detects damage

A measurement includes listing, reading, decoding and writing. In addition, ours syncs each shard to disk,
computes checksums of images and shards, and writes both kinds of index and the manifest. Shards contain 50
images instead of the default 2,000, so two workers share the images evenly. Ours therefore waits for the
disk 40 times as often. With few images, a worker is idle during the last shards, and two workers cannot be
twice as fast: 600 images are 14 shards.

Each measurement runs in its own process, after all imports and the conversion of a few images. The source
is in the page cache. Output of the previous run is deleted, or synced to disk, before the next one starts.
Before the measurements, both systems convert the images once and their shards are compared.

With ``--memory``, the script measures the peak resident memory of ``fasticcl convert folder`` on 10,000 and
on 100,000 images of 16×16 pixels, which should be equal.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from _runs import hardware, summarize, write_result
from peers._photo_crops import write_jpegs
from PIL import Image
from webdataset import ShardWriter

from fasticcl.convert.conversion import convert
from fasticcl.convert.layouts import folder as folder_layout
from fasticcl.shards.shrink import Shrink

SPLITS = ("train", "val")
SHORT_SIDE, QUALITY = 256, 90
SHRINKS = {"copy": None, "short_side": Shrink("short", SHORT_SIDE, QUALITY)}
MODES = tuple(SHRINKS)
WORKERS = (1, 2)
WARM_IMAGES = 16
DIFFERENCE = (
    1.5  # mean absolute difference in levels, which images of different resizers and encoders do not reach
)
QUIET = 0.5  # load average above which other work disturbs the measurement

TINY_COUNTS = (10_000, 100_000)
TINY_CLASSES, TINY_SIDE = 20, 16
# VmHWM, because the peak in getrusage of a child starts at the peak of its parent.
PEAK_OF_COMMAND = """
import sys
from fasticcl.cli.main import main
try:
    main()
finally:
    lines = open("/proc/self/status").read().splitlines()
    print(*(line.split()[1] for line in lines if line.startswith("VmHWM")), file=sys.stderr)
"""

TARGETS = {
    "short_side ours_2/peer": "at least 2",
    "copy ours_2/ours_1": "at least 1.8",
    "short_side ours_2/ours_1": "at least 1.8",
    "copy ours_2/rgb_2": "about 1 or more: bound by decoding",
}


class Sample(NamedTuple):
    """One measurement."""

    images: int
    seconds: float
    cpu_seconds: float
    """Processor time of all threads. Much less than ``seconds`` means waiting for the disk."""


def main() -> None:
    """Measure, print the result, and write it to the file of --json."""
    options = parse()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        result = (memory if options.memory else speed)(options, Path(folder))
    result["machine"] = hardware() | {"load_average": round(load, 2)}
    if load > QUIET:
        result["note"] = f"the machine was not idle: load average {load:.2f} at the start"
    (show_memory if options.memory else show)(result)
    print(result.get("note", "the machine was idle"))
    write_result(result, options.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Images per second of fasticcl convert and of a plain script."
    )
    parser.add_argument(
        "--images", type=int, default=3000, help="minimum number of images (default %(default)s)"
    )
    parser.add_argument("--shard-size", type=int, default=50, help="images per shard (default %(default)s)")
    parser.add_argument("--repeats", type=int, help="number of runs (default 7, or 3 with --memory)")
    parser.add_argument(
        "--memory", action="store_true", help="measure peak memory instead, which takes minutes"
    )
    parser.add_argument("--dir", type=Path, help="folder for the files (default: the temporary folder)")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    options.repeats = options.repeats or (3 if options.memory else 7)
    return options


def settings(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("repeats", *names)}


# Speed.


def speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    source, warm = folder / "source", folder / "warm"
    sizes = write_images(options.images, source, warm)
    converters = {
        f"{mode} {name}": converter
        for mode in MODES
        for name, converter in converters_of(mode, options).items()
    }
    for mode in MODES:
        check_same(converters, mode, source, folder)
    measured: dict[str, Callable[[Path, Path], int]] = {**converters, **decoders()}
    runs = interleave(measured, source, warm, folder / "shards", options.repeats)
    rates = {name: [run.images / run.seconds for run in samples] for name, samples in runs.items()}
    return {
        "benchmark": "convert",
        "settings": settings(options, "images", "shard_size") | {"file_system": file_system(folder)},
        "images": {"count": len(sizes), "mean_bytes": round(statistics.mean(sizes))},
        "images_per_second": {name: summarize(values) for name, values in rates.items()},
        "cpu_ms_per_image": {
            name: summarize([1000 * run.cpu_seconds / run.images for run in samples])
            for name, samples in runs.items()
        },
        "ratios": {name: summarize(values) for name, values in ratios(rates).items()},
    }


def converters_of(mode: str, options: argparse.Namespace) -> dict[str, Callable[[Path, Path], int]]:
    return {
        "peer": partial(peer, mode=mode, shard_size=options.shard_size),
        **{f"ours_{n}": partial(ours, mode=mode, shard_size=options.shard_size, workers=n) for n in WORKERS},
    }


def decoders() -> dict[str, Callable[[Path, Path], int]]:
    return {
        f"{name}_{threads}": partial(bare_decoding, grey=name == "check", threads=threads)
        for name in ("rgb", "check")
        for threads in WORKERS
    }


def ratios(rates: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return the ratios to report, run by run."""

    def over(one: str, other: str) -> list[float]:
        return [a / b for a, b in zip(rates[one], rates[other], strict=True)]

    found = {}
    for mode in MODES:
        found[f"{mode} ours_2/peer"] = over(f"{mode} ours_2", f"{mode} peer")
        found[f"{mode} ours_1/peer"] = over(f"{mode} ours_1", f"{mode} peer")
        found[f"{mode} ours_2/ours_1"] = over(f"{mode} ours_2", f"{mode} ours_1")
    for decoding in ("rgb", "check"):
        found[f"{decoding}_2/{decoding}_1"] = over(f"{decoding}_2", f"{decoding}_1")
        for n in WORKERS:
            found[f"copy ours_{n}/{decoding}_{n}"] = over(f"copy ours_{n}", f"{decoding}_{n}")
    return found


def write_images(least: int, source: Path, warm: Path) -> list[int]:
    """Write the images and a few of them for the warm-up. Return the size of each in bytes."""
    write_jpegs(source, least)
    first = sorted((source / "train").glob("*/*.jpg"))[:WARM_IMAGES]
    for split in SPLITS:
        for path in first:
            copy = warm / split / path.relative_to(source / "train")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return [path.stat().st_size for path in source.glob("*/*/*.jpg")]


def ours(source: Path, dest: Path, *, mode: str, shard_size: int, workers: int) -> int:
    listed = folder_layout.read(source)
    convert(listed, dest, shard_size=shard_size, shrink=SHRINKS[mode], workers=workers)
    return sum(map(len, listed.splits.values()))


def peer(source: Path, dest: Path, *, mode: str, shard_size: int) -> int:
    classes = sorted(path.name for path in (source / "train").iterdir())
    written = 0
    for split in SPLITS:
        (dest / split).mkdir(parents=True)
        pattern = str(dest / split / "shard-%06d.tar")
        with ShardWriter(pattern, maxcount=shard_size, encoder=False, verbose=0) as writer:
            for label, name in enumerate(classes):
                for path in sorted((source / split / name).iterdir()):
                    content = peer_image(path.read_bytes(), mode)
                    key = f"{written:09}_{path.stem}"
                    writer.write({"__key__": key, "jpg": content, "cls": str(label).encode()})
                    written += 1
    return written


def peer_image(content: bytes, mode: str) -> bytes:
    image = Image.open(io.BytesIO(content))
    image.load()
    if mode == "copy":
        return content
    scale = SHORT_SIDE / min(image.size)
    if scale >= 1:
        return content
    size = round(image.width * scale), round(image.height * scale)
    buffer = io.BytesIO()
    image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def bare_decoding(source: Path, _: Path, *, grey: bool, threads: int) -> int:
    """Decode all images, which `measure` has already read."""
    images = encoded(source)

    def decode(part: list[bytes]) -> None:
        for content in part:
            if grey:
                simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8)
            else:
                simplejpeg.decode_jpeg(content, "RGB")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, [images[first::threads] for first in range(threads)]))
    return len(images)


_encoded: dict[Path, list[bytes]] = {}


def encoded(source: Path) -> list[bytes]:
    """Return the encoded bytes of all images of a source, read once per process."""
    if source not in _encoded:
        _encoded[source] = [path.read_bytes() for path in sorted(source.rglob("*.jpg"))]
    return _encoded[source]


def check_same(
    converters: Mapping[str, Callable[[Path, Path], int]], mode: str, source: Path, folder: Path
) -> None:
    """Assert that peer and ours write the same images and labels. In copy mode, the bytes are equal."""
    results = {}
    for name in ("peer", "ours_2"):
        dest = folder / f"checked {mode} {name}"
        converters[f"{mode} {name}"](source, dest)
        results[name] = [stored(dest / split) for split in SPLITS]
        shutil.rmtree(dest)
    for theirs, our in zip(results["peer"], results["ours_2"], strict=True):
        assert len(theirs) == len(our) > 0
        assert [label for _, label in theirs] == [label for _, label in our]
        for (one, _), (other, _) in zip(theirs, our, strict=True):
            assert one == other if mode == "copy" else similar(one, other)


def stored(folder: Path) -> list[tuple[bytes, bytes]]:
    """Return the images and labels in the shards of a split, in order."""
    members: dict[str, list[bytes]] = {"jpg": [], "cls": []}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                members[member.name.rsplit(".", 1)[1]].append(content.read())
    return list(zip(members["jpg"], members["cls"], strict=True))


def similar(one: bytes, other: bytes) -> bool:
    first, second = (np.asarray(Image.open(io.BytesIO(content)), dtype=np.int16) for content in (one, other))
    return (
        first.shape == second.shape
        and min(first.shape[:2]) == SHORT_SIDE
        and float(np.abs(first - second).mean()) < DIFFERENCE
    )


def interleave(
    systems: Mapping[str, Callable[[Path, Path], int]], source: Path, warm: Path, dest: Path, repeats: int
) -> dict[str, list[Sample]]:
    """Measure every system once per round, in an order that is reversed each time."""
    runs: dict[str, list[Sample]] = {name: [] for name in systems}
    for repeat in range(repeats):
        for name in list(systems)[:: 1 if repeat % 2 == 0 else -1]:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                runs[name].append(process.submit(measure, systems[name], source, warm, dest).result())
            shutil.rmtree(dest, ignore_errors=True)
    return runs


def measure(system: Callable[[Path, Path], int], source: Path, warm: Path, dest: Path) -> Sample:
    """Measure a system in the current process."""
    encoded(source)  # also fills the page cache
    system(warm, dest / "warm")
    os.sync()
    start, cpu = time.perf_counter(), time.process_time()
    images = system(source, dest / "measured")
    return Sample(images, time.perf_counter() - start, time.process_time() - cpu)


# Memory.


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    for count in TINY_COUNTS:
        write_tiny(count, folder / str(count))
    peaks: dict[int, list[float]] = {count: [] for count in TINY_COUNTS}
    seconds: dict[int, list[float]] = {count: [] for count in TINY_COUNTS}
    for repeat in range(options.repeats):
        for count in TINY_COUNTS[:: 1 if repeat % 2 == 0 else -1]:
            start = time.perf_counter()
            peaks[count].append(command_peak(folder / str(count), folder / "shards"))
            seconds[count].append(time.perf_counter() - start)
            shutil.rmtree(folder / "shards")
    few, many = (peaks[count] for count in TINY_COUNTS)
    return {
        "benchmark": "convert: memory",
        "settings": settings(options) | {"command": shown_command(), "classes": TINY_CLASSES},
        "peak_mib": {str(count): summarize(values) for count, values in peaks.items()},
        "difference_mib": summarize([b - a for a, b in zip(few, many, strict=True)]),
        "seconds": {str(count): summarize(values) for count, values in seconds.items()},
    }


def write_tiny(count: int, folder: Path) -> None:
    """Write tiny images. Those of a class are hard links to one file, but each is read and stored."""
    rng = np.random.default_rng(0)
    for label in range(TINY_CLASSES):
        members = folder / f"class {label:02}"
        members.mkdir(parents=True)
        first = members / f"image {0:06}.jpg"
        pixels = rng.integers(0, 256, (TINY_SIDE, TINY_SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(first, "JPEG", quality=QUALITY)
        for number in range(1, count // TINY_CLASSES):
            (members / f"image {number:06}.jpg").hardlink_to(first)


def arguments(source: str, dest: str) -> list[str]:
    return ["convert", "folder", source, dest, "--val-fraction", "0.1", "--workers", str(max(WORKERS))]


def shown_command() -> str:
    return " ".join(["fasticcl", *arguments("SRC", "DEST")])


def command_peak(source: Path, dest: Path) -> float:
    """Return the peak resident memory of the command, in MiB."""
    command = [sys.executable, "-c", PEAK_OF_COMMAND, *arguments(str(source), str(dest))]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(ended.stderr.split()[-1]) / 1024


# Results.


def file_system(folder: Path) -> str:
    """Return the file system type of a folder."""
    command = ["stat", "--file-system", "--format", "%T", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def show(result: Mapping[str, Any]) -> None:
    print(json.dumps({name: result[name] for name in ("machine", "settings", "images")}, indent=1))
    for name, row in result["images_per_second"].items():
        cpu = result["cpu_ms_per_image"][name]["median"]
        print(f"{name:18} {line(row)} images/s   CPU {cpu:5.2f} ms/image   runs {row['runs']}")
    for name, row in result["ratios"].items():
        target = f"   target: {TARGETS[name]}" if name in TARGETS else ""
        print(f"{name:25} {line(row)}   runs {row['runs']}{target}")


def show_memory(result: Mapping[str, Any]) -> None:
    print(json.dumps({name: result[name] for name in ("machine", "settings")}, indent=1))
    for count, row in result["peak_mib"].items():
        print(f"{count:>10} images {line(row)} MiB   in {result['seconds'][count]['median']:.1f} s")
    print(f"{'difference':>17} {line(result['difference_mib'])} MiB   target: at most 20")


def line(row: Mapping[str, Any]) -> str:
    return f"median {row['median']:8.2f}   min {row['min']:8.2f}   max {row['max']:8.2f}"


if __name__ == "__main__":
    main()
