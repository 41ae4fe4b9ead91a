"""Checkpoint files ``last.pt``, ``previous.pt`` and ``best.pt``, which are written atomically."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, cast

import torch

from fasticcl.engine.stages.stage import STAGES, StageName, StageState
from fasticcl.errors import UserError
from fasticcl.files import replacing

FORMAT = 2
LAST = "last.pt"
PREVIOUS = "previous.pt"
"""The checkpoint before ``last.pt``, kept until the run is finished."""
BEST = "best.pt"
_DIRECTORY = 0x10  # attribute of a zip entry

Record = dict[str, Any]
"""A line of ``metrics.jsonl``."""


class EpochSums(TypedDict, total=False):
    """Statistics of an unfinished epoch. Empty between epochs."""

    sums: dict[str, torch.Tensor]
    """Summed losses by name, each [ranks]."""
    steps: int
    """Steps in the sums."""


@dataclass(frozen=True)
class Checkpoint:
    """The state from which a run continues."""

    stage: StageName
    epoch: int
    """The next epoch, from 0."""
    step: int
    """The next step of the epoch, from 0."""
    data_sha256: str
    """Checksum of the training data."""
    state: StageState
    """State of the stage."""
    partial: EpochSums = field(default_factory=EpochSums)
    """Statistics of the current epoch."""
    bad_rows: list[int] = field(default_factory=list)
    """Rows of training images that could not be read."""
    epochs: list[Record] = field(default_factory=list)
    """Records of the finished epochs."""
    unwritten: str = ""
    """Lines of ``metrics.jsonl`` that could not be written before the checkpoint."""

    @property
    def position(self) -> tuple[int, int, int]:
        """The progress of the run as (stage, epoch, step), which sorts in training order."""
        return STAGES.index(self.stage), self.epoch, self.step

    @property
    def teacher(self) -> dict[str, torch.Tensor] | None:
        """Weights from before rebalancing, or None during the representation stage."""
        return self.state.get("teacher")

    def save(
        self, path: Path, previous: Path | None = None, check: Callable[[], None] = lambda: None
    ) -> None:
        """Write the checkpoint with `save_checkpoint`."""
        content = {
            "stage": self.stage,
            "epoch": self.epoch,
            "step": self.step,
            "partial": self.partial,
            "bad_rows": self.bad_rows,
            "data": self.data_sha256,
            "epochs": self.epochs,
            "unwritten": self.unwritten,
            **self.state,
        }
        save_checkpoint(path, content, previous, check)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint with `load_checkpoint`."""
        content = load_checkpoint(path)
        state = {key: content[key] for key in StageState.__annotations__ if key in content}
        return cls(
            stage=content["stage"],
            epoch=content["epoch"],
            step=content["step"],
            data_sha256=content["data"],
            state=cast("StageState", state),
            partial=content["partial"],
            bad_rows=content["bad_rows"],
            epochs=content["epochs"],
            unwritten=content.get("unwritten", ""),
        )


@dataclass(frozen=True)
class BestEpoch:
    """The content of ``best.pt``: the epoch of the last stage with the highest overall accuracy."""

    network: dict[str, torch.Tensor]
    """State dict of the network."""
    record: Record
    """Record of the epoch."""

    def save(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        """Write the file with `save_checkpoint`."""
        save_checkpoint(path, {"network": self.network, "record": self.record}, None, check)

    @classmethod
    def load(cls, path: Path) -> "BestEpoch":
        """Read the file with `load_checkpoint`."""
        content = load_checkpoint(path)
        return cls(content["network"], content["record"])


def load_newest(folder: Path, warn: Callable[[str], None]) -> tuple[Checkpoint, Path] | None:
    """Return the newest readable checkpoint of a run with its path, or None before the first.

    Args:
        folder: the run folder.
        warn: called with a message if ``last.pt`` is damaged and ``previous.pt`` replaces it.

    Raises:
        UserError: every checkpoint is damaged.
    """
    paths = [path for name in (LAST, PREVIOUS) if (path := folder / name).exists()]
    for path in paths:
        try:
            return Checkpoint.load(path), path
        except UserError as error:
            if path == paths[-1]:
                raise
            problem = error.args[0].rpartition(". ")[0]
            warn(f"warning  {problem}. Falling back to {PREVIOUS}")
    return None


class _CheckedFile:
    """A binary file that calls a function before every write."""

    def __init__(self, file: BinaryIO, check: Callable[[], None]) -> None:
        self._file, self._check = file, check

    def write(self, content: bytes) -> int:
        self._check()
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def save_checkpoint(
    path: Path,
    content: dict[str, Any],
    previous: Path | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write a checkpoint file atomically: a reader sees the old file or the new one.

    Args:
        path: the file.
        content: tensors and plain values.
        previous: new path of the file that is replaced, or None to delete it.
        check: called before every write. The file is abandoned if it raises an exception.

    Raises:
        OSError: the file cannot be written. The old one is unchanged.
    """
    with replacing(path, previous) as file:
        try:
            torch.save({"format": FORMAT, **content}, cast("BinaryIO", _CheckedFile(file, check)))
        except RuntimeError as error:  # torch's zip writer hides a full disk and Ctrl-C
            raise (error.__context__ or error) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, with tensors on the CPU. No code in the file is executed.

    Raises:
        UserError: the file is missing, damaged or of another format version.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not verify the checksums
            # torch skips an entry that a flipped bit has turned into a directory.
            directories = [entry.filename for entry in archive.infolist() if entry.external_attr & _DIRECTORY]
            if damaged := archive.testzip() or directories:
                raise zipfile.BadZipFile(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}. Restore it, or start a new run.") from None
    except Exception as error:  # torch raises many types for a damaged file
        raise UserError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}). Start a new run."
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"The checkpoint {path} does not have format {FORMAT}, the only one that this fasticcl reads. "
            "Continue with the fasticcl that wrote it, or start a new run."
        )
    return content
