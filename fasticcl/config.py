"""Typed configuration: what can be set, in the paper's words, with ranges and defaults."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
FolderName = Annotated[str, Field(pattern=r"^[^/.][^/]*$")]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Triple = tuple[float, float, float]


def _interval(value: object) -> object:
    text = str(value) if type(value) is int else value  # 500 needs no quotes
    if not (isinstance(text, str) and re.fullmatch(r"[1-9][0-9]*m?", text)):
        raise ValueError(f"engine.save_every is a number of steps (500) or of minutes (15m), not {value!r}")
    return text


Interval = Annotated[str, BeforeValidator(_interval)]


def _listed(value: object) -> object:
    """Take names from one text or several, each with commas between them; "none" is no name."""
    texts = [value] if isinstance(value, str) else value
    if not (isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)):
        return value
    names = [name.strip() for text in texts for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in names if name not in ("", "none")))


class Section(BaseModel):
    """One table of the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Data(Section):
    """Which images, and what is drawn at random for each (sections 3.2 and 4.3)."""

    dataset: str
    """Name of the dataset preset."""
    dir: Folder
    """Folder of the shards that `fasticcl convert` wrote."""
    imbalance: Literal[100, 50, 10] | None = None
    """Imbalance ratio of CIFAR-LT that the shards must have; None: whatever they have."""
    eval_split: Literal["auto", "val", "test"] = "auto"
    """Split that is evaluated; auto: test where there is one, else val."""
    image_size: Count = 224
    """Side of the square images that the network sees, in pixels."""
    crop: Literal["random_resized", "pad"] = "random_resized"
    """random_resized: a window of random area and aspect; pad: shift by up to crop_padding pixels."""
    crop_scale: tuple[Positive, Fraction] = (0.08, 1.0)
    """Area of a random-resized window as a share of the image: lowest, highest."""
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Width over height of a random-resized window: lowest, highest."""
    crop_padding: int = Field(default=4, ge=0)
    """Black pixels added on each side before a pad crop."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    color_jitter: tuple[Weight, Weight, Weight] = (0.0, 0.0, 0.0)
    """Strength of brightness, contrast and saturation jitter; the paper uses no hue."""
    eval_resize: int = Field(default=256, ge=0)
    """Short side before the centre crop of evaluation; 0: the whole image, resized to image_size."""
    mean: Triple = (0.485, 0.456, 0.406)
    """Channel means that normalise an image, on the scale from 0 to 1."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """Channel standard deviations that normalise an image, on the scale from 0 to 1."""
    gamma: float = 0.0
    """γ of equation 2 for the class-aware stream: 0 balanced, 1 reverse, -1 as the images are."""
    alpha: Positive = 1.0
    """λ is drawn from Beta(alpha, beta)."""
    beta: Positive = 1.0
    """λ is drawn from Beta(alpha, beta)."""
    lambda_per: Literal["batch", "sample"] = "batch"
    """One λ for a batch, or one for each of its images."""
    cache: Literal["auto", "host", "device", "off"] = "auto"
    """Where all images are kept, decoded once; auto: on the device, or else the host, if small and few."""
    verify_reads: bool = True
    """Compare the checksum of every image that is read; without, only what cannot be decoded is noticed."""
    max_bad_samples: int = Field(default=100, ge=0)
    """Training images that may turn out unreadable before training stops; each is replaced by another."""
    holdout: Weight = 0.0
    """Images of each class kept from both stages, for `fasticcl sweep`: a share, from 1 on a number."""
    hw_decoder_load: Fraction = 0.65
    """Share of a batch that the JPEG hardware of a GPU decodes, where it has any; a CPU takes no notice."""

    @model_validator(mode="after")
    def _ordered(self) -> "Data":
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"data.{name} runs from the lower to the higher value, got {low} and {high}")
        if self.holdout >= 1 and self.holdout % 1:
            raise ValueError(
                f"data.holdout is a share below 1 or a whole number of images, got {self.holdout:g}"
            )
        if 0 < self.eval_resize < self.image_size:
            raise ValueError(
                f"data.eval_resize ({self.eval_resize}) is smaller than data.image_size ({self.image_size}); "
                "raise it or lower the other"
            )
        return self


class Method(Section):
    """The representation stage (sections 3.1 to 3.5)."""

    name: FolderName = "iccl"
    """Name of the method, used for the run folder."""
    encoder: str = "resnet50"
    """CNN encoder: resnet8, resnet14, resnet20, resnet32 (CIFAR) or resnet18, resnet50, resnext50_32x4d."""
    embedding_dim: Count = 128
    """d_z, the size of the embedding that retrieves centroids."""
    temperature: Positive = 0.07
    """τ of equation 4."""
    centroid_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """m of equation 1."""
    centroid_norm: Literal["none", "l2", "bias_corrected"] = "none"
    """none: equation 1 as it stands; l2: unit centroids; bias_corrected: divided by 1 - m^count."""
    warmup_epochs: int = Field(default=40, ge=0)
    """T, the epochs before the interpolative branch starts (section 4.3)."""
    uniform_weight: Weight = 1.0
    """ω_u of equation 8."""
    interpolative_weight: Weight = 1.0
    """ω_it of equation 8; 0 keeps the interpolative branch from ever starting."""
    class_loss: str = "cross_entropy"
    """The classifier's loss: cross_entropy (equations 6, 7) or, not of the paper, balanced_softmax."""
    interpolative_cross_entropy: bool = True
    """Whether L_ce^it (equation 7) is in use (Table 4)."""
    centroid_contrastive: bool = True
    """Whether L_cc in the warm-up and L_cc^it (equation 5) after it are in use (Table 4)."""
    bn_mode: Literal["separate", "split", "concat"] = "separate"
    """separate: two forward passes; split: one, statistics per stream; concat: one, shared statistics."""

    @model_validator(mode="after")
    def _learns(self) -> "Method":
        interpolative = self.interpolative_cross_entropy or self.centroid_contrastive
        if self.interpolative_weight and not (self.uniform_weight or interpolative):
            raise ValueError(
                "no loss is left after the warm-up; turn on method.interpolative_cross_entropy, "
                "method.centroid_contrastive or method.uniform_weight"
            )
        return self


