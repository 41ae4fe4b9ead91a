"""The work of a run: its training steps and evaluations, grouped by kinds that take the same time."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fasticcl.bench.dataset_sizes import DatasetSizes
from fasticcl.config import Config
from fasticcl.data.plan import Phase
from fasticcl.engine.compile_trial import RemainingSteps, choose_untried
from fasticcl.engine.dataset import open_dataset
from fasticcl.engine.loaders import FAST_DEV_RUN_STEPS, evaluation_batch_size
from fasticcl.engine.progress import phase_costs
from fasticcl.engine.stages.m2m import seed_config
from fasticcl.engine.stages.stage import STAGES, StageName
from fasticcl.errors import UserError
from fasticcl.method.readouts import find_readout
from fasticcl.shards.manifest import Manifest
from fasticcl.system.machine import Machine, Mode

Activity = Phase | Literal["evaluation"]
"""A training step of a phase, or the evaluation of a batch."""
_EVALUATION_COST = 0.5  # of an evaluated batch of the size of training: a forward pass without gradient


@dataclass(frozen=True)
class StepKind:
    """Steps that take the same time: those of one activity with one encoder, batch size and mode.

    Settings that do not change the amount of computation, such as learning rates and temperatures, do not
    count. Neither does the number of classes, because the classifier is small compared with the encoder.
    """

    activity: Activity
    mode: Mode
    """Compilation of the steps."""
    network: tuple[Hashable, ...]
    """The settings on which all activities depend: encoder, images and machine."""
    options: tuple[Hashable, ...]
    """The settings on which this activity depends."""
    config: Config = field(compare=False, repr=False)
    """A configuration with such steps."""

    @classmethod
    def of(cls, config: Config, activity: Activity, mode: Mode) -> "StepKind":
        """Return the kind of the steps of a configuration."""
        data, engine = config.data, config.engine
        # Only images that are not cached are decoded again in each epoch, which takes longer for large ones.
        images = data.dataset if data.crop != "pad" else ""
        network = (
            *(config.method.encoder, config.optim.batch_size, data.image_size, data.crop, images),
            *(any(data.color_jitter), data.cache == "off"),
            *(engine.device, engine.precision, engine.workers, engine.eval_batch_size),
        )
        return cls(activity, mode, network, _options(config, activity), config)

    def describe(self) -> str:
        """Return the kind in a few words, for example ``interpolative steps of resnet32``."""
        name = "evaluation" if self.activity == "evaluation" else f"{self.activity} steps"
        return f"{name} of {self.config.method.encoder}"


def _options(config: Config, activity: Activity) -> tuple[Hashable, ...]:
    """Return the settings that change the computation of a step."""
    method, second = config.method, config.rebalance
    if activity == "evaluation":
        return ()
    if activity == "rebalance":
        shares_features = second.encoder == "frozen" and second.batch_norm == "eval"
        has_teacher = not shares_features and second.distillation_weight > 0
        return (second.encoder, second.batch_norm, has_teacher, second.classifier == "memory")
    contrastive = method.centroid_contrastive
    if activity == "warmup":
        return (contrastive,)
    losses = (method.uniform_weight > 0, method.interpolative_cross_entropy, contrastive, method.bn_mode)
    if activity == "interpolative":
        return (method.first_stage, bool(method.mixup_after), *losses)
    return (method.m2m_steps, contrastive)


@dataclass(frozen=True)
class Work:
    """Steps of one kind."""

    kind: StepKind
    steps: float
    """Number of steps, or of evaluated batches."""
    cost: float
    """Assumed cost of a step relative to a warm-up step, see `phase_costs`. The cost of a translation
    depends on the sizes of the classes."""


def dataset_sizes(config: Config) -> DatasetSizes | None:
    """Return the sizes of the dataset of a run, or None if they are unknown without its shards."""
    if Manifest.read(config.data.dir) is not None:
        try:
            opened = open_dataset(config, require_cache=False)
        except UserError:  # shards of another dataset or imbalance ratio
            return DatasetSizes.published(config)
        train = len(opened.train) - len(opened.holdout_rows)
        return DatasetSizes(opened.train.counts, train, len(opened.evaluated), from_shards=True)
    return DatasetSizes.published(config)


def remaining_epochs(config: Config, done: Mapping[str, int]) -> dict[StageName, range]:
    """Return the remaining epochs of each stage, counted from 0.

    Args:
        config: the effective configuration.
        done: finished epochs by stage. The stages before a stage with a finished epoch are complete.
    """
    second = config.rebalance.trained_epochs or int(config.rebalance.enabled)  # a readout has one record
    total = dict(zip(STAGES, (config.seed_epochs, config.optim.epochs, second), strict=True))
    last = max((number for number, stage in enumerate(STAGES) if done.get(stage)), default=0)
    return {
        stage: range(epochs if number < last else min(done.get(stage, 0), epochs), epochs)
        for number, (stage, epochs) in enumerate(total.items())
    }


def run_work(
    config: Config, sizes: DatasetSizes, machine: Machine, done: Mapping[str, int] | None = None
) -> list[Work]:
    """Return the remaining work of a run.

    Args:
        config: configuration of the run.
        sizes: sizes of its dataset.
        machine: the machine, with the mode that ``engine.compile`` names.
        done: finished epochs by stage, as for `remaining_epochs`.
    """
    short = config.engine.fast_dev_run
    config = config.shortened() if short else config
    steps = sizes.train // config.optim.batch_size
    evaluated = sizes.evaluated / (batch := evaluation_batch_size(config, machine))
    if short:
        steps, evaluated = min(steps, FAST_DEV_RUN_STEPS), min(evaluated, FAST_DEV_RUN_STEPS)
    epochs = remaining_epochs(config, done or {})
    mode = mode_of(config, epochs, steps, machine)
    costs: dict[Activity, float] = {**phase_costs(config, sizes.counts)}
    costs["evaluation"] = _EVALUATION_COST * batch / config.optim.batch_size
    passes = sum(_evaluations(left, config.engine.eval_every) for left in epochs.values())
    forward = passes * evaluated + _features_passes(config, epochs["rebalancing"]) * sizes.train / batch
    totals: dict[StepKind, float] = {}
    for kind in _kinds(config, epochs, mode):
        totals[kind] = totals.get(kind, 0) + steps
    if forward:
        totals[StepKind.of(config, "evaluation", mode)] = forward
    return [Work(kind, count, costs[kind.activity]) for kind, count in totals.items()]


def mode_of(config: Config, epochs: Mapping[StageName, range], steps: int, machine: Machine) -> Mode:
    """Return the mode of a run, without a trial.

    Long runs on a GPU try several modes first and use the fastest. Here, they have the mode ``on``, so their
    steps may be faster.
    """
    first = len(epochs["seed"]) + len(epochs["representation"])
    second = len(epochs["rebalancing"]) if config.rebalance.trained_epochs else 0
    choice = choose_untried(config, machine, RemainingSteps(first * steps, second * steps))
    return choice.mode if choice else "on"


def _kinds(config: Config, epochs: Mapping[StageName, range], mode: Mode) -> Iterator[StepKind]:
    """Yield the kind of the steps of each epoch with steps."""
    if epochs["seed"]:
        yield from [StepKind.of(seed_config(config), "warmup", mode)] * len(epochs["seed"])
    for epoch in epochs["representation"]:
        yield StepKind.of(config, config.phase(epoch), mode)
    if config.rebalance.trained_epochs:
        yield from [StepKind.of(config, "rebalance", mode)] * len(epochs["rebalancing"])


def _evaluations(epochs: range, every: int) -> int:
    """Return the number of evaluated epochs of a stage. The last one always is."""
    return sum((epoch + 1) % every == 0 or epoch + 1 == epochs.stop for epoch in epochs)


def _features_passes(config: Config, epochs: range) -> int:
    """Return how often the second stage computes the features of all training images: 0 or 1."""
    if not epochs or epochs.start:
        return 0
    second = config.rebalance
    if second.readout == "none":
        return int(second.classifier == "memory")
    return int(find_readout(second.readout).reads_features)
