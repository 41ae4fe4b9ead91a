"""The manifest of a folder of shards: ``manifest.json``."""

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
    """One tar file in the manifest."""

    name: Annotated[str, Field(pattern=r"^shard-[0-9]{6,}\.tar$")]
    images: int
    bytes: int
    sha256: str

    @property
    def number(self) -> int:
        """Number of the shard in its name."""
        return int(self.name.removeprefix("shard-").removesuffix(".tar"))


class SplitInfo(_Record):
    """One split in the manifest."""

    class_counts: list[Annotated[int, Field(ge=0, lt=2**48)]]
    """[K] number of images per class."""
    shards: list[ShardInfo]
    index_sha256: str


class Manifest(_Record):
    """Content of a folder of shards. It is written last, so its existence implies a complete conversion.

    The last entry of the file is the SHA-256 of everything before it.
    """

    format: int = FORMAT
    dataset: str
    classes: list[str]
    splits: dict[Annotated[str, Field(pattern=f"^({'|'.join(SPLITS)})$")], SplitInfo]
    settings: dict[str, int | float | str | None]
    source_sha256: str
    """Digest of the names, labels and sizes of the source images and of the settings."""
    reencoded: dict[str, int]
    """Number of re-encoded images by reason."""
    quarantined: int
    """Number of unreadable images, which are excluded and listed in ``quarantine.jsonl``."""
    quarantine_sha256: str

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the manifest of a folder, or None if there is none.

        Raises:
            UserError: the manifest is damaged or was written by another version of the format.
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
        except (ValueError, RecursionError):  # includes the errors of json and pydantic
            raise UserError(f"{path} is damaged. Convert the dataset again.") from None

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` atomically."""
        body = self.model_dump_json(indent=1).encode().removesuffix(b"\n}")
        write_file(folder / MANIFEST, _signed(body))


def _check_format(folder: Path, version: Any) -> None:
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"The shards in {folder} have format {version}, but this fasticcl reads format {FORMAT}. "
            "Update fasticcl."
        )
    if isinstance(version, int) and version < FORMAT:
        raise UserError(
            f"The shards in {folder} have format {version}, but this fasticcl reads format {FORMAT}. "
            "Delete the folder and convert the dataset again."
        )


def _signed(body: bytes) -> bytes:
    """Return the content of a manifest file: the body, followed by its checksum."""
    return body + _CHECKSUM_ENTRY + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'
