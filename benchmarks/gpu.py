"""Correctness and throughput on one GPU, in one command.

    python benchmarks/gpu.py [--out DIR] [--only PART ...] [--budget 380]
    python benchmarks/gpu.py --device cpu --small      every part at tiny sizes, without a GPU

The result is ``gpu.json`` and ``gpu.md`` in DIR (default: the folder in the environment variable OUT, or the
current folder), rewritten after every part. Parts that would start after the budget (in seconds) are skipped
and listed.

    graph       images of the DALI graph on the device compared with those on the CPU, for the same plan
    step        losses and one training step on the device compared with the CPU: float32, bfloat16, compiled
    corrupt     images that the mixed decoder cannot decode, and bytes that changed after conversion
    training    loader alone, step alone and end to end: ResNet-50, ResNeXt-50, ResNet-32, two phases
    decode      the loader by data.hw_decoder_load and threads, with p50 and p99 of the time per batch
    peers       two torch DataLoaders, with Pillow and with torchvision's decode_jpeg, an eager step with a
                Python loop over the centroids
    modes       a training step eager, compiled and compiled with CUDA graphs, and a comparison of the losses

It needs torch, torchvision, DALI, NumPy, Pillow, isal, rich, typer, pydantic and safetensors, but neither
simplejpeg nor scikit-learn, because it generates its own images. On a machine without a package index,
install these packages beforehand.
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from _gpu.bench import FULL, SMALL, Bench, Figures, prepare
from _gpu.damaged_images import corrupt
from _gpu.loader import decode
from _gpu.markdown import markdown
from _gpu.parity import graph, step
from _gpu.peers import peers
from _gpu.training import modes, training
from _runs import write_result

from fasticcl.system.allocator import keep_freed_memory
from fasticcl.system.hardware import hardware

PARTS: Mapping[str, Callable[[Bench], Figures]] = {
    "graph": graph,
    "step": step,
    "corrupt": corrupt,
    "training": training,
    "decode": decode,
    "peers": peers,
    "modes": modes,
}


def main() -> None:
    options = parse()
    deadline = time.monotonic() + options.budget
    if options.device == "gpu" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU. Add --device cpu --small.")
    keep_freed_memory()  # as in training
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = SMALL if options.small else FULL
    if options.small:
        torch.set_num_threads(1)  # more threads do not speed up networks this small

    result: Figures = {"benchmark": "gpu", "device": options.device, "small": options.small}
    result |= {"hardware": hardware(), "seconds": {}, "left_out": [], "failed": {}}
    with tempfile.TemporaryDirectory(prefix="fasticcl-gpu-") as folder:
        bench = prepare(sizes, options.device, Path(folder), lambda: time.monotonic() > deadline)
        for name, part in PARTS.items():
            if name not in options.only:
                continue
            if bench.out_of_time():
                result["left_out"].append(name)
                continue
            started = time.monotonic()
            try:
                result[name] = part(bench)
            except Exception as error:  # the other parts still run
                traceback.print_exc()
                result["failed"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
            result["seconds"][name] = round(time.monotonic() - started, 1)
            write(result, options.out)
            print(f"{name}: {result['seconds'][name]} s", flush=True)
    write(result, options.out)
    print(markdown(result, PARTS))
    sys.exit(1 if result["failed"] else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Correctness and throughput on one GPU.")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="use tiny sizes")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="folder (default %(default)s)"
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument(
        "--budget", type=float, default=380, help="seconds after which no part starts (default %(default)s)"
    )
    return parser.parse_args()


def write(result: Figures, folder: Path) -> None:
    write_result(result, folder / "gpu.json")
    (folder / "gpu.md").write_text(markdown(result, PARTS), encoding="utf-8")


if __name__ == "__main__":
    main()
