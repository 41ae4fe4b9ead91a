"""The folder of the shards of a dataset and imbalance ratio."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from fasticcl.config import Config
from fasticcl.errors import UserError
from fasticcl.shards.manifest import Manifest

_DIGITS = 12  # of the checksum that a run records in environment.jsonl
CLASSES = {"cifar10-lt": 10, "cifar100-lt": 100, "demo": 10, "imagenet-lt": 1000, "inat2018": 8142}
"""Number of classes of the datasets of the presets. ``folder`` has any."""


@dataclass(frozen=True)
class ShardFolder:
    """A folder of shards and the first digits of the checksum of its images."""

    path: Path
    checksum: str
    """Empty if the shards do not exist yet: training creates those of the demo."""

    @classmethod
    def find(cls, config: Config, folders: list[Path]) -> "ShardFolder":
        """Return the first of several folders with the shards that a configuration trains on.

        Args:
            config: dataset and imbalance ratio.
            folders: the folders to try. Missing shards should be written to the first.

        Raises:
            UserError: no folder has these shards. The message states the other contents and the command
                that creates the shards.
        """
        others = []
        for folder in folders:
            try:
                manifest = Manifest.read(folder)
            except UserError as error:
                others.append(str(error).removesuffix("."))
                continue
            if manifest is None:
                continue
            if difference := _difference(manifest, config):
                others.append(f"{folder} has {difference}")
                continue
            return cls(folder, manifest.source_sha256[:_DIGITS])
        if config.data.dataset == "demo":
            return cls(folders[-1], "")
        raise UserError(_missing(config, folders, others))


def checksum_of(folder: Path) -> str:
    """Return the first digits of the checksum of the images in a folder of shards, or "" without shards."""
    try:
        manifest = Manifest.read(folder)
    except UserError:
        return ""
    return manifest.source_sha256[:_DIGITS] if manifest else ""


def imbalance_of(manifest: Manifest) -> float:
    """Return the imbalance ratio of shards: that of the conversion, or else of the training images."""
    for name in ("imbalance", "long_tail"):
        if isinstance(ratio := manifest.settings.get(name), int | float):
            return float(ratio)
    counts = manifest.splits["train"].class_counts if "train" in manifest.splits else []
    return max(counts) / max(min(counts), 1) if counts else 0.0


def _difference(manifest: Manifest, config: Config) -> str:
    """Return how shards differ from those that a configuration trains on, or an empty string."""
    dataset, imbalance = config.data.dataset, config.data.imbalance
    if manifest.dataset not in (dataset, "folder"):  # plain folders can contain any dataset
        return f"shards of {manifest.dataset}"
    classes = CLASSES.get(dataset, len(manifest.classes))
    if len(manifest.classes) != classes:
        return f"{len(manifest.classes)} classes, not {classes}"
    if imbalance and abs(imbalance_of(manifest) - imbalance) > 0.02 * imbalance:  # integer class counts
        return f"imbalance ratio {imbalance_of(manifest):g}, not {imbalance}"
    splits = {"test", "val"} if config.data.eval_split == "auto" else {config.data.eval_split}
    if "train" not in manifest.splits or not splits & manifest.splits.keys():
        return f"no {' or '.join(sorted(splits))} images to evaluate"
    return ""


def _missing(config: Config, folders: list[Path], others: list[str]) -> str:
    data, folder = config.data, folders[0]
    ratio = f" at ratio {data.imbalance}" if data.imbalance else ""
    option = f" --imbalance {data.imbalance}" if data.imbalance else ""
    found = f" ({'; '.join(others)})" if others else ""
    return (
        f"no shards of {data.dataset}{ratio} in the folder {folder.parent}{found}. Create them with: "
        f"fasticcl convert {data.dataset} DOWNLOADS {shlex.quote(str(folder))}{option} "
        "(`fasticcl datasets` describes DOWNLOADS)"
    )
