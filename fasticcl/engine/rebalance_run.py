"""Run the rebalancing stage of a run again with other settings, as a new run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from fasticcl.config import Config
from fasticcl.config.layers import Layer
from fasticcl.engine.dataset import Dataset, open_dataset
from fasticcl.engine.results import Report
from fasticcl.engine.run.checkpoint import LAST, Checkpoint, Record
from fasticcl.engine.run.folder import CENTROIDS, RunFolder, default_name, free_name
from fasticcl.engine.run.metrics_log import METRICS_LOG
from fasticcl.engine.run.rerun_settings import method_name, with_settings
from fasticcl.engine.stages.second_stage import build_second_stage
from fasticcl.engine.stages.stage import STAGES
from fasticcl.engine.trainer import train
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.files import write_file
from fasticcl.method.network import Network
from fasticcl.resolve import validate
from fasticcl.system.machine import Machine, choose_machine
from fasticcl.system.ranks import Ranks


@dataclass(frozen=True)
class FirstStage:
    """The result of the representation stage of a run."""

    network: Network
    """Encoder and classifier, the teacher of equation 9, without the projection head."""
    epochs: list[Record]
    """The records of its epochs, and of a seed stage before it."""
    bad_rows: list[int]
    """Rows of training images that could not be read."""

    @classmethod
    def of(
        cls, run: RunFolder, dataset: Dataset, warn: Callable[[str], None] = lambda _: None
    ) -> "FirstStage":
        """Load the result from a checkpoint.

        Args:
            run: the run.
            dataset: its data.
            warn: called with a message if ``last.pt`` is damaged and ``previous.pt`` replaces it.

        Raises:
            UserError: the stage is not finished, the checkpoint is damaged, or the training data has changed.
        """
        checkpoint, _ = run.checkpoint(dataset.train.manifest.source_sha256, warn) or (None, None)
        config = run.config.shortened() if run.config.engine.fast_dev_run else run.config
        if checkpoint is None or checkpoint.position < (STAGES.index("representation"), config.optim.epochs):
            raise UserError(f"The representation stage of {run.path} is not finished. {run.how_to_finish}")
        weights = checkpoint.teacher or checkpoint.state["network"]
        network = Network.restore(config.method.encoder, weights)
        epochs = [record for record in checkpoint.epochs if record["stage"] != "rebalancing"]
        return cls(network, epochs, checkpoint.bad_rows)


def rebalance_run(
    folder: Path,
    settings: Layer,
    *,
    method: str | None = None,
    name: str | None = None,
    console: Console | None = None,
) -> Report:
    """Run the rebalancing stage of a run again as a new run, and return its report.

    The new run is created next to the old one if their folder is named after the dataset, and otherwise in
    the configured ``<project>/<dataset>``. It starts with a checkpoint from between the stages, from which
    ordinary training continues, so it can be stopped and resumed. With unchanged settings its result on a CPU
    is bit-identical to the rebalancing stage of the old run.

    Args:
        folder: the run folder, which is not modified.
        settings: keys of ``rebalance``, and ``engine.device``, ``engine.workers``, ``engine.report``.
        method: method preset whose second stage replaces that of the run, or None to repeat the run's stage.
        name: name of the new run. None for the next free number after the method, see `method_name`, or
            without a method after the old name with ``-rebalance``.
        console: shows the progress, or None for no output.

    Raises:
        UserError: there is no run, its first stage is not finished, a setting is not allowed, or the name is
            taken.
        Stopped: a signal stopped the run, which can be resumed.
        TrainingFailed: training fails, as in `train`.
    """
    run = RunFolder.open(folder)
    config = _with_new_folder(run, with_settings(run, settings, method), method, name)
    machine = choose_machine(config.engine)
    with machine.ranks.report_lost_rank():
        config = machine.ranks.run_on_main(lambda: _create(run, config, machine))
    return train(config, resume=True, console=console)


def _with_new_folder(run: RunFolder, config: Config, method: str | None, name: str | None) -> Config:
    """Return a configuration with the method and the folder of the new run."""
    values, runs = config.model_dump(), run.project / config.data.dataset
    if method:
        values["method"]["name"] = method_name(run.config, method)
        name = name or default_name(runs, validate(values))
    name = name or free_name(runs, f"{run.path.name}-rebalance")
    return validate({**values, "engine": {**values["engine"], "project": str(run.project), "name": name}})


def _create(run: RunFolder, config: Config, machine: Machine) -> Config:
    """Create a run that has finished the first stage. Only rank 0 does this."""
    dataset = open_dataset(config, machine.gpu, require_cache=False)
    first = FirstStage.of(run, dataset)
    machine.to_device(first.network)
    # A stage on several ranks would wait for the other ranks, which do not create it.
    alone = replace(machine, ranks=Ranks())
    stage = build_second_stage(config, first.network, alone, dataset.train.counts)
    new = RunFolder.create(config).path
    checkpoint = Checkpoint(
        stage=stage.name,
        epoch=0,
        step=0,
        data_sha256=dataset.train.manifest.source_sha256,
        state=stage.state_dict(),
        bad_rows=first.bad_rows,
        epochs=first.epochs,
    )
    try:
        for name in (METRICS_LOG, CENTROIDS):  # resuming truncates the log at the checkpoint
            if (run.path / name).exists():
                write_file(new / name, (run.path / name).read_bytes())
    except OSError as error:
        raise UserError(
            f"Cannot write into {new}: {error.strerror}. Free some space and start again."
        ) from None
    try:
        checkpoint.save(new / LAST)
    except OSError:
        raise TrainingFailed(f"Cannot write {new / LAST}. Free some space and start again.") from None
    return config
