"""The rebalancing stage of a run once more, with other settings."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fasticcl.config import Config
from fasticcl.engine.dataset import Dataset, open_dataset
from fasticcl.engine.results import Report
from fasticcl.engine.run.folder import CENTROIDS, Record, Run
from fasticcl.engine.run.names import free_name
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.trainer import train
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.files import write_file
from fasticcl.method.network import Network
from fasticcl.resolve import Layer, resolve, validate
from fasticcl.system.machine import Machine, choose_machine
from fasticcl.system.ranks import Ranks

_CHANGED = {"engine": ("device", "workers", "report")}  # beside all of rebalance


@dataclass(frozen=True)
class FirstStage:
    """What the representation stage of a run ended with."""

    network: Network
    """Encoder and classifier, the teacher of equation 9; the projection head is discarded."""
    epochs: list[Record]
    """The records of its epochs."""
    bad_rows: list[int]
    """Training images that were found unreadable."""

    @classmethod
    def of(cls, run: Run, dataset: Dataset) -> "FirstStage":
        """Read it from a run's checkpoint.

        Raises:
            UserError: the stage is not finished, the checkpoint is damaged, or the data is another.
        """
        run.data_sha256 = dataset.train.manifest.source_sha256
        checkpoint = run.checkpoint()
        config = run.config.shortened() if run.config.engine.fast_dev_run else run.config
        if checkpoint.get("stage") == "rebalancing":
            weights: dict[str, Any] = checkpoint["teacher"]
        elif checkpoint and checkpoint["epoch"] >= config.optim.epochs:
            weights = checkpoint["network"]
        else:
            raise UserError(f"The representation stage of {run.folder} is not finished; {run.way_on}")
        network = Network(config.method.encoder, dataset.num_classes)
        network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("projection.")})
        epochs = [record for record in checkpoint["epochs"] if record["stage"] == "representation"]
        return cls(network, epochs, checkpoint["bad_rows"])


def changed(run: Run, settings: Layer) -> Config:
    """Return the configuration of a run with other settings of its rebalancing stage.

    Raises:
        UserError: a setting of something else, an unknown one, or a value out of its range.
    """
    for section, values in settings.items():
        for key in values if section in Config.model_fields and section != "rebalance" else ():
            if key not in _CHANGED.get(section, ()):
                changed = [
                    "-c",
                    str(run.folder / "config.toml"),
                    "--name",
                    "NEW",
                    "--set",
                    f"{section}.{key}=...",
                ]
                command = ["fasticcl", "train", *changed]
                raise UserError(
                    f"{section}.{key} is none of what can be set here (rebalance.*, engine.device, "
                    f"engine.workers, engine.report); start a new run for it: {shlex.join(command)}"
                )
    config = resolve(file=run.folder / "config.toml", options=settings)
    if not config.rebalance.epochs:
        raise UserError("rebalance.epochs is 0, so there is nothing to run; add --set rebalance.epochs=10.")
    return config


def rebalance_run(
    folder: Path, settings: Layer, *, name: str | None = None, console: Console | None = None
) -> Report:
    """Run the rebalancing stage of a run again, into a run of its own, and return its report.

    The new run lies beside the old one where that lies in a folder of the dataset's name, as runs do; else,
    when the old one was moved, it goes where its configuration says: <project>/<dataset>. It begins with a
    checkpoint from between the stages, so that it is the training of any run that goes on from there. It
    can be stopped and resumed; with unchanged settings it is equal to the bit, on a CPU, to the rebalancing
    of the run.

    Args:
        folder: the run folder; it is left as it is.
        settings: keys of ``rebalance``, and ``engine.device``, ``engine.workers``, ``engine.report``.
        name: name of the new run; None: that of the old one and the next free number
            where the new one lies.
        console: where progress is shown; None: nowhere.

    Raises:
        UserError: no run, an unfinished first stage, a setting that is not its own, or a name that is taken.
        Stopped: a signal ended the run; it can be resumed.
        TrainingFailed: as in training.
    """
    run = Run.open(folder)
    config = _placed(run, changed(run, settings), name)
    machine = choose_machine(config.engine)
    with machine.ranks.report_lost_rank():
        config = machine.ranks.run_on_main(lambda: _begin(run, config, machine))
    return train(config, resume=True, console=console)


def _placed(run: Run, config: Config, name: str | None) -> Config:
    """Return a configuration with a run folder of its own, beside that of ``run`` where that can be."""
    name = name or free_name(run.project / config.data.dataset, f"{run.folder.name}-rebalance")
    engine = {"project": str(run.project), "name": name}
    values = config.model_dump()
    return validate({**values, "engine": {**values["engine"], **engine}})


def _begin(run: Run, config: Config, machine: Machine) -> Config:
    """Make a run that stands between its stages, on this rank alone."""
    dataset = open_dataset(config, machine.gpu, require_cache=False)
    first = FirstStage.of(run, dataset)
    machine.to_device(first.network)
    # The other ranks are not here: a learner that is shared with them would wait for them.
    stage = Rebalancing(config, first.network, replace(machine, ranks=Ranks()))
    new = Run.create(config)
    new.data_sha256, new.epochs = run.data_sha256, first.epochs
    try:
        for name in ("metrics.jsonl", CENTROIDS):  # resuming cuts the lines off at the checkpoint
            if (run.folder / name).exists():
                write_file(new.folder / name, (run.folder / name).read_bytes())
    except OSError as error:
        raise UserError(
            f"Cannot write into {new.folder}: {error.strerror}; make room and start again."
        ) from None
    if not new.save(stage, 0, 0, {}, first.bad_rows):
        raise TrainingFailed(f"{new.folder}/last.pt could not be written; make room and start again.")
    return config
