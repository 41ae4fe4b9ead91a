"""What a folder of shards says of itself: ``manifest.json``."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from fasticcl.errors import UserError
from fasticcl.files import write_file

FORMAT = 2
MANIFEST = "manifest.json"
SPLITS = ("train", "val", "test")
_CHECKSUM = "sha256"
_CHECKSUM_ENTRY = b',\n "sha256": "'


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardInfo(_Record):
    """One tar file as the manifest lists it."""

    name: Annotated[str, Field(pattern=r"^shard-[0-9]{6,}\.tar$")]
    images: int
    bytes: int
    sha256: str

    @property
    def number(self) -> int:
        """The number in its name."""
        return int(self.name.removeprefix("shard-").removesuffix(".tar"))


class SplitInfo(_Record):
    """One split as the manifest lists it."""

    class_counts: list[Annotated[int, Field(ge=0, lt=2**48)]]
    """[K] images per class."""
    shards: list[ShardInfo]
    index_sha256: str


class Manifest(_Record):
    """What a folder of shards holds (``manifest.json``); written last, it marks a whole conversion.

    The last entry of the file is the SHA-256 of all that stands before it.
    """

    format: int = FORMAT
    dataset: str
    classes: list[str]
    splits: dict[Annotated[str, Field(pattern=f"^({'|'.join(SPLITS)})$")], SplitInfo]
    settings: dict[str, int | float | str | None]
    source_sha256: str
    """Of the names, labels and sizes of the source's images and of the settings."""
    reencoded: dict[str, int]
    """Images whose bytes were not kept as they were, by reason."""
    quarantined: int
    """Unreadable images that were left out; ``quarantine.jsonl`` lists them."""
    quarantine_sha256: str

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the manifest of a folder, or None where there is none.

        Raises:
            UserError: a damaged manifest, or one that a newer version wrote.
        """
        path = folder / MANIFEST
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from None
        try:
            values = json.loads(content)
            if isinstance(values, dict):
                _check_format(folder, values.get("format"))
                values.pop(_CHECKSUM, None)
            body = content[: content.rindex(_CHECKSUM_ENTRY)]
            if content != _signed(body):
                raise ValueError("the checksum differs")
            return cls.model_validate(values)
        except (ValueError, RecursionError):  # also what json and pydantic raise
            raise UserError(f"{path} is damaged; convert the dataset again.") from None

    def write(self, folder: Path) -> None:
        """Put ``manifest.json`` in place, whole or not at all."""
        body = self.model_dump_json(indent=1).encode().removesuffix(b"\n}")
        write_file(folder / MANIFEST, _signed(body))


def _check_format(folder: Path, version: Any) -> None:
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"{folder} has shards of format {version}, newer than this fasticcl ({FORMAT}); update fasticcl."
        )
    if isinstance(version, int) and version < FORMAT:
        raise UserError(
            f"{folder} has shards of format {version}, which this fasticcl ({FORMAT}) no longer reads; "
            "delete the folder and convert again."
        )


def _signed(body: bytes) -> bytes:
    """Return the text of a manifest with the checksum of its beginning at its end."""
    return body + _CHECKSUM_ENTRY + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'
