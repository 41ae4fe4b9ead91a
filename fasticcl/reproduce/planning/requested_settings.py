"""The settings of a request that replace those of the paper."""

from dataclasses import dataclass
from typing import Any, get_args

from fasticcl.config import Config, Recipe
from fasticcl.config.layers import Layer, check_keys, merge
from fasticcl.config.method_summary import READOUT_PARAMETERS
from fasticcl.errors import UserError, nearest
from fasticcl.reproduce.request import Request
from fasticcl.reproduce.run_key import is_used
from fasticcl.resolve import validate, with_settings

_REFUSED = {
    "data.dataset": "Use --on",
    "data.dir": "Use --data-root, or --on with a folder of shards",
    "data.imbalance": "Choose the columns with --columns, or use --on with a folder of shards",
    "engine.name": "The names of the runs are derived from their settings",
    "engine.project": "Use --project",
    "engine.seed": "Use --seeds",
    "method.name": "Choose the rows with --rows",
    "method.seed_run": "It is the run of ce with the same seed",
    "optim.recipe": "Use --recipe",
}
"""Settings that differ between the cells or have an option of their own."""


@dataclass(frozen=True)
class RequestedSettings:
    """The settings of a request that replace those of the paper in every cell."""

    values: Layer
    recipe: Recipe | None = None
    """Schedule of all rows. None: those of the paper."""

    @classmethod
    def of(cls, request: Request) -> "RequestedSettings":
        """Return the settings of a request.

        Raises:
            UserError: an unknown setting, or one that cannot be the same in all cells.
        """
        check_keys(request.settings)
        for section, values in request.settings.items():
            for key in values:
                if reason := _REFUSED.get(f"{section}.{key}"):
                    raise UserError(f"{section}.{key} cannot be set here. {reason}.")
        options: dict[str, dict[str, Any]] = {}
        if request.epochs is not None:
            options["optim"] = {"epochs": request.epochs}
        if request.encoder is not None:
            options["method"] = {"encoder": request.encoder}
        if request.recipe not in (None, *get_args(Recipe)):
            known = get_args(Recipe)
            raise UserError(f"There is no recipe {request.recipe!r}. {nearest(str(request.recipe), known)}")
        return cls(merge([options, request.settings]), request.recipe)

    @property
    def paths(self) -> list[str]:
        """The settings as ``section.key``."""
        return [f"{section}.{key}" for section, values in self.values.items() for key in values]

    def apply(self, published: Config) -> tuple[Config, list[str]]:
        """Return the configuration of a cell and the settings that have no effect on it.

        These are not applied, because a run without them is the same. With other epochs, T and the warm-up
        of the learning rate keep their share, and the second stage keeps its length.

        Args:
            published: the configuration in the paper's protocol.

        Raises:
            UserError: a value is invalid for this cell.
        """
        with_all = with_settings(published, self._without(_unused_by_second_stage(published, self.values)))
        unused = [path for path in self.paths if not _is_used(path, published, with_all)]
        values = self._without(unused)
        config = with_settings(published, values)
        if "warmup_epochs" not in values.get("optim", {}):
            config = with_warmup_of(published, config)
        return config, unused

    def _without(self, paths: list[str]) -> Layer:
        return {
            section: {key: value for key, value in values.items() if f"{section}.{key}" not in paths}
            for section, values in self.values.items()
        }


def with_warmup_of(published: Config, config: Config) -> Config:
    """Return ``config`` with a learning-rate warm-up in the same share of the epochs as in ``published``."""
    warmup, epochs = published.optim.warmup_epochs, published.optim.epochs
    scaled = max(round(warmup * config.optim.epochs / epochs), min(warmup, 1))
    return validate(merge([config.model_dump(), {"optim": {"warmup_epochs": scaled}}]))


def _is_used(path: str, published: Config, config: Config) -> bool:
    section, _, key = path.partition(".")
    if path in _unused_by_second_stage(published, {section: {key: None}}):
        return False
    return is_used(path, config)


def _unused_by_second_stage(published: Config, settings: Layer) -> list[str]:
    """Return the settings of ``rebalance`` that the second stage of a row does not use."""
    stage = published.rebalance
    keys = settings.get("rebalance", {})
    if not stage.enabled:
        return [f"rebalance.{key}" for key in keys]
    if stage.readout == "ncm" or stage.readout in READOUT_PARAMETERS:
        used = {"readout", READOUT_PARAMETERS.get(stage.readout, ("", ""))[1]}
        return [f"rebalance.{key}" for key in keys if key not in used]
    return []
