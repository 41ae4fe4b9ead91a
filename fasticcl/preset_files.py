"""Preset files: one TOML file for each dataset and each method."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from fasticcl.config.layers import Layer, check_keys, merge
from fasticcl.errors import UserError, nearest

PRESETS = resources.files("fasticcl") / "presets"
GROUPS = (
    "this paper",
    "baseline",
    "losses and weights",
    "sampling",
    "mixing",
    "second stage with training",
    "second stage without training",
)
"""Groups of the methods, in the order of `fasticcl presets`."""


def preset_names(kind: Literal["dataset", "method"] = "dataset") -> list[str]:
    """Return the sorted names of the dataset presets or of the method presets."""
    folder = PRESETS if kind == "dataset" else PRESETS / "method"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def preset_text(name: str, kind: Literal["dataset", "method"] = "dataset") -> str:
    """Return the TOML text of a preset.

    Raises:
        UserError: there is no preset with this name.
    """
    known = preset_names(kind)
    if name not in known:
        raise UserError(f"There is no {kind} preset {name!r}. {nearest(name, known)}")
    folder = PRESETS if kind == "dataset" else PRESETS / "method"
    return (folder / f"{name}.toml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class DatasetPreset:
    """A dataset preset: the settings of the paper's method on a dataset."""

    name: str
    title: str
    """The first line of the file, a description of the dataset."""
    settings: Layer
    paper_warmup: Mapping[int, int]
    """T (``method.warmup_epochs``) for the numbers of epochs that the paper uses (section 4.3)."""

    @classmethod
    @lru_cache
    def read(cls, name: str) -> "DatasetPreset":
        """Return a dataset preset.

        Raises:
            UserError: there is no dataset preset with this name.
        """
        text = preset_text(name)
        tables = tomllib.loads(text)
        warmup = tables.pop("paper", {}).get("warmup_epochs", {})
        check_keys(tables, f"dataset preset {name}")
        title = text.splitlines()[0].removeprefix("# ")
        return cls(name, title, tables, {int(epochs): t for epochs, t in warmup.items()})


@dataclass(frozen=True)
class About:
    """The table ``[about]`` of a method preset."""

    title: str
    group: str
    """One of `GROUPS`."""
    citation: str
    """Authors, venue and year."""
    paper: str | None = None
    """Row and tables of the ICCL paper. None: not in the paper."""


@dataclass(frozen=True)
class MethodPreset:
    """A method preset: the settings in which a method differs from the dataset presets."""

    name: str
    about: About
    settings: Layer
    """Settings for all datasets."""
    datasets: Mapping[str, Layer]
    """Settings for one dataset, which override ``settings``. The tables ``[datasets.NAME.SECTION]``."""
    schedules: Mapping[str, Layer]
    """The published schedules by dataset, with settings that belong to them such as the start of deferred
    weights. The tables ``[published.NAME.SECTION]``. An empty table: the schedule of the dataset preset."""

    @classmethod
    def read(cls, name: str) -> "MethodPreset":
        """Return a method preset.

        Raises:
            UserError: there is no method preset with this name, or the file has an unknown group, dataset,
                section or key.
        """
        return cls.parse(name, preset_text(name, "method"))

    @classmethod
    def parse(cls, name: str, text: str) -> "MethodPreset":
        """Return the method preset with this name and TOML text.

        Raises:
            UserError: an unknown group, dataset, section or key.
        """
        tables = tomllib.loads(text)
        origin = f"method preset {name}"
        about = _about(tables.pop("about", {}), origin)
        datasets, schedules = tables.pop("datasets", {}), tables.pop("published", {})
        check_keys(tables, origin)
        for table, layers in (("datasets", datasets), ("published", schedules)):
            for dataset, layer in layers.items():
                if dataset not in (known := preset_names()):
                    close = nearest(dataset, known)
                    raise UserError(f"{origin}: There is no dataset preset {dataset!r}. {close}")
                if not isinstance(layer, Mapping):
                    raise UserError(f"{origin}: {table}.{dataset} must be a table of sections.")
                check_keys(layer, f"{origin}, {table}.{dataset}")
        if any(
            "recipe" in layer.get("optim", {}) for layer in (tables, *datasets.values(), *schedules.values())
        ):
            raise UserError(f"{origin}: optim.recipe cannot be set. --recipe sets it.")
        return cls(name, about, tables, datasets, schedules)

    def layer(self, dataset: str) -> Layer:
        """Return the settings of the method for a dataset preset."""
        return merge([self.settings, self.datasets.get(dataset, {})])

    def published(self, dataset: str) -> Layer:
        """Return the published schedule of the method for a dataset preset.

        Raises:
            UserError: no schedule was published for this dataset.
        """
        if dataset in self.schedules:
            return self.schedules[dataset]
        known = ", ".join(self.schedules)
        for_datasets = f"Known for: {known}. " if known else ""
        raise UserError(
            f"No published schedule of {self.name} for {dataset} is known. {for_datasets}"
            "For the schedule of the dataset preset, use --recipe preset."
        )


def _about(table: Mapping[str, Any], origin: str) -> About:
    try:
        about = About(**table)
    except TypeError:
        raise UserError(
            f"{origin}: [about] must have title, group and citation, and may have paper."
        ) from None
    if about.group not in GROUPS:
        raise UserError(f"{origin}: There is no group {about.group!r}. {nearest(about.group, GROUPS)}")
    return about
