"""Sources and folders of images to convert, comparison of folders of shards, and the command line."""

import os
import subprocess
import sys
import time
from collections.abc import Container
from pathlib import Path

import numpy as np

from fasticcl.convert.source import Item, Source
from fasticcl.shards.reader import Shards
from tests.support.images import encode, noise
from tests.support.replicas import jpegs

_JPEG = encode(noise(np.random.default_rng(0), 48, 64), quality=90)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lay_out(root: Path, train: int = 20, val: int = 4, seed: int = 0, side: int = 24) -> Path:
    """Write images of two classes in the layout `folder`."""
    contents = jpegs(train + val, seed, side)
    for i, content in enumerate(contents):
        path = root / ("train" if i < train else "val") / "ab"[i % 2] / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def command(*arguments: object, before: str = "") -> list[str]:
    """Return a command that runs the command line, after the Python code ``before``."""
    script = f"import sys; {before or 'pass'}\nfrom fasticcl.cli.main import main\nmain()"
    return [sys.executable, "-c", script, *map(str, arguments)]


def run(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a subprocess and return the result."""
    return subprocess.run(command(*arguments, before=before), capture_output=True, text=True)


UNPRIVILEGED = """
import ctypes, os
for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which root has
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
if not os.environ.get("DROPPED"):
    os.environ["DROPPED"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
"""
"""Python code for ``before`` that makes file permissions apply to root too."""


def jpeg_source(
    count: int = 20, broken: Container[int] = (), splits: tuple[str, str] = ("train", "val")
) -> Source:
    """A source of ``count`` training images of two classes, of which 4 are also evaluated.

    Args:
        count: number of training images.
        broken: numbers of the images that cannot be decoded.
        splits: names of the splits.
    """
    items = [
        Item(b"not an image" if i in broken else _JPEG + bytes([i]), i % 2, f"{i}.jpg") for i in range(count)
    ]
    return Source("folder", ["a", "b"], dict(zip(splits, (items, items[:4]), strict=True)))


def modification_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def modify_later(path: Path) -> None:
    """Give a file a modification time that is later than those of all files written so far."""
    os.utime(path, ns=(time.time_ns() + 10**9,) * 2)


def stored_images(folder: Path, split: str) -> list[tuple[int, bytes]]:
    """Return the label and the bytes of every image of a split, in the order of the index."""
    shards = Shards(folder, split)
    images = shards.read(np.arange(len(shards)))
    return [
        (label, image.tobytes()) for label, image in zip(shards.index["label"].tolist(), images, strict=True)
    ]
