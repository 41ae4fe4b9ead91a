"""First light on a GPU: nine checks, in under four minutes, of the code that has never run on one.

    python benchmarks/first_light.py [--out DIR] [--only N ...] [--budget 230]
    python benchmarks/first_light.py --only N --whole-images   repeat a check without decoding regions
    python benchmarks/first_light.py --device cpu --small      the parts of all checks that work on a CPU

The result is ``first_light.jsonl`` in DIR (default: the folder in the environment variable OUT, or the
current folder). Each check appends one line when it ends, with its result (ok, failed or skipped), its
seconds and its figures. Killing the script loses no finished line, and a new start renames an earlier file.
The exit code is 1 if a check failed.

    1  imports           all modules that training needs, versions, GPU, cores, memory
    2  decoding          DALI decodes JPEGs on the GPU as on the CPU, the number of JPEG engines, and regions
                         of images. If regions fail or crash, all later checks decode whole images
    3  graph             images of the DALI graph on the GPU compared with those on the CPU: plain, jitter,
                         pad, host cache, device cache and small images, three phases, evaluation
    4  held outputs      batches stay unchanged while the GPU is busy
    5  synchronisation   no step of the training loop waits for the GPU, in any mode and phase
    6  loader            throughput of the loader alone, by threads and hardware decoder load
    7  resnet50          time and peak memory of a training step of ResNet-50 with batch 256
    8  cuda graphs       the modes captured and cuda-graphs, and graphs captured by torch, beside live DALI,
                         in separate processes, because they may crash
    9  resume            training stopped by SIGTERM and resumed, compared with an undisturbed run

All checks generate their own images. Only check 9 uses simplejpeg and scikit-learn, if they are installed.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from _first_light.checks import CHECKS
from _first_light.setup import Setup
from _first_light.supervisor import run_checks
from _gpu.rows import Rows


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rows = Rows(options.out / "first_light.jsonl", options.budget)
    checks = [check for check in CHECKS if check.number in options.only]
    with tempfile.TemporaryDirectory(prefix="fasticcl-first-light-") as folder:
        setup = Setup(options.device, options.small, Path(folder), not options.whole_images)
        finished = run_checks(checks, setup, rows)
    sys.exit(1 if any(row["result"] == "failed" for row in finished) else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Nine checks of the first run on a GPU.")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="default %(default)s")
    parser.add_argument("--small", action="store_true", help="use tiny sizes")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="folder (default %(default)s)"
    )
    parser.add_argument("--whole-images", action="store_true", help="decode no regions of images")
    numbers = [check.number for check in CHECKS]
    parser.add_argument(
        "--only",
        nargs="+",
        type=int,
        choices=numbers,
        default=numbers,
        metavar="N",
        help="numbers of the checks (default all)",
    )
    parser.add_argument(
        "--budget", type=float, default=230, help="seconds for all checks (default %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
