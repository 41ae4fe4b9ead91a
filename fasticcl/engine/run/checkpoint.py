"""Checkpoints: tensors and plain values, written aside, flushed and renamed."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from fasticcl.errors import UserError
from fasticcl.files import replacing

FORMAT = 2
_FOLDER = 0x10  # attribute of an entry of a zip file


def save_checkpoint(path: Path, content: dict[str, Any], previous: Path | None = None) -> None:
    """Put a checkpoint in place; a reader sees the old one or the new one, never a part.

    Args:
        path: the file.
        content: tensors and plain values.
        previous: where the checkpoint that it replaces is kept; None: nowhere.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    with replacing(path, previous) as file:
        try:
            torch.save({"format": FORMAT, **content}, file)
        except RuntimeError as error:  # torch's writer of zip files hides a full disk, and a Ctrl-C
            raise (error.__context__ or error) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, its tensors on the CPU; nothing in the file is executed.

    Raises:
        UserError: no such file, a damaged one, or one of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads what it finds; the checksums are for us to check
            # torch skips what a flipped bit turned into a folder.
            folders = [entry.filename for entry in archive.infolist() if entry.external_attr & _FOLDER]
            if damaged := archive.testzip() or folders:
                raise zipfile.BadZipFile(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}; bring it back, or start a new run.") from None
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}); start a new run."
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"The checkpoint {path} has another format than this fasticcl writes ({FORMAT}); "
            "go on with the fasticcl that wrote it, or start a new run."
        )
    return content
