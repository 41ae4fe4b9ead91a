"""Typed configuration of a run: sections, settings, ranges and defaults. Settings are named as in the paper.

The docstring of a setting is also the help text of the option that sets it, see `fasticcl.options`."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fasticcl.setting_types import (
    Cache,
    Count,
    Device,
    Folder,
    FolderName,
    Fraction,
    Interval,
    LoggerNames,
    Positive,
    Triple,
    Weight,
)


class ConfigSection(BaseModel):
    """Base class of the sections, which are the tables of a configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Data(ConfigSection):
    """The images and their augmentation (sections 3.2 and 4.3 of the paper)."""

    dataset: str
    """Name of the dataset preset."""
    dir: Folder
    """Folder of the shards written by `fasticcl convert`."""
    imbalance: Literal[100, 50, 10] | None = None
    """Imbalance ratio of CIFAR-LT: 100, 50 or 10. The shards must have the same ratio."""
    eval_split: Literal["auto", "val", "test"] = "auto"
    """Split to evaluate on. auto: test if the dataset has one, otherwise val."""
    image_size: Count = 224
    """Side of the square network input, in pixels."""
    crop: Literal["random_resized", "pad"] = "random_resized"
    """random_resized: random area and aspect ratio. pad: random shift by up to crop_padding pixels."""
    crop_scale: tuple[Positive, Fraction] = (0.08, 1.0)
    """Range of the area of a random_resized crop, as a fraction of the image."""
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Range of the aspect ratio (width / height) of a random_resized crop."""
    crop_padding: int = Field(default=4, ge=0)
    """Black pixels added on each side before a pad crop."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    color_jitter: tuple[Weight, Weight, Weight] = (0.0, 0.0, 0.0)
    """Strength of brightness, contrast and saturation jitter. The paper does not jitter the hue."""
    eval_resize: int = Field(default=256, ge=0)
    """Evaluation: short side before the centre crop, in pixels. 0: resize the whole image to image_size."""
    mean: Triple = (0.485, 0.456, 0.406)
    """Channel means for normalisation, for pixel values from 0 to 1."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """Channel standard deviations for normalisation, for pixel values from 0 to 1."""
    gamma: float = 0.0
    """γ of equation 2, class-aware stream. 0: class-balanced, 1: inverse frequency, -1: instance-balanced."""
    alpha: Positive = 1.0
    """First parameter of the Beta distribution of λ."""
    beta: Positive = 1.0
    """Second parameter of the Beta distribution of λ."""
    lambda_per: Literal["batch", "sample"] = "batch"
    """Draw one λ for each batch or for each sample."""
    cache: Cache = "auto"
    """Decode every image once and cache it in host or device memory. off: no cache. auto (default): cache
    small images if they fit, preferably on the device."""
    verify_reads: bool = True
    """Verify the checksum of every image read (default). If disabled, only decoding errors are detected."""
    max_bad_samples: int = Field(default=100, ge=0)
    """Largest number of unreadable training images. Each is replaced by another image of its class, and
    training stops if there are more."""
    holdout: Weight = 0.0
    """Training images of each class withheld from both stages to choose settings with `fasticcl sweep`.
    A value below 1 is a fraction of the class, a value of 1 or more is a number of images."""
    hw_decoder_load: Fraction = 0.65
    """Fraction of a batch that the hardware JPEG decoder of a GPU decodes. Ignored if there is none."""
    decode_regions: bool = True
    """Decode only the crop window of an image. False: decode whole images and crop them afterwards, which is
    slower. Use false if decoding crashes on a GPU: nvImageCodec 0.9 may fail on regions (its issue 55)."""

    @model_validator(mode="after")
    def _ordered(self) -> "Data":
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"data.{name} must contain the lower value first, got {low} and {high}")
        if self.holdout >= 1 and self.holdout % 1:
            raise ValueError(
                f"data.holdout must be a fraction below 1 or a whole number of images, got {self.holdout:g}"
            )
        if 0 < self.eval_resize < self.image_size:
            raise ValueError(
                f"data.eval_resize ({self.eval_resize}) is smaller than data.image_size ({self.image_size}). "
                "Increase it or reduce data.image_size"
            )
        return self


class Method(ConfigSection):
    """The representation stage (sections 3.1 to 3.5)."""

    name: FolderName = "iccl"
    """Name of the method, used in the name of the run folder."""
    encoder: str = "resnet50"
    """CNN encoder: resnet8, resnet14, resnet20 or resnet32 (for CIFAR), resnet18, resnet34, resnet50,
    resnet101, resnext50_32x4d or resnext101_32x8d."""
    embedding_dim: Count = 128
    """d_z, size of the embedding that is compared with the centroids."""
    temperature: Positive = 0.07
    """τ of equation 4."""
    centroid_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """m of equation 1."""
    centroid_norm: Literal["none", "l2", "bias_corrected"] = "none"
    """none: equation 1 unchanged. l2: unit-length centroids. bias_corrected: divided by 1 - m^count."""
    warmup_epochs: int = Field(default=40, ge=0)
    """T, number of epochs before the interpolative branch starts (section 4.3)."""
    uniform_weight: Weight = 1.0
    """ω_u of equation 8."""
    interpolative_weight: Weight = 1.0
    """ω_it of equation 8. 0 disables the interpolative branch."""
    class_loss: str = "cross_entropy"
    """Loss of the classifier: cross_entropy (equations 6 and 7) or balanced_softmax (not in the paper)."""
    interpolative_cross_entropy: bool = True
    """Use L_ce^it (equation 7, ablated in Table 4)."""
    centroid_contrastive: bool = True
    """Use L_cc during warm-up and L_cc^it (equation 5) after it (ablated in Table 4)."""
    bn_mode: Literal["separate", "split", "concat"] = "separate"
    """separate: one forward pass per stream. split: one pass, statistics per stream. concat: one pass,
    shared statistics."""

    @model_validator(mode="after")
    def _learns(self) -> "Method":
        interpolative = self.interpolative_cross_entropy or self.centroid_contrastive
        if self.interpolative_weight and not (self.uniform_weight or interpolative):
            raise ValueError(
                "all losses after the warm-up are disabled. Enable method.interpolative_cross_entropy, "
                "method.centroid_contrastive or method.uniform_weight"
            )
        return self


class Optim(ConfigSection):
    """SGD and its schedule in the representation stage (section 4.3)."""

    epochs: Count = 90
    """Epochs of the representation stage. T (method.warmup_epochs) and the schedule are adapted to it."""
    batch_size: Count = 256
    """Global batch size: images per stream in each step, summed over all ranks."""
    lr: Positive = 0.1
    """Base learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Use Nesterov momentum, which the paper does not mention."""
    weight_decay: Weight = 5e-4
    """L2 penalty on all parameters."""
    schedule: Literal["cosine", "step"] = "cosine"
    """cosine: decay to 0 over all epochs. step: multiply by decay at each milestone."""
    milestones: tuple[Fraction, ...] = (0.6, 0.8)
    """Fractions of the epochs at which the step schedule decays."""
    decay: Positive = 0.01
    """Factor of each decay of the step schedule."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs of linear learning-rate warm-up. This is unrelated to T (method.warmup_epochs)."""
    warmup_start: Fraction = 1 / 3
    """Fraction of lr at which the learning-rate warm-up starts."""

    @model_validator(mode="after")
    def _has_momentum(self) -> "Optim":
        if self.nesterov and not self.momentum:
            raise ValueError("optim.nesterov requires momentum. Set optim.momentum or disable optim.nesterov")
        return self


