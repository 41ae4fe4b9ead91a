"""Checkpoints: tensors and plain values, written aside, flushed and renamed."""

from pathlib import Path
from typing import Any

import torch

from fasticcl.errors import UserError
from fasticcl.files import replacing

FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Put a checkpoint in place; a reader sees the old one or the new one, never a part."""
    with replacing(path) as file:
        torch.save({"format": FORMAT, **content}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, its tensors on the CPU; nothing in the file is executed.

    Raises:
        UserError: no such file, a damaged one, or one of a newer version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}; start the run without --resume.") from None
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}); start a new run."
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"The checkpoint {path} has another format than this fasticcl writes ({FORMAT}); update fasticcl."
        )
    return content
