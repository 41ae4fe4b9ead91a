"""Pairs per second of fasticcl's loader and of other loaders, in interleaved runs.

    python benchmarks/loader.py [--only NAME ...] [--python NAME=INTERPRETER ...] [--images 600]
                                [--batch-size 32] [--seconds 6] [--repeats 5] [--lock FILE] [--json FILE]

Every loader is a script in ``peers/``, which also runs alone. Here, each runs in its own process, which is
idle between its runs. All produce the same output from the same images: class-agnostic images x_h and mixed
images x_f = λ·x_h + (1 - λ)·x_t with class-balanced x_t, float32, 224×224 and normalised, with
random-resized crop and random flip, their labels, and one λ per batch. One element of every tensor is read,
then the batch is discarded. There is no model. The files are in the page cache, so the disk is not measured.

It needs the extra ``demo``, because the images are crops of the two photographs in scikit-learn. A peer
that is not installed is skipped with a message that contains the command to install it. ``--python`` sets
the interpreter of a peer that needs its own environment.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _runs import alternating, busy_cores, format_spread, hardware, locked, ratios, summarize, write_result

OURS = "ours"
PEERS = {  # name: script in peers/. The first one writes the images.
    OURS: "fasticcl_loader.py",
    "ours_short_side": "fasticcl_short_side.py",
    "bare_dali": "dali_graph.py",
    "torch_pillow": "torch_pillow.py",
    "torch_jpeg": "torch_jpeg.py",
    "webdataset": "webdataset_loader.py",
    "litdata": "litdata_loader.py",
    "ffcv": "ffcv_loader.py",
}
MEASURED = ("pairs_per_second", "pairs_per_cpu_second", "busy_cores_before")
SKIPPED = 3  # exit status of a peer whose package is missing
ROUNDS_PER_LOCK = 3  # a few minutes, while other benchmarks wait
STOP_SECONDS = 20  # time for a peer to stop its workers
SETTLE_SECONDS = 1.5  # time for the previous peer to fill its queues and become idle
LOAD_SECONDS = 0.5  # after that, the load by other processes is measured for this time


def main() -> None:
    """Measure, print the result, and write it to the file of --json."""
    options = _parse()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        peers = {}
        for name in options.only:
            peer = Peer(name, folder, options)
            stack.callback(peer.stop)
            if peer.start():
                peers[name] = peer
        runs = _interleave(peers, options)
        result = {
            "benchmark": "loader",
            "settings": {name: getattr(options, name) for name in ("batch_size", "seconds", "repeats")},
            "images": json.loads((folder / "images.json").read_text(encoding="utf-8")),
            "machine": hardware(),
            "systems": _compared(peers, runs),
        }
    _show(result)
    write_result(result, options.json)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Pairs per second of fasticcl's loader and of other loaders."
    )
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="default: all")
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="NAME=INTERPRETER",
        help="Python interpreters of peers with their own environment",
    )
    parser.add_argument("--folder", type=Path, help="folder for the images (default: a temporary folder)")
    parser.add_argument(
        "--images", type=int, default=600, help="minimum number of images (default %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="pairs per batch (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=6, help="length of a run (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each loader (default %(default)s)")
    parser.add_argument(
        "--lock", type=Path, help="file to lock while measuring, shared with other benchmarks"
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    options.python = dict(each.split("=", 1) for each in options.python if "=" in each)
    if unknown := sorted(set(options.python) - set(PEERS)):
        parser.error(f"--python names {unknown[0]!r}, which is not one of {', '.join(PEERS)}")
    return options


class Peer:
    """A loader in its own process.

    Args:
        name: its name in `PEERS`.
        folder: folder for the images.
        options: command-line options.
    """

    def __init__(self, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.name = name
        script = Path(__file__).parent / "peers" / PEERS[name]
        command = [options.python.get(name, sys.executable), script, "--serve", "--folder", folder]
        for option in ("images", "batch_size", "seconds"):
            command += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
        self.about: dict[str, Any] = {}
        self._messages = tempfile.TemporaryFile("w+")  # noqa: SIM115  # lives as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages, text=True
        )

    def start(self) -> bool:
        """Wait until the peer is ready. If its package is missing, print a message and return False."""
        line = self._read()
        if not line.startswith("{") and self._process.wait() == SKIPPED:
            print(f"{self.name} is skipped: {line}", end="", flush=True)
            return False
        self.about = json.loads(line)
        tried = {name: trial["pairs_per_cpu_second"] for name, trial in self.about["trials"].items()}
        print(f"{self.name}: {self.about['variant']}; pairs per CPU second: {tried}", flush=True)
        return True

    def measure(self) -> dict[str, float]:
        """Return pairs per second of wall-clock time and of processor time, over --seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("measure\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def stop(self) -> None:
        """End the process. Closing its input also ends its workers."""
        with self._messages, self._process:  # closes the pipes, then waits
            try:
                self._process.communicate(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _read(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        self._messages.seek(0)
        last = self._messages.read().strip().splitlines()[-1:]
        sys.exit(f"{self.name} ended with status {self._process.wait()}: {' '.join(last)}")


def _interleave(peers: Mapping[str, Peer], options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return all runs: every peer once per round, each after measuring the cores in use."""
    runs: dict[str, dict[str, list[float]]] = {name: {each: [] for each in MEASURED} for name in peers}
    for first in range(0, options.repeats, ROUNDS_PER_LOCK):
        with locked(options.lock):
            for repeat in range(first, min(first + ROUNDS_PER_LOCK, options.repeats)):
                _round(peers, runs, repeat)
        time.sleep(SETTLE_SECONDS)  # otherwise this process takes the lock again before a waiting one
    return runs


def _round(peers: Mapping[str, Peer], runs: dict[str, dict[str, list[float]]], repeat: int) -> None:
    for name in alternating(list(peers), repeat):
        time.sleep(SETTLE_SECONDS)
        found = {"busy_cores_before": busy_cores(LOAD_SECONDS)} | peers[name].measure()
        for each in MEASURED:
            runs[name][each].append(found[each])
    latest = ", ".join(f"{name} {found['pairs_per_cpu_second'][-1]:.0f}" for name, found in runs.items())
    print(f"round {repeat + 1}, pairs per CPU second: {latest}", flush=True)


def _compared(peers: Mapping[str, Peer], runs: Mapping[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return the facts and runs of every peer, and the ratios of ours to it, run by run."""
    systems = {}
    for name, found in runs.items():
        systems[name] = peers[name].about | {each: summarize(values) for each, values in found.items()}
        if OURS in runs:
            for each in ("pairs_per_second", "pairs_per_cpu_second"):
                systems[name][f"ours_divided_by_it_{each}"] = summarize(ratios(runs[OURS][each], found[each]))
    return systems


def _show(result: Mapping[str, Any]) -> None:
    for name, system in result["systems"].items():
        print(name)
        for key, found in system.items():
            if isinstance(found, dict) and "median" in found:
                print(f"    {key:40} {format_spread(found, 2)}")


if __name__ == "__main__":
    main()
