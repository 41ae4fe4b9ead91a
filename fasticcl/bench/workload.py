"""The subject of a benchmark: configuration, shards and machine, set up as for a training run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasticcl.bench.dataset_sizes import num_classes
from fasticcl.bench.sizes import Sizes
from fasticcl.bench.synthetic_images import SyntheticImages, generate_run_images
from fasticcl.config import Config
from fasticcl.config.layers import as_layer
from fasticcl.data.loader import Loader
from fasticcl.data.plan import PHASES, Phase
from fasticcl.engine.compile_trial import RemainingSteps, choose_mode, is_automatic
from fasticcl.engine.dataset import Dataset, open_dataset
from fasticcl.engine.loaders import build_loader
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages.first_stage import build_first_stage
from fasticcl.engine.stages.second_stage import build_rebalancing
from fasticcl.engine.stages.stage import TrainingStage
from fasticcl.errors import UserError
from fasticcl.method.network import Network
from fasticcl.preset_files import preset_names
from fasticcl.resolve import resolve
from fasticcl.shards.manifest import Manifest
from fasticcl.system.hardware import bfloat16_instructions
from fasticcl.system.machine import MODES, Machine, choose_machine
from fasticcl.system.resources import decoding_threads

_SAMPLED = 10_000  # images of a large dataset whose sizes are read
# A step of a preset with larger images takes a CPU minutes (ResNet-50, 256 pairs of 224×224). Its images per
# second depend little on the batch size (3.3 with 4 pairs, 3.7 with 16), so only this is reduced.
_LARGE = 32  # pixels, the size of the images of CIFAR
_CPU_BATCH_SIZE = 4
_NO_LEARNING = 1e-6  # learning rate: the weights hardly change, so no loss diverges


@dataclass(frozen=True)
class Workload:
    """One configuration on one machine."""

    config: Config
    dataset: Dataset
    num_classes: int
    """K of classifier and centroids. Synthetic images have fewer classes."""
    machine: Machine
    generated: SyntheticImages | None
    """The synthetic images, or None if the benchmark uses existing shards."""
    notes: tuple[str, ...] = ()
    """Automatic choices of the benchmark, for the user."""
    reduced_batch_size: int | None = None
    """Batch size for measuring steps on a CPU, or None if it is that of the run."""

    @property
    def threads(self) -> int:
        """Number of decoding threads."""
        return self.config.engine.workers or decoding_threads(self.machine.gpu is not None)

    def in_training_mode(self, show_status: Callable[[str], None]) -> "Workload":
        """Return the workload in the execution mode that training chooses, after a trial if necessary.

        The number of steps of a run is unknown with synthetic images, so the run is assumed to be long.
        """
        if not is_automatic(self.config, self.machine):
            return self
        show_status("choosing the execution mode")
        steps = None if self.generated else RemainingSteps.of(self.config, self.loader().steps)
        choice = choose_mode(self.config, self.num_classes, self.machine, steps)
        return replace(
            self, machine=choice.apply(self.machine), notes=(*self.notes, f"mode: {choice.description}")
        )

    def reduced(self) -> "Workload":
        """Return the workload with batches for which steps on this machine take seconds at most.

        Only the batch size is reduced, and only on a CPU. The images and the network are those of the run.
        """
        if self.reduced_batch_size is None:
            return self
        optim = self.config.optim.model_copy(update={"batch_size": self.reduced_batch_size})
        note = (
            f"the batch size of training steps is reduced from {self.config.optim.batch_size} to "
            f"{self.reduced_batch_size}, because a CPU takes minutes for larger ones (--batch-size sets it)"
        )
        return replace(
            self,
            config=self.config.model_copy(update={"optim": optim}),
            notes=(*self.notes, note),
            reduced_batch_size=None,
        )

    def in_bfloat16(self) -> "Workload":
        """Return the workload with forward passes in bfloat16."""
        return replace(self, machine=replace(self.machine, bfloat16=True))

    @property
    def may_prefer_bfloat16(self) -> bool:
        """Return True if bfloat16 is not used but may be faster: on a CPU with instructions for it."""
        return self.machine.gpu is None and not self.machine.bfloat16 and bool(bfloat16_instructions())

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that can be measured, even if the run has no epochs of them.

        Only M2m translates images. Generated images have no class sizes, on which the translation depends.
        BBN trains on pairs of images in all epochs.
        """
        absent: list[Phase] = []
        if self.config.method.first_stage != "m2m" or self.generated:
            absent.append("translation")
        if self.config.method.first_stage == "bbn":
            absent.append("warmup")
        return tuple(phase for phase in PHASES if phase not in absent)

    def sizes(self, phase: Phase, images: bool = True, network: bool = True) -> Sizes:
        """Return the sizes of a batch.

        Args:
            phase: its phase.
            images: True if images are prepared.
            network: True if the encoder processes them.
        """
        return Sizes(
            self.config.optim.batch_size,
            pairs=phase == "interpolative",
            image_size=self.config.data.image_size if images else None,
            encoder=self.config.method.encoder if network else None,
        )

    def loader(self) -> Loader:
        """Return a new loader."""
        return build_loader(self.config, open_dataset(self.config, self.machine.gpu), self.machine)

    def stage(self, phase: Phase) -> TrainingStage:
        """Return the stage of a phase, in training mode. It is built and compiled only once."""
        stage = self._rebalancing if phase == "rebalance" else self._representation
        epochs = (epoch for epoch in range(stage.epochs) if stage.phase(epoch) == phase)
        stage.begin_epoch(next(epochs, 0))
        set_lr(stage.optimizer, _NO_LEARNING)
        return stage

    @cached_property
    def _representation(self) -> TrainingStage:
        counts = None if self.generated else self.dataset.train.counts
        return build_first_stage(self.config, self.num_classes, self.machine, counts)

    @cached_property
    def _rebalancing(self) -> TrainingStage:
        method = self.config.method
        network = Network(method.encoder, self.num_classes, settings=method)
        self.machine.to_device(network)
        # The phase is measured even if the run has no such stage. The schedule needs at least one epoch.
        rebalance = self.config.rebalance
        rebalance = rebalance.model_copy(update={"epochs": max(rebalance.epochs, 1)})
        config = self.config.model_copy(update={"rebalance": rebalance})
        return build_rebalancing(config, network, self.machine)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the figures depend on, in addition to the hardware."""
        config, data = self.config, self.config.data
        return {
            "dataset": data.dataset,
            "method": config.method.name,
            "encoder": config.method.encoder,
            "classes": self.num_classes,
            "image_size": data.image_size,
            "batch_size": config.optim.batch_size,
            "workers": self.threads,
            "prefetch": config.engine.prefetch,
            "device": self.machine.device.type,
            "precision": "bfloat16" if self.machine.bfloat16 else "float32",
            "mode": MODES[self.machine.mode],
            "torch_threads": torch.get_num_threads(),
            **({} if self.machine.gpu is None else {"hw_decoder_load": data.hw_decoder_load}),
            "bn_mode": config.method.bn_mode,
            "crop": data.crop,
            "color_jitter": list(data.color_jitter),
        }

    def images(self) -> dict[str, Any]:
        """Return the number of images, their mean encoded size in bytes and their median size in pixels."""
        index = self.dataset.train.index
        sample = index[:: max(1, len(index) // _SAMPLED)]
        return {
            "made": self.generated is not None,
            "count": len(index),
            "mean_bytes": round(float(sample["size"].mean())),
            "median_height": int(np.median(sample["height"])),
            "median_width": int(np.median(sample["width"])),
        }


def open_workload(
    folder: Path,
    dataset: str | None,
    *,
    data: Path | None = None,
    config: Path | None = None,
    images: int | None = None,
    assignments: Sequence[str] = (),
    decoded: bool = True,
    **settings: Any,
) -> Workload:
    """Resolve the options into a workload and generate images if there are no shards.

    Args:
        folder: folder for synthetic images.
        dataset: dataset preset. None: that of the shards, or ``folder``.
        data: folder of shards. None: those of ``config``, or synthetic images if there is no ``config``.
        config: TOML file with any part of the configuration, such as the ``config.toml`` of a run.
        images: number of synthetic images.
        assignments: ``section.key=value`` settings.
        decoded: False if no image is decoded. Synthetic images are then generated faster.
        settings: ``batch_size``, ``encoder``, ``image_size``, ``device`` and ``workers``. None: from the
            configuration.

    Raises:
        UserError: the options are invalid, or the process was started by ``torchrun``.
    """
    synthetic = not (data or config)
    if dataset is None and not config:
        manifest = Manifest.read(data) if data else None
        dataset = manifest.dataset if manifest and manifest.dataset in preset_names() else "folder"
    settings["data"] = folder / "shards" if synthetic else data
    keys = _keys(settings)
    resolved = resolve(dataset, file=config, options=as_layer(keys), assignments=assignments)
    machine = choose_machine(resolved.engine)
    if machine.ranks.world_size > 1:
        raise UserError("fasticcl bench measures a single process. Start it without torchrun.")
    if machine.gpu is not None:
        torch.backends.cudnn.benchmark = True  # as in training
    chosen = {*keys, *(text.partition("=")[0].strip() for text in assignments)}
    is_own = config is not None or "optim.batch_size" in chosen
    reduced = None if is_own else reduced_batch_size(resolved, machine)
    opened = _open(folder, resolved, machine, synthetic, images, decoded)
    return replace(opened, reduced_batch_size=reduced)


def open_run_workload(folder: Path, config: Config, machine: Machine, images: int | None = None) -> Workload:
    """Return the workload of a run, on synthetic images if its shards are missing.

    Args:
        folder: folder for synthetic images.
        config: configuration of the run.
        machine: the machine, in the mode of the run.
        images: number of synthetic images.
    """
    synthetic = Manifest.read(config.data.dir) is None
    if synthetic:
        data = {"dir": folder / "shards", "holdout": 0.0}
        config = config.model_copy(update={"data": config.data.model_copy(update=data)})
    return _open(folder, config, machine, synthetic, images)


def _open(
    folder: Path,
    config: Config,
    machine: Machine,
    synthetic: bool,
    images: int | None,
    decoded: bool = True,
) -> Workload:
    generated = None
    if synthetic:
        count = images or (256 if machine.gpu is None else 2048)
        generated = generate_run_images(config, count, folder / "shards", decoded)
    opened = open_dataset(config, machine.gpu)
    # Classifier and centroids have the size of the real dataset even on synthetic images.
    classes = num_classes(config.data.dataset) if synthetic else opened.num_classes
    return Workload(config, opened, classes, machine, generated)


def _keys(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of `open_workload` that are set, by key of the configuration."""
    keys = {
        "data.dir": settings.get("data") and str(settings["data"]),
        "data.image_size": settings.get("image_size"),
        "optim.batch_size": settings.get("batch_size"),
        "method.encoder": settings.get("encoder"),
        "engine.device": settings.get("device"),
        "engine.workers": settings.get("workers"),
    }
    return {key: value for key, value in keys.items() if value is not None}


def reduced_batch_size(config: Config, machine: Machine) -> int | None:
    """Return the batch size for measuring steps, or None if this machine can take those of the run."""
    is_slow = machine.gpu is None and config.data.image_size > _LARGE
    return _CPU_BATCH_SIZE if is_slow and config.optim.batch_size > _CPU_BATCH_SIZE else None
