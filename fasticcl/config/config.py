"""The configuration of a run: its sections and the checks that involve several of them."""

import json
from typing import Literal

from pydantic import model_validator

from fasticcl.config.data import Data
from fasticcl.config.engine import Engine
from fasticcl.config.method import Method
from fasticcl.config.optim import Optim
from fasticcl.config.rebalance import Rebalance
from fasticcl.config.section import ConfigSection

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

    @model_validator(mode="after")
    def _mixes_once(self) -> "Config":
        mixes_features = bool(self.method.mixup_after) or self.method.first_stage == "bbn"
        if mixes_features and self.data.mixing != "none":
            reason = "method.mixup_after" if self.method.mixup_after else "method.first_stage=bbn"
            raise ValueError(f"{reason} mixes features, not images. Set data.mixing=none")
        if self.data.mixing == "none" and not mixes_features:
            raise ValueError(
                "data.mixing=none requires method.mixup_after or method.first_stage=bbn. Set one of them, or "
                "data.mixing=mixup"
            )
        return self

    @model_validator(mode="after")
    def _has_positions(self) -> "Config":
        if self.rebalance.attention and self.data.image_size != 224:
            raise ValueError(
                "rebalance.attention has weights for the 7×7 positions of images of 224 pixels, but "
                f"data.image_size is {self.data.image_size}. Set rebalance.attention=false"
            )
        return self

    @model_validator(mode="after")
    def _translates(self) -> "Config":
        if self.method.first_stage == "m2m" and self.data.resample_start == 1:
            raise ValueError(
                "method.first_stage=m2m translates images from data.resample_start on, which is 1 (never). "
                "Lower it, for example data.resample_start=0.6"
            )
        return self

    @model_validator(mode="after")
    def _mixes_in_some_epoch(self) -> "Config":
        method, epochs = self.method, self.optim.epochs
        # Without a cooldown, a run may consist of the warm-up only.
        if method.interpolative_weight and 0 < method.cooldown_epochs >= epochs - method.warmup_epochs:
            raise ValueError(
                f"{epochs} epochs leave none for mixing after method.warmup_epochs={method.warmup_epochs} "
                f"and before method.cooldown_epochs={method.cooldown_epochs}. Lower them or raise --epochs"
            )
        return self

    def phase(self, epoch: int) -> Literal["warmup", "interpolative", "translation"]:
        """Return the phase of an epoch of the representation stage, counted from 0 (section 4.3)."""
        method, resampled = self.method, self.resample_epoch
        if method.first_stage == "m2m" and resampled is not None and epoch >= resampled:
            return "translation"
        interpolative = method.warmup_epochs <= epoch < self.optim.epochs - method.cooldown_epochs
        return "interpolative" if interpolative and method.interpolative_weight else "warmup"

    @property
    def seed_epochs(self) -> int:
        """Epochs of the stage before the representation stage that trains the seed network of M2m, or 0."""
        needed = self.method.first_stage == "m2m" and self.resample_epoch is not None
        return self.optim.epochs if needed and self.method.seed_run is None else 0

    @property
    def resample_epoch(self) -> int | None:
        """First epoch with deferred re-sampling, counted from 0. None: no epoch."""
        return self._start_epoch(self.data.resample_start)

    @property
    def class_weight_epoch(self) -> int | None:
        """First epoch with class weights, counted from 0. None: no epoch."""
        return self._start_epoch(self.method.class_weight_start) if self.method.class_weight_beta else None

    def _start_epoch(self, fraction: float) -> int | None:
        epoch = self.optim.epoch_after(fraction)
        return epoch if epoch < self.optim.epochs else None

    def shortened(self) -> "Config":
        """Return a copy for ``fast_dev_run``, with two representation and at most one rebalancing epochs.

        Everything that starts later in a run starts in the second epoch.
        """
        data, method = self.data, self.method
        resample_start, class_weight_start = (
            min(fraction, 0.5) if fraction < 1 else fraction  # 1 means never
            for fraction in (data.resample_start, method.class_weight_start)
        )
        first = {
            "warmup_epochs": min(method.warmup_epochs, 1),
            "cooldown_epochs": 0,
            "class_weight_start": class_weight_start,
        }
        return self.model_copy(
            update={
                "data": data.model_copy(update={"resample_start": resample_start}),
                "method": method.model_copy(update=first),
                "optim": self.optim.model_copy(update={"epochs": 2}),
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
