"""Pairs per second of fasticcl's loader and of what else one would take, measured in turns.

    python benchmarks/loader.py [--only NAME ...] [--python NAME=INTERPRETER ...] [--images 600]
                                [--batch-size 32] [--seconds 6] [--repeats 5] [--lock FILE] [--json FILE]

Every loader is a script in ``peers/``, which also runs alone, and a process of its own here: it waits
without work until its turn comes. All give the same thing from the same images: class-agnostic images
x_h, mixed images x_f = λ·x_h + (1 - λ)·x_t with class-balanced x_t, float32, 224×224 and normalised, with a
random-resized crop and a random flip, their labels and one λ per batch. The batch is looked at and
dropped; there is no model. The files are in the page cache, so no disk is measured.

It needs the extra ``demo``: the images are cut from the two photographs that ship with scikit-learn.
A peer that is not installed is left out, with a sentence that says how to get it; ``--python`` names
the interpreter of a peer that has an environment of its own.
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
PEERS = {  # name: script in peers/; ours goes first and makes the images
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
ROUNDS_A_LOCK = 3  # a few minutes, in which others who measure wait
PATIENCE = 20  # seconds for a peer to end its workers
SETTLE = 1.5  # seconds in which the peer that just stopped fills its queues and falls idle
LISTEN = 0.5  # seconds after that in which the use of the cores by others is measured


def main() -> None:
    """Measure, print, and write the result if asked to."""
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
        runs = _in_turns(peers, options)
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
    parser = argparse.ArgumentParser(description="Pairs per second of fasticcl's loader and of others.")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="default: all")
    parser.add_argument("--python", nargs="+", default=[], metavar="NAME=INTERPRETER", help="of single peers")
    parser.add_argument("--folder", type=Path, help="where the images are or go; default: a temporary one")
    parser.add_argument("--images", type=int, default=600, help="at least so many (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=6, help="per measurement (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each (default %(default)s)")
    parser.add_argument("--lock", type=Path, help="file to lock meanwhile, where others measure too")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    options.python = dict(each.split("=", 1) for each in options.python if "=" in each)
    if unknown := sorted(set(options.python) - set(PEERS)):
        parser.error(f"--python names {unknown[0]!r}, which is none of {', '.join(PEERS)}")
    return options


class Peer:
    """A loader in a process of its own.

    Args:
        name: what it is called in `PEERS`.
        folder: where the images are or go.
        options: of the command line.
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
        """Wait until it is ready; return False, with a sentence printed, where its package is missing."""
        line = self._read()
        if not line.startswith("{") and self._process.wait() == SKIPPED:
            print(f"{self.name} is left out: {line}", end="", flush=True)
            return False
        self.about = json.loads(line)
        tried = {name: trial["pairs_per_cpu_second"] for name, trial in self.about["trials"].items()}
        print(f"{self.name}: {self.about['variant']}; pairs per CPU second: {tried}", flush=True)
        return True

    def measure(self) -> dict[str, float]:
        """Return pairs per second, and per second of processor time, over the seconds of the command line."""
        assert self._process.stdin is not None
        self._process.stdin.write("measure\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def stop(self) -> None:
        """End the process and, through its closed input, the workers that it has."""
        with self._messages, self._process:  # closes the pipes, then waits
            try:
                self._process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _read(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        self._messages.seek(0)
        last = self._messages.read().strip().splitlines()[-1:]
        sys.exit(f"{self.name} ended with status {self._process.wait()}: {' '.join(last)}")


def _in_turns(peers: Mapping[str, Peer], options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Measure every peer once per repeat, and just before it the cores in use; return all runs."""
    runs: dict[str, dict[str, list[float]]] = {name: {each: [] for each in MEASURED} for name in peers}
    for first in range(0, options.repeats, ROUNDS_A_LOCK):
        with locked(options.lock):
            for repeat in range(first, min(first + ROUNDS_A_LOCK, options.repeats)):
                _round(peers, runs, repeat)
        time.sleep(SETTLE)  # without it this process gets the lock again before those who wait
    return runs


def _round(peers: Mapping[str, Peer], runs: dict[str, dict[str, list[float]]], repeat: int) -> None:
    for name in alternating(list(peers), repeat):
        time.sleep(SETTLE)
        found = {"busy_cores_before": busy_cores(LISTEN)} | peers[name].measure()
        for each in MEASURED:
            runs[name][each].append(found[each])
    latest = ", ".join(f"{name} {found['pairs_per_cpu_second'][-1]:.0f}" for name, found in runs.items())
    print(f"round {repeat + 1}, pairs per CPU second: {latest}", flush=True)


def _compared(peers: Mapping[str, Peer], runs: Mapping[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return what is known of every peer, its runs, and how many times as fast ours was, run by run."""
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