class Rebalance(ConfigSection):
    """The rebalancing stage (section 3.6)."""

    epochs: int = Field(default=10, ge=0)
    """Epochs of the stage. 0 skips it."""
    gamma: float = 1.0
    """γ' of the class-aware stream of this stage."""
    distillation_weight: Fraction = 0.5
    """ω_d of equation 9."""
    distillation_temperature: Positive = 10.0
    """τ_d of equation 9."""
    lr_factor: Positive = 0.1
    """Initial learning rate as a fraction of optim.lr. It follows a cosine decay to 0."""
    weight_decay: Weight | None = None
    """L2 penalty. None: optim.weight_decay."""
    encoder: Literal["frozen", "tuned"] = "frozen"
    """frozen: keep the encoder fixed, in evaluation mode. tuned: train it as well (CIFAR)."""
    classifier: Literal["continue", "reinit"] = "continue"
    """continue: start from the classifier of the representation stage. reinit: start from a new one (cRT)."""


class Engine(ConfigSection):
    """Hardware, output and reproducibility of a run."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the initial weights and of all random choices."""
    device: Device = "auto"
    """auto, cpu or gpu. auto: the GPU if there is one."""
    workers: Count | None = None
    """Threads that decode and augment images. None: one per available core, or up to 3 fewer with a GPU."""
    prefetch: Count = 3
    """Batches that the pipeline prepares in advance."""
    eval_batch_size: Count | None = None
    """Images per evaluation batch on each rank. None: as many as in training, or up to four times that on a
    GPU."""
    eval_every: Count = 1
    """Epochs between evaluations. The last epoch of a stage is always evaluated."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numeric precision. auto: bfloat16 autocast on a GPU, float32 on a CPU."""
    compile: Literal["auto", "off", "on", "step", "cuda-graphs", "captured"] = "auto"
    """torch.compile. on: compile forward passes. step: also losses and centroids. cuda-graphs: as on, with
    CUDA graphs. captured: one CUDA graph for a whole step on small images, not proven on a GPU yet. auto: on
    a GPU, off for a short run, on for a longer one, else the fastest of off, on and step. On a CPU, off."""
    sync_bn: bool = False
    """Compute batch-normalisation statistics over all ranks instead of separately on each rank."""
    save_every: Interval = "15m"
    """Steps (500) or minutes (15m) between checkpoints, in addition to one at the end of each epoch."""
    log_every: Count = 20
    """Steps between lines of metrics.jsonl."""
    logger: LoggerNames = ()
    """Loggers that receive the scalars in addition to metrics.jsonl: tensorboard, wandb or both."""
    report: bool = True
    """Write report.html at the end of the run."""
    fast_dev_run: bool = False
    """Run a few steps of each phase to check that everything works."""
    project: Folder = Path("runs")
    """Folder of all runs."""
    name: FolderName | None = None
    """Name of the run and of its folder. None: the method and the next free number."""


