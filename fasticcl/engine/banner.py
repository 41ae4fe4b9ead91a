"""The lines that a run prints before its first step."""

from collections.abc import Iterator, Mapping
from itertools import groupby

from torch import nn

from fasticcl.config import Config
from fasticcl.config.method_summary import method_summary
from fasticcl.data.plan import Phase
from fasticcl.engine.dataset import Dataset
from fasticcl.engine.run.checkpoint import Checkpoint
from fasticcl.longtail import class_groups
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine

_PHASES: Mapping[Phase, str] = {
    "warmup": "warm-up (T)",
    "interpolative": "interpolative",
    "rebalance": "rebalancing",
    "translation": "translation",
}
"""Name of each phase in the banner."""


def phase_epochs(config: Config) -> dict[Phase, int]:
    """Return the number of epochs of each phase of a configuration, in order."""
    phases = [config.phase(epoch) for epoch in range(config.optim.epochs)]
    epochs: dict[Phase, int] = {phase: phases.count(phase) for phase in dict.fromkeys(phases)}
    if config.rebalance.trained_epochs:
        epochs["rebalance"] = config.rebalance.trained_epochs
    return epochs


def _phases_in_words(config: Config) -> Iterator[str]:
    """Yield the number of epochs and the name of each phase, in order."""
    # A method without an interpolative branch trains the whole stage in the phase "warmup".
    names = _PHASES if config.method.interpolative_weight else {**_PHASES, "warmup": "representation"}
    for phase, epochs in groupby(range(config.optim.epochs), config.phase):
        first, *others = epochs
        is_cooldown = phase == "warmup" and first >= config.optim.epochs - config.method.cooldown_epochs
        yield f"{1 + len(others)} {'cooldown' if is_cooldown else names[phase]}"
    if config.rebalance.trained_epochs:
        yield f"{config.rebalance.trained_epochs} {names['rebalance']}"


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def banner(config: Config, dataset: Dataset, network: Network, machine: Machine, steps: int) -> Iterator[str]:
    """Yield the lines on data, method, schedule and machine.

    Args:
        config: the effective configuration.
        dataset: the opened splits.
        network: network of the representation stage.
        machine: device and ranks.
        steps: steps per epoch.
    """
    counts, optim = dataset.train.counts, config.optim
    sizes = ", ".join(f"{int(members.sum())} {name}" for name, members in class_groups(counts).items())
    parameters, head = (
        _count_parameters(network),
        _count_parameters(network.projection) if network.projection else 0,
    )
    head_note = f" ({head:,} in the projection head, used in training only)" if head else ""
    epochs = ", ".join(_phases_in_words(config))
    ranks = machine.ranks.world_size
    holdout_note = f" ({len(dataset.holdout_rows):,} in the holdout)" if len(dataset.holdout_rows) else ""
    local_batch = f", {optim.batch_size // ranks} on each of {ranks} ranks" if ranks > 1 else ""
    warmup = f" after {optim.warmup_epochs} warm-up epochs" if optim.warmup_epochs else ""
    yield (
        f"data     {config.data.dataset}: {len(dataset.train):,} training images{holdout_note}, "
        f"{dataset.num_classes} classes ({sizes}), largest/smallest {counts.max()}/{counts.min()}; "
        f"{len(dataset.evaluated):,} {dataset.evaluated.split} images"
    )
    yield (
        f"method   {config.method.name}: {config.method.encoder}, {parameters:,} parameters{head_note}, "
        f"seed {config.engine.seed}"
    )
    if parts := method_summary(config):
        yield f"parts    {'; '.join(parts)}"
    yield (
        f"schedule epochs: {epochs}; {steps:,} steps each; global batch {optim.batch_size}{local_batch}; "
        f"learning rate {optim.lr:g}, {optim.schedule}{warmup}"
    )
    yield f"machine  {machine.describe()}"
    ratio = counts.max() / counts.min()
    if config.data.imbalance and abs(ratio / config.data.imbalance - 1) > 0.05:
        yield f"warning  the imbalance ratio of these shards is {ratio:.0f}, not {config.data.imbalance}"


def resume_line(config: Config, checkpoint: Checkpoint | None, steps: int) -> str:
    """Return the line that states at which step a run continues.

    Args:
        config: the effective configuration.
        checkpoint: the checkpoint that is resumed, or None if there is none.
        steps: steps per epoch.
    """
    if checkpoint is None:
        return "resumed  from the beginning, because there is no checkpoint"
    stage, epoch = checkpoint.stage, checkpoint.epoch
    if stage == "rebalancing" and config.rebalance.readout != "none":
        return f"resumed  {'after' if epoch else 'before'} the readout {config.rebalance.readout}"
    epochs = (config.optim if stage == "representation" else config.rebalance).epochs
    if epoch == epochs:
        return f"resumed  after the last {stage} epoch"
    return f"resumed  {stage} epoch {epoch + 1} of {epochs}, step {checkpoint.step:,} of {steps:,}"
