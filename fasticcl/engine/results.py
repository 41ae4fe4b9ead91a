"""What a run achieved: the accuracies that it ended with, and the same again from its saved weights."""

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from fasticcl.engine.checkpoint import load_checkpoint
from fasticcl.engine.dataset import batches_to_evaluate, open_dataset
from fasticcl.engine.evaluate import METRICS, Metrics, evaluate
from fasticcl.engine.machine import choose_machine
from fasticcl.engine.run import Run
from fasticcl.engine.weights import WEIGHTS
from fasticcl.errors import UserError
from fasticcl.method.network import Network


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
    run = Run.open(folder)
    changed = {name: value for name, value in (("device", device), ("workers", workers)) if value is not None}
    config = run.config.model_copy(update={"engine": run.config.engine.model_copy(update=changed)})
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} is not finished; continue it with: {run.resume_command}")
    machine = choose_machine(config.engine)
    dataset = open_dataset(config)
    run.data_sha256 = dataset.train.manifest.source_sha256
    last, best = run.checkpoint(), load_checkpoint(folder / "best.pt")
    weights = {"after" if "teacher" in last else "last": load_file(folder / WEIGHTS)}
    if "teacher" in last:
        weights = {"before": last["teacher"], **weights}
    weights["best"] = best["network"]
    network = Network(config.method.encoder, dataset.num_classes)
    machine.place(network)
    rows = {}
    for name, state in weights.items():
        network.load_state_dict({k: v for k, v in state.items() if not k.startswith("projection.")})
        batches = batches_to_evaluate(config, dataset, machine)
        rows[name] = evaluate(network, batches, dataset.train.counts, machine)
    return Report(folder, rows, best["record"]["epoch"], dataset.evaluated.split)
