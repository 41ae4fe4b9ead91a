"""A run as its files tell it: settings, and one record per epoch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fasticcl.config import Config
from fasticcl.engine.evaluate import METRICS, Metrics
from fasticcl.engine.run.folder import ENVIRONMENT, RunFolder
from fasticcl.errors import UserError
from fasticcl.resolve import preset_names, resolve

_INCIDENTAL = ("data.dir", "data.verify_reads", "data.cache")  # say nothing of what was learnt


@dataclass(frozen=True)
class RunRecord:
    """What the files of a run say, whether it is finished or not."""

    folder: Path
    config: Config
    epochs: list[dict[str, Any]]
    """One record per finished epoch, in order: place, losses, accuracies, throughput."""

    environments: list[dict[str, Any]] = field(default_factory=list)
    """One record per start: versions and hardware."""

    @property
    def title(self) -> str:
        """Dataset and name, by which a person knows the run."""
        return f"{self.config.data.dataset}/{self.folder.name}"

    def stage(self, name: str) -> list[dict[str, Any]]:
        """Return the epochs of a stage."""
        return [record for record in self.epochs if record["stage"] == name]

    @cached_property
    def accuracies(self) -> dict[str, tuple[int, Metrics]]:
        """Epoch (from 1 in its stage) and accuracies, by name: before, after and best, or last and best.

        The best epoch is the first with the highest overall accuracy of the last stage.
        """
        before, after = self.stage("representation"), self.stage("rebalancing")
        final = after or before
        if not final:
            return {}
        best = max(final, key=lambda record: record["val/top1"])
        rows = {"before": before[-1:], "after": after[-1:]} if after else {"last": before[-1:]}
        found = {name: each[0] for name, each in rows.items() if each} | {"best": best}
        return {
            name: (record["epoch"], {key: record[key] for key in METRICS}) for name, record in found.items()
        }

    @property
    def final(self) -> Metrics:
        """The accuracies of the last epoch, those to report."""
        rows = self.accuracies
        return rows["after" if "after" in rows else "last"][1]

    @cached_property
    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Settings that differ from the presets of dataset and method: (preset's, run's) by section.key."""
        method, data = self.config.method.name, self.config.data
        options = {"data": {"imbalance": data.imbalance}} if data.imbalance else {}
        preset = resolve(
            data.dataset, method=method if method in preset_names("method") else None, options=options
        )
        wanted, actual = flat(preset), flat(self.config)
        return {key: (wanted.get(key), value) for key, value in actual.items() if wanted.get(key) != value}

    @cached_property
    def group(self) -> dict[str, Any]:
        """What makes runs one experiment: the data and all settings but seed, name, places and machine."""
        data = self.environments[-1].get("data") if self.environments else None
        return flat(self.config) | {"data.shards": data}

    @property
    def finished(self) -> bool:
        """Whether both stages have all their epochs."""
        config = self.config.shortened() if self.config.engine.fast_dev_run else self.config
        wanted = [config.optim.epochs, config.rebalance.epochs]
        stages = (self.stage(name) for name in ("representation", "rebalancing"))
        return [len({record["epoch"] for record in stage}) for stage in stages] == wanted


def flat(config: Config) -> dict[str, Any]:
    """Return what bears on the result as {"section.key": value}: no places, no machine, no seed."""
    sections = config.model_dump(mode="json", exclude={"engine"})
    values = {f"{section}.{key}": value for section, each in sections.items() for key, value in each.items()}
    engine = {
        f"engine.{key}": getattr(config.engine, key) for key in ("precision", "sync_bn", "fast_dev_run")
    }
    return {key: value for key, value in (values | engine).items() if key not in _INCIDENTAL}


def read_record(folder: Path) -> RunRecord:
    """Read the files of a run.

    Raises:
        UserError: the folder holds no run, or one without a finished epoch.
    """
    run = RunFolder.open(folder)
    epochs = [record for record in _lines(folder / "metrics.jsonl") if "val/top1" in record]
    if not epochs:
        raise UserError(f"{folder} has no finished epoch to report. {run.how_to_finish}")
    return RunRecord(run.path, run.config, epochs, [*_lines(folder / ENVIRONMENT)])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    yield from filter(None, map(_parse, lines))


def _parse(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}  # cut short by a crash
    return record if isinstance(record, dict) else {}
