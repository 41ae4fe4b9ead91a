"""Command line, measurement, and the protocol with ``loader.py``, shared by all peers.

A peer is a script that defines variants of a loader and calls `main(variants, packages)`. Started by hand,
it writes the images, runs the measurements and prints the result. Started by ``loader.py`` with ``--serve``,
it prints a line of JSON when it is ready. For every line on standard input, it then measures once and prints
another line of JSON. This allows interleaved runs of peers in different interpreters.
"""

import argparse
import glob
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import _photo_crops

if TYPE_CHECKING:
    import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARMUP = 8  # batches, more than any peer prefetches
LISTED = 50  # repetitions of each image in an epoch of a peer, see the README
TRIALS, TRIAL_SECONDS = 1, 2.5
SKIPPED = 3  # exit status of a peer whose package is missing


class Pairs(NamedTuple):
    """A batch of class-agnostic images and mixed images, with labels and λ."""

    x_h: "torch.Tensor"
    """[B, 3, S, S] float32, normalised."""
    y_h: "torch.Tensor"
    """[B] classes of x_h."""
    x_f: "torch.Tensor"
    """[B, 3, S, S] float32: λ·x_h + (1 - λ)·x_t."""
    y_t: "torch.Tensor"
    """[B] classes of the class-balanced images x_t."""
    lam: "torch.Tensor"
    """λ of the batch: a scalar, or [B] equal values."""


class Speed(NamedTuple):
    """Result of one measurement."""

    pairs_per_second: float
    pairs_per_cpu_second: float
    """Pairs per second of processor time of this process and its workers, which other work on the machine
    hardly affects."""


class Settings(NamedTuple):
    """Settings of a peer."""

    folder: Path
    """Folder of the images, train/CLASS/NUMBER.jpg. Peers write their own formats next to them."""
    batch_size: int
    side: int
    """S, the side of the square images in pixels."""
    cores: int


Variants = dict[str, Callable[[], Iterator[Pairs]]]
"""Loaders to choose from by name. The fastest one is compared."""


def main(variants: Callable[[Settings], Variants], packages: Sequence[str]) -> None:
    """Run a peer according to its command line.

    Args:
        variants: writes the peer's own format and returns its variants.
        packages: distributions whose versions are recorded.
    """
    options = _parse()
    # Libraries print to stdout, so the protocol with ``loader.py`` uses a copy of it.
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _photo_crops.write_jpegs(folder, options.images)
        settings = Settings(folder, options.batch_size, options.side, options.cores)
        name, batches, trials = _fastest(variants(settings), settings)
        versions = {package: version(package) for package in packages}
        speeds = (_speed(batches, options.seconds, settings.batch_size) for _ in _requests(options))
        if options.serve:
            replies.write(json.dumps({"variant": name, "trials": trials, "versions": versions}) + "\n")
            for speed in speeds:
                replies.write(json.dumps(speed._asdict()) + "\n")
        else:
            replies.write(f"{name}; trials: {trials}; {versions}\n{_described(list(speeds))}\n")


def skip(package: str, command: str) -> NoReturn:
    """Exit because a package is missing, with a message that contains the command to install it."""
    print(
        f"{package} is not installed for {Path(sys.executable).name}. Install it with: {command}", flush=True
    )
    sys.exit(SKIPPED)


def listing(folder: Path) -> tuple[list[Path], list[int]]:
    """Return the training images and their class indices, in the order of the class names."""
    names = sorted(path.name for path in (folder / "train").iterdir())
    paths = sorted((folder / "train").glob("*/*.jpg"))
    return paths, [names.index(path.parent.name) for path in paths]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pairs per second of one loader.")
    parser.add_argument("--folder", type=Path, help="folder for the images (default: a temporary folder)")
    parser.add_argument(
        "--images", type=int, default=600, help="minimum number of images (default %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="pairs per batch (default %(default)s)")
    parser.add_argument(
        "--side", type=int, default=224, help="side of the images in pixels (default %(default)s)"
    )
    parser.add_argument(
        "--cores", type=int, default=len(os.sched_getaffinity(0)), help="cores to use (default: all)"
    )
    parser.add_argument("--seconds", type=float, default=6, help="length of a run (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="number of runs (default %(default)s)")
    parser.add_argument("--serve", action="store_true", help="measure on request of loader.py")
    return parser.parse_args()


def _requests(options: argparse.Namespace) -> Iterable[Any]:
    return sys.stdin if options.serve else range(options.repeats)


def _fastest(variants: Variants, settings: Settings) -> tuple[str, Iterator[Pairs], dict[str, Any]]:
    """Return name and batches of the variant with the most pairs per CPU second, and the trials of all.

    Processor time is used because other work on the machine makes wall-clock time unreliable in a short
    trial.
    """
    if len(variants) == 1:
        [(name, make)] = variants.items()
        return name, _checked(make(), settings), {}
    trials = {}
    for name, make in variants.items():
        batches = _checked(make(), settings)
        speeds = [_speed(batches, TRIAL_SECONDS, settings.batch_size) for _ in range(TRIALS)]
        trials[name] = {
            field: round(max(getattr(speed, field) for speed in speeds), 1) for field in Speed._fields
        }
        del batches  # stops its workers
    best = max(trials, key=lambda name: trials[name]["pairs_per_cpu_second"])
    return best, _checked(variants[best](), settings), trials


def _checked(batches: Iterator[Pairs], settings: Settings) -> Iterator[Pairs]:
    """Return the batches after checking the shapes and values of the first one."""
    import torch

    first = next(batches)
    for images in (first.x_h, first.x_f):
        assert images.shape == (settings.batch_size, 3, settings.side, settings.side)
        assert images.dtype == torch.float32
        assert images.min() > -2.2  # black and white, normalised
        assert images.max() < 2.7
    assert len(first.y_h) == len(first.y_t) == settings.batch_size
    return batches


def _speed(batches: Iterator[Pairs], seconds: float, batch_size: int) -> Speed:
    """Measure the speed for ``seconds``, after a warm-up."""
    for _ in range(WARMUP):
        _touch(next(batches))
    done, elapsed, start, used = 0, 0.0, time.perf_counter(), _cpu_seconds()
    while elapsed < seconds:
        _touch(next(batches))
        done += 1
        elapsed = time.perf_counter() - start
    return Speed(done * batch_size / elapsed, done * batch_size / (_cpu_seconds() - used))


def _cpu_seconds() -> float:
    """Return the processor time of this process and its running descendants, in seconds."""
    ticks, parent_of = {}, {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            pid, _, rest = Path(path).read_text().partition(" ")
        except OSError:  # the process has ended
            continue
        # State, parent and so on follow the command name, which may contain spaces.
        fields = rest.rpartition(")")[2].split()
        parent_of[int(pid)], ticks[int(pid)] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {os.getpid()}
    while children := {pid for pid, parent in parent_of.items() if parent in family} - family:
        family |= children
    return sum(ticks[pid] for pid in family) / os.sysconf("SC_CLK_TCK")


def _touch(pairs: Pairs) -> None:
    """Read one element of every tensor, so none can be computed lazily."""
    for tensor in pairs:
        tensor[(0,) * tensor.ndim].item()


def _described(speeds: list[Speed]) -> str:
    rates = sorted(speed.pairs_per_second for speed in speeds)
    low, middle, high = (f"{rate:.0f}" for rate in (rates[0], statistics.median(rates), rates[-1]))
    return f"{middle} ({low} to {high}) pairs per second, {len(rates)} runs"
