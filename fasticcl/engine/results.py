"""Final accuracies of a run, from its records or re-evaluated from the saved weights."""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from fasticcl.config import Config
from fasticcl.data.batch import StreamBatch
from fasticcl.engine.dataset import Dataset, open_dataset
from fasticcl.engine.evaluate import METRICS, Metrics, evaluate
from fasticcl.engine.loaders import evaluation_split_batches
from fasticcl.engine.run.checkpoint import BEST, BestEpoch
from fasticcl.engine.run.folder import WEIGHTS, RunFolder
from fasticcl.engine.run.writer import RunWriter
from fasticcl.errors import UserError
from fasticcl.method.network import Network
from fasticcl.paper.published import PublishedResult, published_result
from fasticcl.resolve import validate
from fasticcl.shards.published_subset import subset_note
from fasticcl.system.machine import Machine, choose_machine


@dataclass(frozen=True)
class Report:
    """The final accuracies of a run."""

    run: Path
    """The run folder."""
    rows: dict[str, Metrics]
    """Accuracies by name: ``before`` and ``after`` the second stage, both at the last epoch of their stage,
    and ``best``, the evaluated epoch with the highest overall accuracy on the evaluated split. Without a
    second stage the names are ``last`` and ``best``. A readout has no epochs to choose from, so it has no
    ``best``."""
    best_epoch: int
    """The epoch of ``best`` in its stage, from 1."""
    split: str
    """The evaluated split."""
    paper: PublishedResult | None = None
    """The figures of the paper for the dataset, method and settings of the run. None: there are none."""


def row_titles(names: Container[str]) -> dict[str, str]:
    """Return the titles of the rows of a `Report`, by name.

    Args:
        names: names of the rows. A readout has a row ``after`` and no row ``best``.
    """
    stage = "the readout" if "after" in names and "best" not in names else "rebalancing"
    return {
        "before": f"before {stage}",
        "after": f"after {stage}",
        "last": "last epoch",
        "best": "best epoch",
    }


def report_of(run: RunWriter, dataset: Dataset) -> Report:
    """Return the report of a finished run from its records."""
    before, after = run.metrics.last("representation"), run.metrics.last("rebalancing")
    best = run.metrics.best("rebalancing" if after else "representation")
    rows = {"before": before, "after": after} if after else {"last": before}
    config = run.folder.config
    if config.rebalance.readout == "none":
        rows["best"] = best
    accuracies = {name: {key: record[key] for key in METRICS} for name, record in rows.items() if record}
    return Report(
        run.folder.path,
        accuracies,
        best["epoch"] if best else 0,
        dataset.evaluated.split,
        published_result(config, subset_note(dataset.train.manifest)),
    )


def evaluate_run(folder: Path, *, device: str | None = None, workers: int | None = None) -> Report:
    """Evaluate the saved weights of a finished run.

    Args:
        folder: the run folder.
        device: auto, cpu or gpu, or None for the setting of the run.
        workers: number of threads, or None for the setting of the run.

    Raises:
        UserError: the run or its shards are missing, or the run is not finished.
    """
    saved = open_saved_run(folder, device=device, workers=workers)
    counts, batches = saved.dataset.train.counts, saved.batches()
    rows = {name: evaluate(network, batches, counts, saved.machine) for name, network in saved.networks()}
    paper = published_result(saved.config, subset_note(saved.dataset.train.manifest))
    return Report(folder, rows, saved.best_epoch, saved.dataset.evaluated.split, paper)


@dataclass(frozen=True)
class SavedRun:
    """A finished run with its data and its saved weights."""

    config: Config
    dataset: Dataset
    machine: Machine
    weights: dict[str, dict[str, torch.Tensor]]
    """State dicts of the network, with the same names as the rows of a `Report`."""
    best_epoch: int
    """The epoch of ``best`` in its stage, from 1."""
    bad_rows: list[int]
    """Rows of training images that could not be read."""

    def networks(self) -> Iterator[tuple[str, Network]]:
        """Yield each name with its network."""
        for name, state in self.weights.items():
            network = Network.restore(self.config.method.encoder, state)
            self.machine.to_device(network)
            yield name, network

    def batches(self) -> Iterable[StreamBatch]:
        """Return this rank's batches of the evaluated split, which can be iterated for every network."""
        return evaluation_split_batches(self.config, self.dataset, self.machine, repeat=True)


def open_saved_run(
    folder: Path, *, device: str | None = None, workers: int | None = None, alone: bool = False
) -> SavedRun:
    """Open a finished run.

    Args:
        folder, device, workers: as in `evaluate_run`.
        alone: if True, ignore the other ranks that torchrun may have started.

    Raises:
        UserError: the run or its shards are missing, or the run is not finished.
    """
    run = RunFolder.open(folder)
    values = run.config.model_dump()
    changed = {name: value for name, value in (("device", device), ("workers", workers)) if value is not None}
    config = validate({**values, "engine": values["engine"] | changed})
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} is not finished. {run.how_to_finish}")
    # Compiling takes longer than evaluating once. It would not change the accuracies.
    machine = replace(choose_machine(config.engine, alone), mode="off")
    dataset = open_dataset(config, machine.gpu, require_cache=False)
    last, _ = run.checkpoint(dataset.train.manifest.source_sha256) or (None, None)
    best = BestEpoch.load(folder / BEST)
    weights = {"before": last.teacher} if last and last.teacher else {}
    weights["after" if config.rebalance.enabled else "last"] = load_file(folder / WEIGHTS)
    if config.rebalance.readout == "none":
        weights["best"] = best.network
    return SavedRun(
        config,
        dataset,
        machine,
        weights,
        best.record["epoch"],
        last.bad_rows if last else [],
    )
