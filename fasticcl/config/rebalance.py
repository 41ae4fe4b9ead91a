"""The section ``rebalance``: the second stage."""

from typing import Literal

from pydantic import Field, model_validator

from fasticcl.config.section import ConfigSection
from fasticcl.config.types import Fraction, Positive, Weight


class Rebalance(ConfigSection):
    """The rebalancing stage (section 3.6)."""

    epochs: int = Field(default=10, ge=0)
    """Epochs of the stage. 0 skips it. A readout needs no epochs and ignores this setting."""
    readout: str = "none"
    """Classifier computed without training: tau_norm, ncm, log_prior or tde. none: train the stage."""
    tau: Weight = 1.0
    """τ of the readouts tau_norm (without bias) and log_prior. 0: the weights of the first stage."""
    alpha: Weight = 1.0
    """α of the readout tde, the strength of the removed effect. 0: the logits of training."""
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
    """frozen: keep the weights of the encoder fixed. tuned: train them as well (CIFAR)."""
    batch_norm: Literal["eval", "train"] = "eval"
    """Batch normalisation in a frozen encoder. eval: keep the running statistics. train: use the statistics
    of each batch and update the running ones."""
    classifier: Literal["continue", "reinit", "frozen", "memory"] = "continue"
    """continue: start from the classifier of the representation stage. reinit: start from a new one (cRT).
    frozen: keep it fixed, which requires class_scale (LWS). memory: train a classifier with a memory of class
    centroids (OLTR)."""
    attention: bool = False
    """Insert modulated attention before the pooling of the encoder (OLTR), for images of 224 pixels."""
    centroid_loss_weight: Weight = 0.01
    """Weight of the centroid loss of a memory classifier. With 0, the centroids still follow the features."""
    class_scale: bool = False
    """Train a factor for the logit of each class, which starts at 1 (LWS, MiSLAS)."""
    classifier_lr_factor: Positive = 1.0
    """Learning rate of the classifier relative to that of the stage, at which class_scale and a tuned
    encoder are trained."""
    smoothing_head: Fraction = 0.0
    """ε_h, the label smoothing of the largest class (label-aware smoothing of MiSLAS)."""
    smoothing_tail: Fraction = 0.0
    """ε_t, the label smoothing of the smallest class. Classes in between follow a sine of their size."""

    @model_validator(mode="after")
    def _trains(self) -> "Rebalance":
        if self.encoder == "tuned":
            if self.class_scale or self.classifier == "frozen":
                raise ValueError(
                    "rebalance.class_scale and rebalance.classifier=frozen require rebalance.encoder=frozen"
                )
            if self.batch_norm == "train":
                raise ValueError("rebalance.batch_norm applies to rebalance.encoder=frozen only")
        if self.classifier == "memory" and self.encoder == "frozen":
            raise ValueError("rebalance.classifier=memory requires rebalance.encoder=tuned")
        if self.attention and self.classifier != "memory":
            raise ValueError("rebalance.attention requires rebalance.classifier=memory. Use --method oltr")
        if self.classifier == "frozen" and not self.class_scale:
            raise ValueError(
                "rebalance.classifier=frozen leaves nothing to train. Set rebalance.class_scale=true"
            )
        if self.classifier == "frozen" and self.classifier_lr_factor != 1:
            raise ValueError(
                "rebalance.classifier=frozen has no learning rate. Set rebalance.classifier_lr_factor=1"
            )
        if self.smoothed and self.distillation_weight == 1:
            raise ValueError(
                "rebalance.distillation_weight=1 leaves no cross-entropy to smooth. Lower it, or set "
                "rebalance.smoothing_head and smoothing_tail to 0"
            )
        return self

    @property
    def smoothed(self) -> bool:
        """Return True if label-aware smoothing replaces the cross-entropy of equation 9."""
        return self.smoothing_head > 0 or self.smoothing_tail > 0

    @property
    def trained_epochs(self) -> int:
        """Epochs of training in the second stage. A readout has none."""
        return self.epochs if self.readout == "none" else 0

    @property
    def keeps_encoder(self) -> bool:
        """Return True if the stage changes neither the weights of the encoder nor its batch statistics."""
        return self.readout != "none" or (self.encoder == "frozen" and self.batch_norm == "eval")

    @property
    def enabled(self) -> bool:
        """Return True if the run has a second stage."""
        return self.epochs > 0 or self.readout != "none"
