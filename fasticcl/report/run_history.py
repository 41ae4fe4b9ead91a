"""The recorded history of a run, read from its folder: configuration, metrics per epoch, environments."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fasticcl.config import Config
from fasticcl.config.result_settings import result_settings
from fasticcl.engine.evaluate import METRICS, Metrics, is_evaluated
from fasticcl.engine.run.folder import ENVIRONMENT, RunFolder
from fasticcl.engine.stages.stage import STAGES
from fasticcl.errors import UserError
from fasticcl.paper.published import PublishedResult, published_result
from fasticcl.resolve import named_presets, resolve
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.published_subset import subset_note


@dataclass(frozen=True)
class RunHistory:
    """The history of a run, finished or not."""

    folder: Path
    config: Config
    epochs: list[dict[str, Any]]
    """One record per finished epoch, in order: stage, phase, epoch, losses, accuracies and throughput."""

    environments: list[dict[str, Any]] = field(default_factory=list)
    """One record per start of the run: versions and hardware."""

    @property
    def title(self) -> str:
        """Dataset and name of the run."""
        return f"{self.config.data.dataset}/{self.folder.name}"

    @property
    def effective_config(self) -> Config:
        """The configuration, shortened if the run used ``fast_dev_run``."""
        return self.config.shortened() if self.config.engine.fast_dev_run else self.config

    @property
    def has_readout(self) -> bool:
        """True if the second stage is a readout, which has one record and no epochs."""
        return self.config.rebalance.readout != "none"

    def stage(self, name: str) -> list[dict[str, Any]]:
        """Return the epochs of a stage."""
        return [record for record in self.epochs if record["stage"] == name]

    @property
    def unreadable_images(self) -> int:
        """Number of training images that could not be read."""
        return max(record.get("data/bad_samples", 0) for record in self.epochs)

    @cached_property
    def accuracies(self) -> dict[str, tuple[int, Metrics]]:
        """Epoch (from 1 in its stage) and accuracies, by name: before, after and best, or last and best.

        They are those of evaluated epochs. The best epoch is the first with the highest overall accuracy of
        the last stage. A readout is a single result, so there is no best epoch after it.
        """
        before, after = (
            [record for record in self.stage(name) if is_evaluated(record)]
            for name in ("representation", "rebalancing")
        )
        final = after or before
        if not final:
            return {}
        last = {"before": before[-1:], "after": after[-1:]} if after else {"last": before[-1:]}
        records = {name: epochs[0] for name, epochs in last.items() if epochs}
        if not (after and self.has_readout):
            records["best"] = max(final, key=lambda record: record["val/top1"])
        return {
            name: (record["epoch"], {key: record[key] for key in METRICS}) for name, record in records.items()
        }

    @property
    def final_accuracies(self) -> Metrics:
        """The accuracies of the last evaluated epoch, which are the ones to report."""
        return self.accuracies["after" if "after" in self.accuracies else "last"][1]

    @cached_property
    def paper(self) -> PublishedResult | None:
        """The figures of the paper for the dataset, method and settings of the run, or None."""
        return published_result(self.config, self.subset_note)

    @property
    def seed_note(self) -> str:
        """A sentence about the seed network that this run has trained (M2m), or an empty string."""
        evaluated = [record for record in self.stage("seed") if is_evaluated(record)]
        if not evaluated:
            return ""
        accuracy = evaluated[-1]["val/top1"]
        return (
            f"The seed network was trained first, with cross-entropy for {self.effective_config.seed_epochs} "
            f"epochs, and has an overall accuracy of {accuracy:.1f} %."
        )

    @cached_property
    def subset_note(self) -> str:
        """A sentence on the choice of the training images if it is not the published one, or an empty string.

        Runs of earlier versions did not record it. It is then read from their shards if these still exist.
        """
        if not self.environments:
            return ""
        environment = self.environments[-1]
        if "subset" in environment:
            return environment["subset"]
        try:
            manifest = Manifest.read(self.config.data.dir)
        except UserError:
            return ""
        recorded = environment.get("data")
        unchanged = manifest and recorded and manifest.source_sha256.startswith(recorded)
        return subset_note(manifest) if manifest and unchanged else ""

    @cached_property
    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Settings that differ from the presets: (preset value, run value) by section.key."""
        preset = result_settings(_preset_config(self.config))
        return {
            key: (preset.get(key), value)
            for key, value in result_settings(self.config).items()
            if preset.get(key) != value
        }

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings that affect the result, except the seed, and the checksum of the data.

        Runs with equal settings are repetitions of one experiment.
        """
        data = self.environments[-1].get("data") if self.environments else None
        return result_settings(self.config) | {"data.shards": data}

    @property
    def finished(self) -> bool:
        """True if all stages have all their epochs."""
        config = self.effective_config
        stages = map(self.stage, STAGES)
        finished_epochs = [len({record["epoch"] for record in stage}) for stage in stages]
        second = config.rebalance.trained_epochs or int(config.rebalance.enabled)  # a readout has one record
        return finished_epochs == [config.seed_epochs, config.optim.epochs, second]


def _preset_config(config: Config) -> Config:
    """Return the configuration of the presets of a run, as far as they are known."""
    data, options = config.data, {}
    if data.imbalance:
        options["data"] = {"imbalance": data.imbalance}
    presets = named_presets(data.dataset, config.method.name, config.optim.recipe, options)
    return presets or resolve(data.dataset, options=options)


def read_history(folder: Path) -> RunHistory:
    """Read the history of a run from its folder.

    Raises:
        UserError: the folder is not a run folder, or the run has no evaluated epoch.
    """
    return history_of(RunFolder.open(folder))


def history_of(run: RunFolder) -> RunHistory:
    """Return the history of a run.

    Raises:
        UserError: the run has no evaluated epoch.
    """
    folder = run.path
    epochs = read_epochs(folder)
    # The accuracies of a seed stage are not those of the run.
    if not any(is_evaluated(record) for record in epochs if record["stage"] != "seed"):
        kind = "evaluated" if epochs else "finished"
        raise UserError(f"{folder} has no {kind} epoch to report. {run.how_to_finish}")
    return RunHistory(folder, run.config, epochs, [*_read_lines(folder / ENVIRONMENT)])


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """Return the records of the finished epochs in a run folder, evaluated or not."""
    return [*_read_lines(folder / "metrics.jsonl", "val/top1")]


def _read_lines(path: Path, key: str = "") -> Iterator[dict[str, Any]]:
    """Yield the records of a file that have a key, or all of them."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    records = map(_parse, (line for line in lines if key in line))  # most lines are steps
    yield from (record for record in records if record and (not key or key in record))


def _parse(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}  # truncated by a crash
    return record if isinstance(record, dict) else {}
