"""Images per second of `fasticcl predict` on a folder of JPEGs, beside the loader's on the same images.

    python benchmarks/predict.py [--images 1000] [--batch-size 64] [--repeats 5] [--folder DIR] [--lock FILE]
                                 [--json FILE]

The images are photographs of 500×375 pixels, decoded and resized to 224 as for ResNet-50. The network
averages the pixels, so that it binds nothing. In turns, three systems take every image once:

- evaluation: the batches of an evaluation of their shards, each through the network;
- predict: rows from the files, written as CSV;
- shards: the same from the shards.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from _runs import alternating, format_spread, hardware, locked, ratios, summarize, write_result
from peers._photo_crops import CLASSES, write_jpegs

from fasticcl.config import Engine
from fasticcl.convert.conversion import convert
from fasticcl.convert.layouts import folder as layout
from fasticcl.data.loader import evaluation_batches
from fasticcl.engine.run.weights import Description, Model
from fasticcl.method.network import Output
from fasticcl.predict.inputs import find_images
from fasticcl.predict.predictions import write_predictions
from fasticcl.predict.predictor import predict
from fasticcl.shards.reader import Shards
from fasticcl.system.allocator import keep_freed_memory
from fasticcl.system.machine import choose_machine

Runs = dict[str, dict[str, list[float]]]
CLOCKS = {"images/s": time.perf_counter, "images/cpu-s": time.process_time}  # others do not move the latter


class Averages(torch.nn.Module):
    """Logits from the mean of the pixels, as fast as a network can be."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = torch.nn.Linear(3, CLASSES)

    def forward(self, x: torch.Tensor) -> Output:
        return Output(self.classifier(x.mean(dim=(2, 3))), None)


def main() -> None:
    """Measure, print, and write the result if asked to."""
    parser = argparse.ArgumentParser(description="Images per second of predict and of the loader.")
    parser.add_argument("--images", type=int, default=1000, help="at least so many (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the images are or go; default: a temporary one")
    parser.add_argument("--lock", type=Path, help="a file that is locked while this measures")
    parser.add_argument("--json", type=Path, help="file for the result")
    given = parser.parse_args()
    keep_freed_memory()
    with ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        images = write_jpegs(folder / "files", given.images)
        convert(layout.read(folder / "files"), folder / "shards")
        systems = _systems(folder, given.batch_size)
        stack.enter_context(locked(given.lock))
        runs = _in_turns(systems, given.repeats)
    result = {
        "benchmark": "predict",
        "settings": {"batch_size": given.batch_size, "repeats": given.repeats},
        "images": images,
        "machine": hardware(),
        "systems": _compared(runs),
    }
    for name, found in result["systems"].items():
        print(f"{name:<11} " + "   ".join(f"{key} {format_spread(each, 2)}" for key, each in found.items()))
    write_result(result, given.json)


def _systems(folder: Path, batch_size: int) -> dict[str, Callable[[], int]]:
    """Return what is measured; each call takes all images once and returns how many there were."""
    network = Averages().eval().requires_grad_(False)
    shards = Shards(folder / "shards", "train")
    facts: dict[str, Any] = {"image_size": 224, "eval_resize": 256}
    facts |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    facts |= {"classes": shards.manifest.classes, "train_counts": shards.counts.tolist()}
    description = Description(dataset="folder", method="none", encoder="none", **facts)
    model = Model(network, description, Path(), None)  # pyrefly: ignore[bad-argument-type]
    here = choose_machine(Engine(device="cpu"))

    def evaluation() -> int:
        batches = evaluation_batches(shards, description.data, batch_size=batch_size)
        return sum(len(network(batch.x).logits.argmax(1)) for batch in batches)

    def rows(path: Path) -> int:
        found = predict(model, find_images([path]), here, topk=5, batch_size=batch_size, threads=None)
        return write_predictions(found, io.StringIO(), "csv")[0]

    return {
        "evaluation": evaluation,
        "predict": lambda: rows(folder / "files" / "train"),
        "shards": lambda: rows(folder / "shards" / "train"),
    }


def _in_turns(systems: dict[str, Callable[[], int]], repeats: int) -> Runs:
    """Measure, run by run; the first run of each, which warms it up, does not count."""
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
    """Return each system's figures, and run by run their ratio to those of the evaluation."""
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
