"""The section ``method``: the representation stage."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fasticcl.config.section import ConfigSection
from fasticcl.config.types import Count, FolderName, Fraction, Names, OptionalFolder, Positive, Weight

_BILATERAL = {
    "warmup_epochs": 0,
    "cooldown_epochs": 0,
    "uniform_weight": 0,
    "interpolative_weight": 1,
    "interpolative_cross_entropy": True,
    "centroid_contrastive": False,
    "bn_mode": "separate",
    "mixup_after": (),
}
"""Settings that ``first_stage=bbn`` requires, because it has none of these parts."""


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
    cooldown_epochs: int = Field(default=0, ge=0)
    """Number of epochs at the end of the stage without the interpolative branch."""
    first_stage: Literal["iccl", "bbn", "m2m"] = "iccl"
    """Training of the first stage. iccl: equation 8, whose losses can be disabled. bbn: an encoder with two
    tails whose logits are mixed. m2m: images of large classes are translated to small classes."""
    mixup_after: Names = ()
    """Blocks of the encoder after which the two streams can be mixed instead of the images (manifold mixup):
    input, stem, stage1, stage2, ... One of them is drawn for each batch. Requires data.mixing=none."""
    classifier: str = "linear"
    """Classifier: linear, cosine (normalised features and weights, without bias) or causal (De-confound)."""
    classifier_scale: Positive = 30.0
    """Scale of the logits of a cosine classifier (s) or of a causal one (τ)."""
    causal_heads: Count = 2
    """Heads of a causal classifier. They divide the features into equal parts."""
    causal_gamma: Weight = 0.03125
    """γ of a causal classifier, which is added to the norms of its weights."""
    causal_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """μ, the momentum of the feature mean of a causal classifier."""
    causal_momentum_decay: bool = False
    """Set μ to 1 - (1 - causal_momentum) · min(50 · learning rate, 1) in each epoch."""
    seed_run: OptionalFolder = None
    """M2m: finished run whose network guides the translation. None, or an empty name: train this network
    first, with cross-entropy."""
    m2m_beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """β of M2m, which controls how often images of a larger class are chosen and accepted."""
    m2m_lambda: Weight = 0.5
    """λ of M2m, the weight of the logit of the original class."""
    m2m_confidence: Fraction = 0.9
    """γ of M2m, the smallest probability of the target class at which an image is accepted."""
    m2m_step_size: Positive = 0.1
    """L2 norm of each gradient step of M2m, for pixel values from 0 to 1."""
    m2m_steps: Count = 10
    """Gradient steps of M2m."""
    m2m_noise: Weight = 0.5
    """L2 norm of the noise added to an image before the first step of M2m, for pixel values from 0 to 1."""
    class_loss: str = "cross_entropy"
    """Loss of the classifier: cross_entropy (equations 6 and 7), balanced_softmax, focal, ldam,
    logit_adjustment or sigmoid_focal."""
    focal_gamma: Weight = 1.0
    """γ of focal and sigmoid_focal. 0: cross-entropy, for sigmoid_focal of one sigmoid per class."""
    ldam_margin: Weight = 0.5
    """M of ldam, the margin of the smallest class."""
    logit_adjustment_tau: Weight = 1.0
    """τ of logit_adjustment, the factor of the log prior."""
    class_weight_beta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """β of the effective number of samples, from which the class weights of the loss are computed. 0: no
    weights."""
    class_weight_start: Fraction = 0.0
    """Fraction of the epochs after which the class weights are used (deferred re-weighting)."""
    class_weight_norm: Literal["weights", "batch"] = "weights"
    """Divide the weighted loss by the sum of the weights in the batch (DRW) or by the batch size (CB)."""
    interpolative_cross_entropy: bool = True
    """Use L_ce^it (equation 7, ablated in Table 4)."""
    centroid_contrastive: bool = True
    """Use L_cc during warm-up and L_cc^it (equation 5) after it (ablated in Table 4)."""
    bn_mode: Literal["separate", "split", "concat"] = "separate"
    """separate: one forward pass per stream. split: one pass, statistics per stream. concat: one pass,
    shared statistics. With mixup_after, this applies to both streams before they are mixed."""

    @model_validator(mode="after")
    def _is_bilateral(self) -> "Method":
        for name, required in _BILATERAL.items() if self.first_stage == "bbn" else ():
            if getattr(self, name) != required:
                value = "none" if required == () else str(required).lower()
                raise ValueError(
                    "method.first_stage=bbn has one loss in all epochs, and a separate forward pass for "
                    f"each stream. Set method.{name}={value}"
                )
        if self.first_stage == "bbn" and self.classifier == "causal":
            raise ValueError(
                "method.classifier=causal normalises the features of each head, which would remove the "
                "weights of the tails of method.first_stage=bbn. Set method.classifier=linear"
            )
        return self

    @model_validator(mode="after")
    def _learns(self) -> "Method":
        interpolative = self.interpolative_cross_entropy or self.centroid_contrastive
        if self.interpolative_weight and not (self.uniform_weight or interpolative):
            raise ValueError(
                "all losses after the warm-up are disabled. Enable method.interpolative_cross_entropy, "
                "method.centroid_contrastive or method.uniform_weight"
            )
        if self.mixup_after and not interpolative:
            raise ValueError(
                "method.mixup_after has no effect, because the losses of mixed states are disabled. Enable "
                "method.interpolative_cross_entropy or method.centroid_contrastive"
            )
        return self
