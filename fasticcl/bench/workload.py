"""What a benchmark works on: a configuration, shards, and the machine, as a run would have them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasticcl.api.training import configure
from fasticcl.bench.synthetic_images import HEIGHT, WIDTH, Made, make_images, write_shards
from fasticcl.config import Config
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Phase
from fasticcl.engine.compile_trial import try_modes, wants_trial
from fasticcl.engine.dataset import Dataset, open_dataset
from fasticcl.engine.loaders import build_loader
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import Stage
from fasticcl.errors import UserError
from fasticcl.method.network import Network
from fasticcl.resolve import preset_names
from fasticcl.shards.manifest import Manifest
from fasticcl.system.machine import MODES, Machine, choose_machine
from fasticcl.system.resources import available_cores

# Classes of the datasets whose images are not at hand; the classifier and the centroids have their size.
_CLASSES = {"inat2018": 8142, "imagenet-lt": 1000, "cifar100-lt": 100, "cifar10-lt": 10, "demo": 10}
_OTHER_CLASSES = 1000
_MADE_CLASSES = 20
_LOOKED_AT = 10_000  # images of a large dataset whose sizes are looked up
_LARGE = 64  # pixels; networks for larger images take a CPU many seconds a step
_ON_CPU = {"optim.batch_size": 4, "method.encoder": "resnet18", "data.image_size": 128}
_STILL = 1e-6  # learning rate: the weights stay where they are, so no loss runs away


@dataclass(frozen=True)
class Workload:
    """One configuration on one machine."""

    config: Config
    dataset: Dataset
    num_classes: int
    """K of classifier and centroids; made images have fewer classes."""
    machine: Machine
    made: Made | None
    """The images, where the benchmark made them."""
    notes: tuple[str, ...] = ()
    """What was chosen without being asked for."""

    @property
    def threads(self) -> int:
        """Threads that decode."""
        return self.config.engine.workers or available_cores()

    def in_mode_of_training(self, say: Callable[[str], None]) -> "Workload":
        """Return the same in the mode that training would choose, after a trial if it would have one."""
        if not wants_trial(self.config, self.machine):
            return self
        say("trying modes")
        trial = try_modes(self.config, self.num_classes, self.machine)
        machine = replace(self.machine, mode=trial.fastest)
        return replace(self, machine=machine, notes=(*self.notes, f"mode: {trial.describe()}"))

    def loader(self) -> Loader:
        """Return a loader of its own."""
        return build_loader(self.config, open_dataset(self.config, self.machine.gpu), self.machine)

    def stage(self, phase: Phase) -> Stage:
        """Return the stage that a phase belongs to, in training mode; compiled once."""
        stage = self._rebalancing if phase == "rebalance" else self._representation
        stage.train_mode()
        set_lr(stage.optimizer, _STILL)
        return stage

    @cached_property
    def _representation(self) -> Stage:
        return Representation(self.config, self.num_classes, self.machine)

    @cached_property
    def _rebalancing(self) -> Stage:
        network = Network(self.config.method.encoder, self.num_classes)
        self.machine.to_device(network)
        return Rebalancing(self.config, network, self.machine)

    def settings(self) -> dict[str, Any]:
        """Return what the figures depend on beside the hardware."""
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
        """Return what the images are like."""
        index = self.dataset.train.index
        some = index[:: max(1, len(index) // _LOOKED_AT)]
        return {
            "made": self.made is not None,
            "count": len(index),
            "mean_bytes": round(float(some["size"].mean())),
            "median_height": int(np.median(some["height"])),
            "median_width": int(np.median(some["width"])),
        }


def open_workload(
    folder: Path,
    dataset: str | None,
    *,
    data: Path | None = None,
    config: Path | None = None,
    encoder: str | None = None,
    image_size: int | None = None,
    images: int | None = None,
    assignments: Sequence[str] = (),
    **options: Any,
) -> Workload:
    """Return what the options describe.

    Args:
        folder: where images may be made.
        dataset: dataset preset; None: that of the shards, or folder.
        data: shards; None: those of ``config``, and without one images are made.
        config: TOML file with any part of the configuration, as a run leaves it.
        encoder, image_size: settings that have an option here and none in training.
        images: how many images are made.
        assignments: ``section.key=value`` settings.
        options: those of `fasticcl.configure`.

    Raises:
        UserError: bad input.
    """
    named = {"method.encoder": encoder, "data.image_size": image_size}
    chosen = [f"{key}={value}" for key, value in named.items() if value is not None] + [*assignments]
    made_here = not (data or config)
    if dataset is None and not config:
        manifest = Manifest.read(data) if data else None
        dataset = manifest.dataset if manifest and manifest.dataset in preset_names() else "folder"
    options |= {"data": folder / "shards" if made_here else data, "config": config}
    resolved, notes = configure(dataset, set=chosen, **options), ()
    machine = choose_machine(resolved.engine)
    if machine.gpu is None and resolved.data.image_size > _LARGE and not config:
        asked = {line.partition("=")[0].strip() for line in chosen}
        asked |= {"optim.batch_size"} if options.get("batch_size") else set()
        small = [f"{key}={value}" for key, value in _ON_CPU.items() if key not in asked]
        resolved = configure(dataset, set=[*chosen, *small], **options)
        notes = (f"small for a CPU unless set: {', '.join(small)}",) if small else ()
    if machine.ranks.world_size > 1:
        raise UserError("fasticcl bench measures one process; start it without torchrun.")
    if machine.gpu is not None:
        torch.backends.cudnn.benchmark = True  # as in training
    made = _make(resolved, images, folder / "shards", machine) if made_here else None
    opened = open_dataset(resolved, machine.gpu)
    name = resolved.data.dataset
    classes = _CLASSES.get(name, _OTHER_CLASSES) if made_here else opened.num_classes
    return Workload(resolved, opened, classes, machine, made, notes)


def _make(config: Config, images: int | None, folder: Path, machine: Machine) -> Made:
    """Make images like those of the preset: photographs, or small squares where the crop pads them."""
    square = config.data.crop == "pad"
    width, height = (config.data.image_size,) * 2 if square else (WIDTH, HEIGHT)
    count = images or (256 if machine.gpu is None else 2048)
    classes = min(_MADE_CLASSES, _CLASSES.get(config.data.dataset, _OTHER_CLASSES))
    made = make_images(
        max(count, config.optim.batch_size),
        classes,
        config.engine.workers or available_cores(),
        width=width,
        height=height,
        png=square,
    )
    write_shards(made, folder)
    return made