class Optim(Section):
    """SGD and its schedule in the representation stage (section 4.3)."""

    epochs: Count = 90
    """Epochs of the representation stage."""
    batch_size: Count = 256
    """Pairs of images in a step, over all ranks together."""
    lr: Positive = 0.1
    """Base learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov momentum; the paper does not mention it."""
    weight_decay: Weight = 5e-4
    """L2 penalty on every parameter."""
    schedule: Literal["cosine", "step"] = "cosine"
    """cosine: to 0 over the epochs; step: times decay at each milestone."""
    milestones: tuple[Fraction, ...] = (0.6, 0.8)
    """Shares of the epochs after which the step schedule decays."""
    decay: Positive = 0.01
    """Factor of one decay of the step schedule."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs in which the learning rate rises linearly to lr; T is method.warmup_epochs."""
    warmup_start: Fraction = 1 / 3
    """Share of lr from which the rise starts."""

    @model_validator(mode="after")
    def _has_momentum(self) -> "Optim":
        if self.nesterov and not self.momentum:
            raise ValueError("optim.nesterov needs a momentum; set optim.momentum or turn it off")
        return self


class Rebalance(Section):
    """The rebalancing stage (section 3.6)."""

    epochs: int = Field(default=10, ge=0)
    """Epochs of the stage; 0 leaves it out."""
    gamma: float = 1.0
    """γ' of the class-aware stream."""
    distillation_weight: Fraction = 0.5
    """ω_d of equation 9."""
    distillation_temperature: Positive = 10.0
    """τ_d of equation 9."""
    lr_factor: Positive = 0.1
    """The learning rate starts at this share of optim.lr and falls to 0 on a cosine."""
    weight_decay: Weight | None = None
    """L2 penalty; None: that of optim."""
    encoder: Literal["frozen", "tuned"] = "frozen"
    """frozen: the encoder stays in evaluation mode; tuned: it trains along (CIFAR)."""
    classifier: Literal["continue", "reinit"] = "continue"
    """Start from the classifier of the representation stage, or from a fresh one (cRT)."""


class Engine(Section):
    """How and where the work is run."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the weights and of the plan."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: the GPU where there is one."""
    workers: Count | None = None
    """Threads that decode and augment; None: one per available core."""
    prefetch: Count = 3
    """Batches that the pipeline prepares ahead."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on a GPU, float32 on a CPU."""
    compile: Literal["auto", "off", "on", "step", "cuda-graphs"] = "auto"
    """torch.compile, of forward passes (on), with losses and centroids (step), or replayed by CUDA graphs;
    auto: on a GPU the fastest of the first three in a trial, on a CPU off, since compiling takes minutes."""
    sync_bn: bool = False
    """Batch normalisation with the statistics of the global batch; without, each rank has its own."""
    save_every: Interval = "15m"
    """Steps (500) or minutes (15m) between two checkpoints; one more at the end of every epoch."""
    log_every: Count = 20
    """Steps between two lines of metrics.jsonl."""
    logger: Annotated[tuple[Literal["tensorboard", "wandb"], ...], BeforeValidator(_listed)] = ()
    """Where scalars go beside metrics.jsonl: tensorboard, wandb, both, or nowhere."""
    report: bool = True
    """Write report.html when the run has ended."""
    fast_dev_run: bool = False
    """A few steps of every phase, to see that all of it works."""
    project: Folder = Path("runs")
    """Folder of all runs."""
    name: FolderName | None = None
    """Name of the run, a folder name; None: the method and the next free number."""


class Config(Section):
    """The whole configuration of a run."""

    data: Data
    method: Method
    optim: Optim
    engine: Engine
    rebalance: Rebalance

    @model_validator(mode="after")
    def _one_kind_of_batch_norm(self) -> "Config":
        if self.engine.sync_bn and self.method.bn_mode == "split":
            raise ValueError("engine.sync_bn goes with method.bn_mode separate or concat, not with split")
        return self

    def phase(self, epoch: int) -> Literal["warmup", "interpolative"]:
        """Return the phase of the representation stage that ``epoch`` (from 0) belongs to (section 4.3)."""
        never = self.method.interpolative_weight == 0
        return "warmup" if never or epoch < self.method.warmup_epochs else "interpolative"

    def shortened(self) -> "Config":
        """Return this configuration with one epoch of every phase that it has, for ``fast_dev_run``."""
        warmup = min(self.method.warmup_epochs, 1)
        return self.model_copy(
            update={
                "optim": self.optim.model_copy(update={"epochs": 2}),
                "method": self.method.model_copy(update={"warmup_epochs": warmup}),
                "rebalance": self.rebalance.model_copy(update={"epochs": min(self.rebalance.epochs, 1)}),
            }
        )

    def to_toml(self) -> str:
        """Return a file that ``--config`` reads back to this very configuration."""
        lines = []
        for section, values in self.model_dump(mode="json", exclude_none=True).items():
            # Numbers, strings, booleans and flat lists read the same in JSON and TOML.
            settings = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
            lines += [f"[{section}]", *settings, ""]
        return "\n".join(lines[:-1]) + "\n"
