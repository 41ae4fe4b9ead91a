"""What a run says before its first step."""

from collections.abc import Iterator, Mapping

from torch import nn

from fasticcl.config import Config
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
}


def phase_epochs(config: Config) -> dict[Phase, int]:
    """Return the epochs of each phase that a configuration has, in order."""
    phases = [config.phase(epoch) for epoch in range(config.optim.epochs)]
    epochs: dict[Phase, int] = {phase: phases.count(phase) for phase in dict.fromkeys(phases)}
    if config.rebalance.epochs:
        epochs["rebalance"] = config.rebalance.epochs
    return epochs


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def banner(config: Config, dataset: Dataset, network: Network, machine: Machine, steps: int) -> Iterator[str]:
    """Yield lines on data, method, schedule and machine.

    Args:
        config: as the run follows it.
        dataset: the opened splits.
        network: that of the representation stage.
        machine: where it runs.
        steps: steps of an epoch.
    """
    counts, optim = dataset.train.counts, config.optim
    sizes = ", ".join(f"{int(member.sum())} {name}" for name, member in class_groups(counts).items())
    parameters, head = _parameters(network), _parameters(network.projection) if network.projection else 0
    of_head = f" ({head:,} in the projection head, which serves training alone)" if head else ""
    epochs = ", ".join(f"{count} {_PHASES[phase]}" for phase, count in phase_epochs(config).items())
    ranks = machine.ranks.world_size
    held_back = f" ({len(dataset.holdout_rows):,} held back)" if len(dataset.holdout_rows) else ""
    share = f", {optim.batch_size // ranks} on each of {ranks} ranks" if ranks > 1 else ""
    rise = f" after {optim.warmup_epochs} rising epochs" if optim.warmup_epochs else ""
    yield (
        f"data     {config.data.dataset}: {len(dataset.train):,} training images{held_back}, "
        f"{dataset.num_classes} classes ({sizes}), largest/smallest {counts.max()}/{counts.min()}; "
        f"{len(dataset.evaluated):,} {dataset.evaluated.split} images"
    )
    yield (
        f"method   {config.method.name}: {config.method.encoder}, {parameters:,} parameters{of_head}, "
        f"seed {config.engine.seed}"
    )
    yield (
        f"schedule epochs: {epochs}; {steps:,} steps each; global batch {optim.batch_size}{share}; "
        f"learning rate {optim.lr:g}, {optim.schedule}{rise}"
    )
    yield f"machine  {machine.describe()}"
    ratio = counts.max() / counts.min()
    if config.data.imbalance and abs(ratio / config.data.imbalance - 1) > 0.05:
        yield f"warning  the imbalance ratio of these shards is {ratio:.0f}, not {config.data.imbalance}"


def resumed(config: Config, checkpoint: Checkpoint | None, steps: int) -> str:
    """Return the line on where a run goes on.

    Args:
        config: as the run follows it.
        checkpoint: what it goes on from; None: from the beginning.
        steps: steps of an epoch.
    """
    if checkpoint is None:
        return "resumed  from the beginning: it had written no checkpoint"
    stage, epoch = checkpoint.stage, checkpoint.epoch
    epochs = (config.optim if stage == "representation" else config.rebalance).epochs
    if epoch == epochs:
        return f"resumed  after the last {stage} epoch"
    return f"resumed  {stage} epoch {epoch + 1} of {epochs}, step {checkpoint.step:,} of {steps:,}"
