"""Throughput and correctness on one GPU, in one command of at most nine minutes.

    python benchmarks/gpu.py --out DIR [--only PART ...] [--budget 530] [--cifar SHARDS]
    python benchmarks/gpu.py --dry-run                    the rows with their estimated durations
    python benchmarks/gpu.py --summarize DIR/gpu.jsonl    gpu.json and gpu.md from the lines of a killed run
    python benchmarks/gpu.py --device cpu --small         every part at tiny sizes, without a GPU
    python benchmarks/gpu.py --whole-images               if first_light.py reports that regions fail: decode
                                                          whole images and then cut them

Each row is a line of ``gpu.jsonl`` in DIR (default: the folder in the environment variable OUT, or the
current folder), on disk before the next row starts. ``gpu.json`` and ``gpu.md`` are written from it at the
end. The first line lists all planned rows. The parts, in order of measurement:

    resnet50    ResNet-50, batch 256: step alone, then loader, step and end-to-end training interleaved, in
                both phases, and the parts of a step
    bare        a step of torchvision's ResNet-50 with cross-entropy: bfloat16, channels_last, compiled
    resnet32    as resnet50, with ResNet-32, batch 128 and images of 32×32
    modes       a step of ResNet-32 compiled, compiled with losses and with CUDA graphs, and its loss, and
                end-to-end training with the step captured as one CUDA graph
    peers       two torch DataLoaders with decode_jpeg and with Pillow, and an eager step with a Python loop
                over the centroids, each interleaved with ours
    cifar       200 + 10 epochs of CIFAR-100-LT in a process of its own, if --cifar names its shards
    decode      the loader by data.hw_decoder_load and threads, with p50 and p99 of the time per batch
    corrupt     images that the mixed decoder cannot decode, and bytes that changed after conversion
    graph       images of the DALI graph on the device compared with those on the CPU, for the same plan
    step        losses and one training step on the device compared with the CPU: float32, bfloat16, compiled
    resnext50   as resnet50, with ResNeXt-50

A row starts if its estimated duration ends before the budget (seconds). Rows run in a second process. If it
crashes, hangs, or its CUDA context breaks, the row has failed and a new process continues with the next one.
At the end of the budget, the row in progress is stopped. The exit code is 1 if a row has failed.

All compiled rows share inductor's cache folder (TORCHINDUCTOR_CACHE_DIR, by default the user's folder in
/tmp), so code that an earlier row or command compiled is reused.

It needs torch, torchvision, DALI, NumPy, Pillow, isal, pydantic, rich, typer and safetensors, but neither
simplejpeg nor scikit-learn, because it generates its own images. On a machine without a package index,
install these packages beforehand.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from _gpu.rows import read_rows
from _gpu.summary import markdown, write_summary
from _gpu.supervisor import Task, supervise

PARTS = (
    *("resnet50", "bare", "resnet32", "modes", "peers"),
    *("cifar", "decode", "corrupt", "graph", "step", "resnext50"),
)


def main() -> None:
    options = parse()
    if options.summarize:
        sys.exit(report(options.summarize))
    began, scratch = options.worker or (time.monotonic(), "")
    task = Task(
        file=options.out / "gpu.jsonl",
        folder=Path(scratch),
        device=options.device,
        small=options.small,
        only=options.only,
        cifar=options.cifar,
        budget=options.budget,
        began=float(began),
        whole_images=options.whole_images,
    )
    if options.dry_run:
        from _gpu.worker import describe_plan

        print(describe_plan(task))
    elif options.worker:
        from _gpu.worker import work

        work(task)
    else:
        sys.exit(run(task))


def run(task: Task) -> int:
    """Measure in another process and report, even after SIGTERM or Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    task.file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fasticcl-gpu-", ignore_cleanup_errors=True) as scratch:
        try:
            supervise([sys.executable, *sys.argv, "--worker", str(task.began), scratch], task)
        finally:
            code = report(task.file)
    return code


def report(file: Path) -> int:
    """Write and print the summary. Return 1 if a row has failed or there is none."""
    if not file.is_file() or not read_rows(file):
        print(f"{file} contains no rows.", file=sys.stderr)
        return 1
    result = write_summary(file)
    print(markdown(result))
    return 1 if result["failed"] else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput and correctness on one GPU.")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="use tiny sizes")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="folder (default %(default)s)"
    )
    parser.add_argument("--whole-images", action="store_true", help="decode no regions of images")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument(
        "--cifar", type=Path, metavar="DIR", help="shards of CIFAR-100-LT, imbalance ratio 100"
    )
    parser.add_argument(
        "--budget", type=float, default=530, help="seconds until the benchmark ends (default %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the rows and their estimated durations")
    parser.add_argument(
        "--summarize", type=Path, metavar="FILE", help="write gpu.json and gpu.md of a gpu.jsonl"
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)  # start of the benchmark, folder
    options = parser.parse_args()
    if options.cifar and not options.cifar.is_dir():
        parser.error(f"--cifar: {options.cifar} is not a folder.")
    if [*options.only] == ["cifar"] and not options.cifar:
        parser.error("--only cifar: name the shards of CIFAR-100-LT with --cifar DIR.")
    return options


if __name__ == "__main__":
    main()
