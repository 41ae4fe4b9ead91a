"""Small runs on the demo data, and comparisons of their files."""

import hashlib
import io
import json

import torch
from rich.console import Console
from safetensors.torch import load_file

import fasticcl
from fasticcl.data.batch import tensors_of
from fasticcl.engine.loop import Loop

NO_REPORT = {"engine.report": False}  # reports are tested in tests/report
SMALL = {"method.encoder": "resnet8", "method.warmup_epochs": 1, "rebalance.epochs": 2, "engine.log_every": 2}
FILES = {  # of a finished run without report
    "config.toml",
    "metrics.jsonl",
    "results.csv",
    "last.pt",
    "best.pt",
    "centroids.npy",
    "environment.jsonl",
    "model.safetensors",
}
IMAGES = 392  # training images of the demo data
TINY_COUNTS = [14, 12, 10, 8, 6, 4, 2, 2, 1, 1]
TINY_STEPS = sum(TINY_COUNTS) // 20
TINY = {
    "data.image_size": 8,
    "data.crop_padding": 1,
    "engine.log_every": 1,
    "engine.save_every": "2",
    **NO_REPORT,
}
SHORTEST = {"epochs": 1, "set": {"rebalance.epochs": 0}}  # options of `train_tiny`
TIMING = (
    "throughput/images_per_sec",
    "time/data_wait_pct",
    "time/epoch_sec",
    "time/eval_pct",
    "time/save_pct",
)


def train_demo(shards, project, set=(), *, name="run", dataset="demo", epochs=3, batch_size=40, **options):
    """Train a small network on the CPU without a report."""
    options |= {
        "name": name,
        "epochs": epochs,
        "batch_size": batch_size,
        "set": SMALL | NO_REPORT | dict(set),
    }
    return fasticcl.train(dataset, data=shards, project=project, device="cpu", **options)


def train_tiny(shards, project, set=(), **options):
    """Train 3 steps per epoch: 1 epoch of warm-up, 2 interpolative epochs and 1 of rebalancing."""
    return train_demo(shards, project, TINY | {"rebalance.epochs": 1} | dict(set), batch_size=20, **options)


def train_method(shards, project, method, set=(), **options):
    """Train a method preset with ``fast_dev_run``: 3 steps in each of 2 epochs and of its second stage.

    Deferred weights and re-sampling start with the second epoch.
    """
    options = {"name": method, "batch_size": 20, "device": "cpu", "fast_dev_run": True} | options
    settings = {"method.encoder": "resnet8"} | TINY | dict(set)
    return fasticcl.train("demo", method=method, data=shards, project=project, set=settings, **options)


def resume(project, name="run", **options):
    """Resume a run with the settings in its folder."""
    return fasticcl.train("demo", project=project, name=name, resume=True, **options)


def metrics(folder):
    """Return the records of ``metrics.jsonl`` without timings."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMING} for record in records]


def same_weights(one, other):
    """Return True if two runs ended with bit-identical weights."""
    one, other = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def equal(one, other):
    """Return True if two values with nested tensors are bit-identical."""
    if isinstance(one, dict):
        return isinstance(other, dict) and [*one] == [*other] and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


def differences(run, undisturbed):
    """Return the names of the files that differ between two finished runs, apart from timings."""
    differ = [] if metrics(run) == metrics(undisturbed) else ["metrics.jsonl"]
    for name in ("results.csv", "model.safetensors"):
        if (run / name).read_bytes() != (undisturbed / name).read_bytes():
            differ.append(name)
    for name in ("last.pt", "best.pt"):
        contents = [
            _without_timing(torch.load(folder / name, weights_only=True)) for folder in (run, undisturbed)
        ]
        if not equal(*contents):
            differ.append(name)
    names = [sorted(path.name for path in folder.iterdir()) for folder in (run, undisturbed)]
    return differ if names[0] == names[1] else [*differ, *names[0]]


def _without_timing(checkpoint):
    for record in [*checkpoint.get("epochs", []), checkpoint.get("record", {})]:
        for key in TIMING:
            record.pop(key, None)
    return checkpoint


class ConsoleOutput:
    """A console whose output is recorded."""

    def __init__(self):
        self.file = io.StringIO()
        self.console = Console(file=self.file)

    def warnings(self):
        return [line for line in self.file.getvalue().splitlines() if line.startswith("warning")]


class PowerCut(BaseException):
    """A simulated power failure: an exception that no code handles."""


def wait_for_writes(run):
    """Wait until the thread of a `RunWriter` has written all files so far."""
    run.thread.wait(run.thread.submit(lambda: None))


def record_steps(monkeypatch, after=None):
    """Return a list that records each step as (stage, step), and call ``after(count)`` after each.

    The files of earlier steps are written before the call.
    """
    steps, take_step = [], Loop.take_step

    def recorded(self, stage, batches, stats):
        take_step(self, stage, batches, stats)
        steps.append((stage.name, stats.steps - 1))
        if after:
            wait_for_writes(self.run)
            after(len(steps))

    monkeypatch.setattr(Loop, "take_step", recorded)
    return steps


def fingerprints(batch):
    """Return a short digest of every sample of a batch: pixels, classes and λ."""
    fields = [value.contiguous() for value in tensors_of(batch).values()]
    return [
        hashlib.sha1(b"".join(field[i].numpy().tobytes() for field in fields)).hexdigest()[:12]
        for i in range(len(fields[0]))
    ]
