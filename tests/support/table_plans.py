"""Plans of small tables, and run folders that were not trained."""

import json
from pathlib import Path

from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.stages.stage import STAGES
from fasticcl.reproduce.request import Request
from fasticcl.shards.manifest import Manifest, SplitInfo

CHECKSUM = "a1" * 32


def write_manifest(
    folder, dataset="cifar100-lt", classes=100, checksum=CHECKSUM, splits=("train", "test"), **settings
):
    """Write the manifest of shards that do not exist, with ratio 100 in the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"train": [500] * (classes - 1) + [5], "val": [1] * classes, "test": [1] * classes}
    Manifest(
        dataset=dataset,
        classes=[f"class{k}" for k in range(classes)],
        splits={name: SplitInfo(class_counts=counts[name], shards=[], index_sha256="") for name in splits},
        settings=settings,
        source_sha256=checksum,
        reencoded={},
        quarantined=0,
        quarantine_sha256="",
    ).write(folder)
    return folder


def request(tmp_path, table="table1", columns=("cifar100-lt-100",), seeds=1, **options):
    """Return a request for a table with the shards of one column and the schedule of its preset."""
    root = tmp_path / "data"
    if not (root / "cifar100-lt-100").exists():
        write_manifest(root / "cifar100-lt-100", imbalance=100)
    defaults = {
        "data_root": root,
        "project": tmp_path / "runs",
        "recipe": "preset",
    }
    return Request(table, columns=columns, seeds=seeds, **(defaults | options))


def write_run(config, name=None, *, first=None, second=None, finished=True, checksum=CHECKSUM):
    """Write a run folder with records of its epochs, as if it was trained.

    Args:
        config: the configuration with its project.
        name: name of the folder, or that of the configuration.
        first, second: number of recorded epochs of each stage. None: all.
        finished: if False, the weights are not written.
        checksum: checksum of the data.
    """
    engine = config.engine.model_copy(update={"name": name or config.engine.name})
    run = RunFolder.create(config.model_copy(update={"engine": engine})).path
    all_epochs = (0, config.optim.epochs, config.rebalance.trained_epochs or int(config.rebalance.enabled))
    counts = [
        full if count is None else count for full, count in zip(all_epochs, (0, first, second), strict=True)
    ]
    accuracies = dict.fromkeys(("val/top1", "val/many", "val/medium", "val/few", "val/mean_class"), 50.0)
    records = [
        {"stage": stage, "phase": "warmup", "epoch": epoch + 1, **accuracies}
        for stage, count in zip(STAGES, counts, strict=True)
        for epoch in range(count)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (run / "environment.jsonl").write_text(json.dumps({"data": checksum[:12]}) + "\n")
    (run / "last.pt").touch()
    if finished:
        (run / "model.safetensors").touch()
    return Path(run)
