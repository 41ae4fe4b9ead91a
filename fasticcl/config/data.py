"""The section ``data``: images and their augmentation."""

from typing import Literal

from pydantic import Field, model_validator

from fasticcl.config.section import ConfigSection
from fasticcl.config.types import Cache, Count, Folder, Fraction, Positive, Triple, Weight


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
    resample_gamma: float = 0.0
    """γ of equation 2 for the class-agnostic stream from resample_start on, drawn with replacement."""
    resample_start: Fraction = 1.0
    """Fraction of the epochs after which the class-agnostic stream is drawn with resample_gamma (deferred
    re-sampling). 1: never."""
    alpha: Positive = 1.0
    """First parameter of the Beta distribution of λ."""
    beta: Positive = 1.0
    """Second parameter of the Beta distribution of λ."""
    lambda_per: Literal["batch", "sample"] = "batch"
    """Draw one λ for each batch or for each sample."""
    mixing: Literal["mixup", "cutmix", "none"] = "mixup"
    """Mixing of the two streams. mixup: equation 3. cutmix: paste a rectangle of the class-aware image into
    the class-agnostic one. none: leave the images unmixed, for methods that mix features."""
    mixing_probability: Fraction = 1.0
    """Probability that images are mixed, for each λ. Otherwise λ is 1 and x_h is kept."""
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
