"""What a run achieved: the accuracies that it ended with, and the same again from its saved weights."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from fasticcl.config import Config
from fasticcl.data.batch import StreamBatch
from fasticcl.engine.dataset import Dataset, open_dataset
from fasticcl.engine.evaluate import METRICS, Metrics, evaluate
from fasticcl.engine.loaders import evaluation_split_batches
from fasticcl.engine.run.checkpoint import load_checkpoint
from fasticcl.engine.run.folder import Run
from fasticcl.engine.run.weights import WEIGHTS
from fasticcl.errors import UserError
from fasticcl.method.network import Network
from fasticcl.resolve import validate
from fasticcl.system.machine import Machine, choose_machine

TITLES = {
    "before": "before rebalancing",
    "after": "after rebalancing",
    "last": "last epoch",
    "best": "best epoch",
}
"""What a person reads for each row of a `Report`."""


@dataclass(frozen=True)
class Report:
    """The accuracies of a run, by what was evaluated."""

    run: Path
    rows: dict[str, Metrics]
    """``before`` and ``after`` rebalancing, both at the last epoch of their stage, and ``best``, the
    epoch with the highest overall accuracy on the evaluated split. Without rebalancing: ``last``
    and ``best``."""
    best_epoch: int
    """The epoch of ``best``, counted from 1 in its stage."""
    split: str
    """The split that was evaluated."""


def report_of(run: Run, split: str) -> Report:
    """Return the report of a run that has ended, from its records."""
    before, after = run.last("representation"), run.last("rebalancing")
    best = run.best("rebalancing" if after else "representation")
    rows = {"before": before, "after": after, "best": best} if after else {"last": before, "best": best}
    accuracies = {name: {key: record[key] for key in METRICS} for name, record in rows.items() if record}
    return Report(run.folder, accuracies, best["epoch"] if best else 0, split)


def evaluate_run(folder: Path, *, device: str | None = None, workers: int | None = None) -> Report:
    """Evaluate the saved weights of a finished run again.

    Args:
        folder: the run folder.
        device: auto, cpu or gpu; None: as the run was started.
        workers: threads; None: as the run was started.

    Raises:
        UserError: no run, an unfinished one, or missing shards.
    """
    saved = open_saved(folder, device=device, workers=workers)
    counts = saved.dataset.train.counts
    rows = {
        name: evaluate(network, saved.batches(), counts, saved.machine) for name, network in saved.networks()
    }
    return Report(folder, rows, saved.best_epoch, saved.dataset.evaluated.split)


@dataclass(frozen=True)
class Saved:
    """A finished run, opened: its data and the weights that it kept."""

    run: Run
    config: Config
    dataset: Dataset
    machine: Machine
    weights: dict[str, dict[str, torch.Tensor]]
    """By name, as in the rows of a `Report`; without the projection head."""
    best_epoch: int
    """The epoch of ``best``, counted from 1 in its stage."""

    def networks(self) -> Iterator[tuple[str, Network]]:
        """Yield each name and its network: one module that changes its weights."""
        network = Network(self.config.method.encoder, self.dataset.num_classes)
        self.machine.to_device(network)
        for name, state in self.weights.items():
            network.load_state_dict(state)
            yield name, network

    def batches(self) -> Iterable[StreamBatch]:
        """Return the images that are evaluated, each once."""
        return evaluation_split_batches(self.config, self.dataset, self.machine)


def open_saved(
    folder: Path, *, device: str | None = None, workers: int | None = None, alone: bool = False
) -> Saved:
    """Open a finished run.

    Args:
        folder, device, workers: as in `evaluate_run`.
        alone: whether this process evaluates by itself, even where torchrun started others beside it.

    Raises:
        UserError: no run, an unfinished one, or missing shards.
    """
    run = Run.open(folder)
    values = run.config.model_dump()
    changed = {name: value for name, value in (("device", device), ("workers", workers)) if value is not None}
    config = validate({**values, "engine": values["engine"] | changed})
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} is not finished; {run.way_on}")
    machine = choose_machine(config.engine, alone)
    dataset = open_dataset(config, machine.gpu, require_cache=False)
    run.data_sha256 = dataset.train.manifest.source_sha256
    last, best = run.checkpoint(), load_checkpoint(folder / "best.pt")
    weights = {"before": last["teacher"]} if "teacher" in last else {}
    weights["after" if config.rebalance.epochs else "last"] = load_file(folder / WEIGHTS)
    weights["best"] = best["network"]
    without_head = {
        name: {key: value for key, value in state.items() if not key.startswith("projection.")}
        for name, state in weights.items()
    }
    return Saved(run, config, dataset, machine, without_head, best["record"]["epoch"])
