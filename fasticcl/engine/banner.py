"""The lines that a run prints before its first step."""

from collections.abc import Iterator, Mapping
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fasticcl.config import Config
from fasticcl.config.method_summary import method_summary
from fasticcl.data.plan import Phase
from fasticcl.data.sampling import class_probabilities
from fasticcl.engine.dataset import Dataset
from fasticcl.engine.progress import phase_costs
from fasticcl.engine.run.checkpoint import Checkpoint
from fasticcl.longtail import class_groups
from fasticcl.method.network import Network
from fasticcl.method.translation import translation_cost
from fasticcl.paper.published import paper_datasets, published_result
from fasticcl.plural import counted
from fasticcl.shards.published_subset import subset_note
from fasticcl.system.machine import Machine

_PHASES: Mapping[Phase, str] = {
    "warmup": "warm-up (T)",
    "interpolative": "interpolative",
    "rebalance": "rebalancing",
    "translation": "translation",
}
"""Name of each phase in the banner."""


def phase_epochs(config: Config) -> dict[Phase, int]:
    """Return the number of epochs of each phase of a configuration, in order.

    The epochs of the seed stage count as warm-up, whose batches they have.
    """
    seed: list[Phase] = ["warmup"] * config.seed_epochs
    phases = [*seed, *(config.phase(epoch) for epoch in range(config.optim.epochs))]
    epochs: dict[Phase, int] = {phase: phases.count(phase) for phase in dict.fromkeys(phases)}
    if config.rebalance.trained_epochs:
        epochs["rebalance"] = config.rebalance.trained_epochs
    return epochs


def _phases_in_words(config: Config) -> Iterator[str]:
    """Yield the number of epochs and the name of each phase, in order."""
    if config.seed_epochs:
        yield f"{config.seed_epochs} seed network"
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
    warmup = f" after {counted(optim.warmup_epochs, 'warm-up epoch')}" if optim.warmup_epochs else ""
    yield (
        f"data     {config.data.dataset}: {len(dataset.train):,} training images{holdout_note}, "
        f"{dataset.num_classes} classes ({sizes}), largest/smallest {counts.max()}/{counts.min()}; "
        f"{len(dataset.evaluated):,} {dataset.evaluated.split} images"
    )
    if note := subset_note(dataset.train.manifest):
        yield f"subset   {note}"
    yield (
        f"method   {config.method.name}: {config.method.encoder}, {parameters:,} parameters{head_note}, "
        f"seed {config.engine.seed}"
    )
    if parts := method_summary(config):
        yield f"parts    {'; '.join(parts)}"
    yield (
        f"schedule epochs: {epochs}; {steps:,} steps each; "
        f"global batch {optim.batch_size}{local_batch}; learning rate {optim.lr:g}, {optim.schedule}{warmup}"
    )
    if "translation" in phase_epochs(config):
        yield f"cost     {_translation_cost(config, counts)}"
    yield f"machine  {machine.describe()}"
    if not config.engine.fast_dev_run and config.data.dataset in paper_datasets():
        paper = published_result(config, subset_note(dataset.train.manifest))
        yield f"paper    {paper.summary if paper else _no_figure(config)}"
    ratio = counts.max() / counts.min()
    if config.data.imbalance and abs(ratio / config.data.imbalance - 1) > 0.05:
        yield f"warning  the imbalance ratio of these shards is {ratio:.0f}, not {config.data.imbalance}"


def _no_figure(config: Config) -> str:
    ratio = f" with imbalance ratio {config.data.imbalance}" if config.data.imbalance else ""
    return f"no figure for {config.method.name} on {config.data.dataset}{ratio}"


def _translation_cost(config: Config, counts: NDArray[np.integer]) -> str:
    """Return the expected cost of M2m in words, relative to cross-entropy with the same number of epochs."""
    epochs, costs, steps = phase_epochs(config), phase_costs(config, counts), config.method.m2m_steps
    drawn = class_probabilities(counts, config.data.resample_gamma)
    cost = translation_cost(counts, drawn, config.method)
    first = [phase for phase in epochs if phase != "rebalance"]
    total = sum(epochs[phase] * costs[phase] for phase in first) / config.optim.epochs
    seed = f"seed network: {config.seed_epochs} epochs first; " if config.seed_epochs else ""
    return (
        f"{seed}translation: {epochs['translation']} epochs with {steps} steps of two networks on "
        f"{cost.translated:.0%} of the images ({cost.chosen:.0%} are chosen, β rejects some of them), about "
        f"{cost.relative:.1f} times the cost of an epoch of cross-entropy; the whole run "
        f"costs about {total:.1f} times as much as cross-entropy"
    )


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
    epochs = (config.rebalance if stage == "rebalancing" else config.optim).epochs
    if epoch == epochs:
        return f"resumed  after the last {stage} epoch"
    return f"resumed  {stage} epoch {epoch + 1} of {epochs}, step {checkpoint.step:,} of {steps:,}"