SECTIONS: dict[str, type[ConfigSection]] = {
    "data": Data,
    "method": Method,
    "optim": Optim,
    "engine": Engine,
    "rebalance": Rebalance,
}


class Config(ConfigSection):
    """The whole configuration of a run."""

    data: Data
    method: Method
    optim: Optim
    engine: Engine
    rebalance: Rebalance

    @model_validator(mode="after")
    def _one_kind_of_batch_norm(self) -> "Config":
        if self.engine.sync_bn and self.method.bn_mode == "split":
            raise ValueError("engine.sync_bn requires method.bn_mode separate or concat, not split")
        return self

    def phase(self, epoch: int) -> Literal["warmup", "interpolative"]:
        """Return the phase of an epoch of the representation stage, counted from 0 (section 4.3)."""
        never = self.method.interpolative_weight == 0
        return "warmup" if never or epoch < self.method.warmup_epochs else "interpolative"

    def shortened(self) -> "Config":
        """Return a copy for ``fast_dev_run``, with at most two representation and one rebalancing epochs."""
        return self.model_copy(
            update={
                "optim": self.optim.model_copy(update={"epochs": 2}),
                "method": self.method.model_copy(update={"warmup_epochs": min(self.method.warmup_epochs, 1)}),
                "rebalance": self.rebalance.model_copy(update={"epochs": min(self.rebalance.epochs, 1)}),
            }
        )

    def to_toml(self) -> str:
        """Return the text of a TOML file from which ``--config`` restores this configuration."""
        lines = []
        for section, values in self.model_dump(mode="json", exclude_none=True).items():
            # Numbers, strings, booleans and flat lists have the same syntax in JSON and TOML.
            settings = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
            lines += [f"[{section}]", *settings, ""]
        return "\n".join(lines[:-1]) + "\n"
