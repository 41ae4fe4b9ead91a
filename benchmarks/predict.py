"""Images per second of `fasticcl predict` on a folder of JPEGs, compared with the evaluation loader.

    python benchmarks/predict.py [--images 1000] [--batch-size 64] [--repeats 5] [--folder DIR] [--lock FILE]
                                 [--json FILE]

The images are photographs of 500×375 pixels, decoded and resized to 224 pixels as for ResNet-50. The
network only averages the pixels, so it is never the bottleneck. Three systems process every image once, in
interleaved runs:

- evaluation: the batches of an evaluation of the shards, each passed through the network
- predict: predictions for the files, written as CSV
- shards: predictions for the shards, written as CSV
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fasticcl  # noqa: F401  before torch, because it sets the wait policy of OpenMP threads

# isort: split
import torch
from _runs import alternating, format_spread, hardware, locked, ratios, summarize, write_result
from peers._photo_crops import CLASSES, write_jpegs

from fasticcl.config import Engine
from fasticcl.convert.conversion import convert
from fasticcl.convert.layouts import folder as layout
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.engine.run.weights import Description, Model
from fasticcl.method.network import Output
from fasticcl.predict.inputs import find_images
from fasticcl.predict.predictions import write_predictions
from fasticcl.predict.predictor import predict
from fasticcl.shards.reader import Shards
from fasticcl.system.allocator import keep_freed_memory
from fasticcl.system.machine import choose_machine

Runs = dict[str, dict[str, list[float]]]
CLOCKS = {
    "images/s": time.perf_counter,
    "images/cpu-s": time.process_time,
}  # CPU time is less affected by other work


class Averages(torch.nn.Module):
    """A minimal network: logits from the mean of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = torch.nn.Linear(3, CLASSES)

    def forward(self, x: torch.Tensor) -> Output:
        return Output(self.classifier(x.mean(dim=(2, 3))), None)


def main() -> None:
    """Measure, print the result, and write it to the file of --json."""
    parser = argparse.ArgumentParser(description="Images per second of predict and of the loader.")
    parser.add_argument(
        "--images", type=int, default=1000, help="minimum number of images (default %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images per batch (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="number of runs (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="folder for the images (default: a temporary folder)")
    parser.add_argument(
        "--lock", type=Path, help="file to lock while measuring, shared with other benchmarks"
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    keep_freed_memory()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        images = write_jpegs(folder / "files", options.images)
        convert(layout.read(folder / "files"), folder / "shards")
        systems = _systems(folder, options.batch_size)
        stack.enter_context(locked(options.lock))
        runs = _interleave(systems, options.repeats)
    result = {
        "benchmark": "predict",
        "settings": {"batch_size": options.batch_size, "repeats": options.repeats},
        "images": images,
        "machine": hardware(),
        "systems": _compared(runs),
    }
    for name, figures in result["systems"].items():
        print(
            f"{name:<11} "
            + "   ".join(f"{key} {format_spread(figure, 2)}" for key, figure in figures.items())
        )
    write_result(result, options.json)


def _systems(folder: Path, batch_size: int) -> dict[str, Callable[[], int]]:
    """Return the systems to measure. Each call processes all images and returns their number."""
    network = Averages().eval().requires_grad_(False)
    shards = Shards(folder / "shards", "train")
    facts: dict[str, Any] = {"image_size": 224, "eval_resize": 256}
    facts |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    facts |= {"classes": shards.manifest.classes, "train_counts": shards.counts.tolist()}
    description = Description(dataset="folder", method="none", encoder="none", **facts)
    model = Model(network, description, Path(), None)  # pyrefly: ignore[bad-argument-type]
    machine = choose_machine(Engine(device="cpu"))

    def evaluation() -> int:
        batches = evaluation_batches(shards, description.data, batch_size=batch_size)
        return sum(len(network(batch.x).logits.argmax(1)) for batch in batches)

    def rows(path: Path) -> int:
        found = predict(model, find_images([path]), machine, topk=5, batch_size=batch_size, threads=None)
        return write_predictions(found, io.StringIO(), "csv")[0]

    return {
        "evaluation": evaluation,
        "predict": lambda: rows(folder / "files" / "train"),
        "shards": lambda: rows(folder / "shards" / "train"),
    }


def _interleave(systems: dict[str, Callable[[], int]], repeats: int) -> Runs:
    """Return the rates of each run. The first run of each system is a warm-up and is discarded."""
    runs: Runs = {measure: {name: [] for name in systems} for measure in CLOCKS}
    for repeat in range(-1, repeats):
        for name in alternating([*systems], repeat):
            began = {measure: clock() for measure, clock in CLOCKS.items()}
            images = systems[name]()
            for measure, clock in CLOCKS.items():
                if repeat >= 0:
                    runs[measure][name].append(images / (clock() - began[measure]))
    return runs


def _compared(runs: Runs) -> dict[str, Any]:
    """Return the rates of each system and their ratios to the evaluation, run by run."""
    return {
        name: {measure: summarize(values[name]) for measure, values in runs.items()}
        | {
            f"{measure} / evaluation": summarize(ratios(values[name], values["evaluation"]))
            for measure, values in runs.items()
        }
        for name in runs["images/s"]
    }


if __name__ == "__main__":
    main()
