"""The result of one run for a cell of a table: its state, and its accuracies if it is finished."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from fasticcl.engine.run.folder import CONFIG
from fasticcl.engine.run.lock import is_locked
from fasticcl.engine.stages.stage import STAGES
from fasticcl.errors import UserError
from fasticcl.paper.table import Metric
from fasticcl.report.run_figures import METRIC_KEYS
from fasticcl.report.run_history import RunHistory, read_history
from fasticcl.reproduce.table.data_facts import DataFacts

RunState = Literal["finished", "running", "interrupted", "failed", "missing"]
_STAGE_TITLES = {"seed": " of the seed network", "representation": "", "rebalancing": " of the second stage"}


@dataclass(frozen=True)
class EpochAccuracy:
    """The accuracies of a run after one epoch."""

    epoch: int
    """The epoch in its stage, from 1."""
    values: Mapping[Metric, float | None]
    """Accuracies in percent. None: there are no classes in the group, or their number is unknown."""


@dataclass(frozen=True)
class RunResult:
    """The result of one run for a cell."""

    seed: int
    folder: Path
    state: RunState
    """``finished`` refers to the stages that the cell needs."""
    detail: str = ""
    """The progress of an unfinished run, such as "at epoch 12 of 60", or the error of a failed one."""
    last: EpochAccuracy | None = None
    """The accuracies at the last epoch. None: the run is not finished."""
    best: EpochAccuracy | None = None
    """The accuracies at the best epoch. None: the run is not finished, or its second stage is not trained and
    thus has no epochs."""
    environments: list[dict[str, Any]] = field(default_factory=list)
    """Versions and hardware at each start of the run."""

    @property
    def status(self) -> str:
        """State and detail in words."""
        separator = ": " if self.state == "failed" else " "
        return f"{self.state}{separator}{self.detail}" if self.detail else self.state


def run_result(
    folder: Path, seed: int, result: Literal["final", "before"], data: DataFacts | None, failure: str = ""
) -> RunResult:
    """Return the result of a run.

    Args:
        folder: the run folder, which may be missing.
        seed: the seed of the run.
        result: ``final``, or ``before`` for the accuracies before the second stage.
        data: the data of the cell, whose class counts the accuracy of the tail needs. None: unknown.
        failure: the error of the last attempt to train the run.
    """
    history = _history(folder)
    if history and result == "before":
        history = _without_second_stage(history)
    if history and history.finished:
        accuracies = history.accuracies
        last = accuracies["after" if "after" in accuracies else "last"]
        best = accuracies.get("best")
        data = data if data and _trained_on(history, data) else None
        last, best = (pair and _epoch_accuracy(*pair, data) for pair in (last, best))
        return RunResult(seed, folder, "finished", "", last, best, history.environments)
    if failure:
        return RunResult(seed, folder, "failed", failure)
    if not (folder / CONFIG).is_file():
        return RunResult(seed, folder, "missing")
    progress = _progress(history) if history else "before the first evaluation"
    return RunResult(seed, folder, "running" if is_locked(folder) else "interrupted", progress)


def _history(folder: Path) -> RunHistory | None:
    try:
        return read_history(folder)
    except UserError:  # no run or no evaluated epoch
        return None


def _without_second_stage(history: RunHistory) -> RunHistory:
    """Return the history as it would be if the run had ended before its second stage."""
    config = history.config
    second_stage = config.rebalance.model_copy(update={"epochs": 0, "readout": "none"})
    config = config.model_copy(update={"rebalance": second_stage})
    epochs = [record for record in history.epochs if record["stage"] != "rebalancing"]
    return replace(history, config=config, epochs=epochs)


def _trained_on(history: RunHistory, data: DataFacts) -> bool:
    return any(data.sha256.startswith(str(start.get("data"))) for start in history.environments)


def _epoch_accuracy(epoch: int, metrics: Mapping[str, float | None], data: DataFacts | None) -> EpochAccuracy:
    values: dict[Metric, float | None] = {
        name: metrics[METRIC_KEYS[name]] for name in get_args(Metric) if name in METRIC_KEYS
    }
    values["tail"] = data.tail_accuracy(values["medium"], values["few"]) if data else None
    return EpochAccuracy(epoch, values)


def _progress(history: RunHistory) -> str:
    """Return the last finished epoch and the number of epochs of its stage, such as "at epoch 12 of 60"."""
    config, last = history.effective_config, history.epochs[-1]
    lengths = (config.seed_epochs, config.optim.epochs, config.rebalance.trained_epochs)
    total = dict(zip(STAGES, lengths, strict=True))[last["stage"]]
    return f"at epoch {last['epoch']} of {total}{_STAGE_TITLES[last['stage']]}"
