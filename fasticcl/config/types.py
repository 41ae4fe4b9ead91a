"""Types of the settings in `fasticcl.config`, which validate and convert their values."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
FolderName = Annotated[str, Field(pattern=r"^[^/.][^/]*$")]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
OptionalFolder = Annotated[Folder | None, BeforeValidator(lambda value: None if value == "" else value)]
"""A folder, or None, which is written as an empty name because TOML has no null."""
Triple = tuple[float, float, float]
Device = Literal["auto", "cpu", "gpu"]
Cache = Literal["auto", "host", "device", "off"]
Recipe = Literal["preset", "published"]
LoggerName = Literal["tensorboard", "wandb"]


def _interval(value: object) -> object:
    text = str(value) if type(value) is int else value
    if not (isinstance(text, str) and re.fullmatch(r"[1-9][0-9]*m?", text)):
        raise ValueError(f"engine.save_every must be a number of steps (500) or minutes (15m), got {value!r}")
    return text


Interval = Annotated[str, BeforeValidator(_interval)]


def _split_names(value: object) -> object:
    """Return the names in one comma-separated string or in several. The name "none" is dropped."""
    texts = [value] if isinstance(value, str) else value
    if not (isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)):
        return value
    names = [name.strip() for text in texts for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in names if name not in ("", "none")))


LoggerNames = Annotated[tuple[LoggerName, ...], BeforeValidator(_split_names)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]
