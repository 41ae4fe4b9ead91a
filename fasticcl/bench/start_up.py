"""Time of a run outside its steps and evaluations: start of the process, pipelines, weights and report."""

import subprocess
import sys
import time
from pathlib import Path

from fasticcl.bench.measure import Clock
from fasticcl.bench.synthetic_images import generate_images, write_shards

_IMAGES, _CLASSES, _SIDE = 40, 4, 32
_SETTINGS = (
    *("--batch-size", "8", "--fast-dev-run", "--quiet"),
    *("--set", "method.encoder=resnet8", "--set", f"data.image_size={_SIDE}"),
    *("--set", "data.crop=pad", "--set", "data.eval_resize=0"),
)
_TIMEOUT = 120.0  # seconds


def start_up_seconds(folder: Path, device: str = "auto", clock: Clock = time.perf_counter) -> float | None:
    """Return the seconds of `fasticcl train --fast-dev-run` with a tiny network, or None if it fails.

    Args:
        folder: empty folder for its images and its run.
        device: ``engine.device``.
        clock: returns the time in seconds.
    """
    images = generate_images(_IMAGES, _CLASSES, 1, width=_SIDE, height=_SIDE, png=True)
    write_shards(images, folder / "shards")
    paths = ("--data", str(folder / "shards"), "--project", str(folder / "runs"))
    command = [sys.executable, "-m", "fasticcl", "train", "folder", *paths, *_SETTINGS, "--device", device]
    began = clock()
    try:
        subprocess.run(command, check=True, timeout=_TIMEOUT, capture_output=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return clock() - began
