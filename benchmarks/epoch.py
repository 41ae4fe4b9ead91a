"""Seconds of an epoch spent in training, in evaluation and in saving.

    python benchmarks/epoch.py [cifar100-lt] [--data DIR] [--epochs 8] [--set KEY=VALUE ...] [--json FILE]

The times are those of the training thread, from the epoch records of ``metrics.jsonl``. Saving counts in the
epoch after it. The first epoch, which fills the pipelines, is left out.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _runs import format_spread, hardware, summarize, write_result
from rich.console import Console

import fasticcl

PARTS = ("epoch", "training", "evaluation", "saving")


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as project:
        records = train(options, project)
    phases = summarise(records)
    show(phases)
    write_result(
        {
            "benchmark": "epoch",
            "dataset": options.dataset,
            "set": options.set,
            "machine": hardware(),
            "phases": phases,
        },
        options.json,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", nargs="?", default="demo", help="preset (default %(default)s)")
    parser.add_argument("--data", type=Path, help="folder of the shards")
    parser.add_argument("--epochs", type=int, default=8, help="of the first stage (default %(default)s)")
    parser.add_argument("--set", action="append", default=[], help="further settings, as in fasticcl train")
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args()


def train(options: argparse.Namespace, project: str) -> list[dict[str, Any]]:
    """Train a run and return the records of its epochs."""
    report = fasticcl.train(
        options.dataset,
        data=options.data,
        epochs=options.epochs,
        set=options.set,
        project=project,
        report=False,
        console=Console(),
    )
    records = map(json.loads, (report.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [record for record in records if "time/epoch_sec" in record]


def seconds(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of each part of an epoch."""
    epoch = record["time/epoch_sec"]
    evaluation, saving = (epoch * record[f"time/{name}_pct"] / 100 for name in ("eval", "save"))
    return {
        "epoch": epoch,
        "training": epoch - evaluation - saving,
        "evaluation": evaluation,
        "saving": saving,
    }


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the spread of the seconds of each part and of its percentage, by phase."""
    phases: dict[str, dict[str, Any]] = {}
    for phase in dict.fromkeys(record["phase"] for record in records[1:]):
        epochs = [seconds(record) for record in records[1:] if record["phase"] == phase]
        phases[phase] = {
            part: {
                "seconds": summarize([epoch[part] for epoch in epochs]),
                "percent": summarize([100 * epoch[part] / epoch["epoch"] for epoch in epochs]),
            }
            for part in PARTS
        }
    return phases


def show(phases: Mapping[str, Mapping[str, Any]]) -> None:
    for phase, parts in phases.items():
        print(f"{phase}, {len(parts['epoch']['seconds']['runs'])} epochs")
        for part, spreads in parts.items():
            seconds, percent = format_spread(spreads["seconds"], 2), format_spread(spreads["percent"], 1)
            print(f"    {part:10} {seconds:24} s   {percent} %")


if __name__ == "__main__":
    main()
