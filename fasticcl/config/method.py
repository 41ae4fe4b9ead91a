"""The section ``method``: the representation stage."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fasticcl.config.section import ConfigSection
from fasticcl.config.types import Count, FolderName, Fraction, Positive, Weight


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
    classifier: str = "linear"
    """Classifier: linear, or cosine (normalised features and weights, without bias)."""
    classifier_scale: Positive = 30.0
    """s, the scale of the logits of a cosine classifier."""
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
