"""The shard format: WebDataset tars, DALI indexes beside them, and one memory-mapped index per split.

    DEST/manifest.json              format, dataset, classes, counts, checksums, conversion settings
    DEST/train/shard-000000.tar     key.jpg (or key.png) and key.cls, one after the other
    DEST/train/shard-000000.idx     the same in the format of DALI's wds2idx
    DEST/train/index.npy            one row per image, sorted by label

Since the rows are sorted by label, the images of a class are a run of rows, and drawing one of them
takes the run's start and length and nothing else: no list of images per class is kept in memory.
"""

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fasticcl.errors import UserError
from fasticcl.files import write_file

FORMAT = 1
INDEX_DTYPE = np.dtype(
    [
        ("shard", "<u4"),
        ("offset", "<u8"),
        ("size", "<u4"),
        ("label", "<u4"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("crc32", "<u4"),
    ]
)


def shard_name(number: int) -> str:
    """Return the name of a shard without its suffix."""
    return f"shard-{number:06d}"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardInfo(_Record):
    """One tar file as the manifest lists it."""

    name: str
    images: int
    bytes: int
    sha256: str


class SplitInfo(_Record):
    """One split as the manifest lists it."""

    class_counts: list[Annotated[int, Field(ge=0)]]
    """[K] images per class."""
    shards: list[ShardInfo]
    index_sha256: str


class Manifest(_Record):
    """What a folder of shards holds (``manifest.json``); written last, it marks a whole conversion."""

    format: int = FORMAT
    dataset: str
    classes: list[str]
    splits: dict[str, SplitInfo]
    settings: dict[str, int | str | None]
    source_sha256: str
    reencoded: dict[str, int]
    """Images whose bytes were not kept as they were, by reason."""
    quarantined: int
    """Unreadable images that were left out; ``quarantine.jsonl`` lists them."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the manifest of a folder, or None where there is none.

        Raises:
            UserError: a damaged manifest, or one that a newer version wrote.
        """
        path = folder / "manifest.json"
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from None
        try:
            values = json.loads(content)
            if (
                isinstance(values, dict)
                and isinstance(values.get("format"), int)
                and values["format"] > FORMAT
            ):
                raise UserError(
                    f"{folder} has shards of format {values['format']}, newer than this fasticcl ({FORMAT}); "
                    "update fasticcl."
                )
            return cls.model_validate(values)
        except (json.JSONDecodeError, UnicodeDecodeError, ValidationError):
            raise UserError(f"{path} is damaged; convert the dataset again.") from None

    def write(self, folder: Path) -> None:
        """Put ``manifest.json`` in place, whole or not at all."""
        write_file(folder / "manifest.json", (self.model_dump_json(indent=1) + "\n").encode())


class ShardWriter:
    """Writes one shard and its DALI index; nothing is visible before `close`.

    The same images give the same bytes: headers carry no time, user or mode of the machine.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self._aside = folder / f"{shard_name(number)}.tar.part"
        self._file = open(self._aside, "wb")  # noqa: SIM115  closed in close and abandon
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        self._rows: list[tuple[int, ...]] = []
        self._lines: list[str] = []

    def add(self, key: str, suffix: str, image: bytes, label: int, height: int, width: int) -> None:
        """Append an encoded image, stored as ``key.suffix`` and ``key.cls``."""
        offset = self._member(f"{key}.{suffix}", image)
        text = str(label).encode()
        label_offset = self._member(f"{key}.cls", text)
        self._rows.append((self.number, offset, len(image), label, height, width, zlib.crc32(image)))
        self._lines.append(
            f"{suffix} {offset} {len(image)} {key}.{suffix} cls {label_offset} {len(text)} {key}.cls\n"
        )

    def _member(self, name: str, content: bytes) -> int:
        header = tarfile.TarInfo(name)
        header.size = len(content)
        self._tar.addfile(header, io.BytesIO(content))
        blocks = -(-len(content) // tarfile.BLOCKSIZE)
        return self._tar.offset - blocks * tarfile.BLOCKSIZE

    def close(self) -> tuple[ShardInfo, NDArray[np.void]]:
        """Put the shard in place and return what the manifest and the index say of it."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        name = shard_name(self.number)
        with open(self._aside, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        info = ShardInfo(
            name=f"{name}.tar", images=len(self._rows), bytes=self._aside.stat().st_size, sha256=digest
        )
        write_file(self.folder / f"{name}.idx", f"v1.2 {len(self._lines)}\n{''.join(self._lines)}".encode())
        os.replace(self._aside, self.folder / f"{name}.tar")
        return info, np.array(self._rows, dtype=INDEX_DTYPE)

    def abandon(self) -> None:
        """Remove what was written so far."""
        self._file.close()
        self._aside.unlink(missing_ok=True)


def member_key(ordinal: int, name: str) -> str:
    """Return a key that is unique, sorts in storage order and still names its source.

    WebDataset cuts a key at its first dot and the tar header holds 100 ASCII characters, hence the cleaning.
    """
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{ordinal:09d}_{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[:60]}"


class Shards:
    """One split, opened for reading: the index and the images are memory-mapped.

    Args:
        folder: DEST of a conversion.
        split: train, val or test.

    Raises:
        UserError: no such shards, or they changed since the conversion.
    """

    def __init__(self, folder: Path, split: str) -> None:
        manifest = Manifest.read(folder)
        if manifest is None:
            raise UserError(
                f"There are no shards in {folder}; make them with: fasticcl convert folder SRC {folder}"
            )
        if split not in manifest.splits:
            raise UserError(
                f"The shards in {folder} have no split {split!r}, only {', '.join(manifest.splits)}."
            )
        self.manifest, self.split = manifest, split
        self.folder = folder / split
        info = manifest.splits[split]
        self.counts = np.array(info.class_counts, dtype=np.int64)
        self.index = self._open_index(int(self.counts.sum()))
        self._files = [shard.name for shard in info.shards]
        for shard in info.shards:
            path = self.folder / shard.name
            if not path.is_file() or path.stat().st_size != shard.bytes:
                raise UserError(
                    f"{path} is missing or was changed since the conversion; convert {folder} again."
                )
        self._maps: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.index)

    def images(self, rows: NDArray[np.integer]) -> list[NDArray[np.uint8]]:
        """Return the encoded bytes [size] of images, each a view into its mapped shard."""
        found = self.index[rows]
        places = zip(found["shard"].tolist(), found["offset"].tolist(), found["size"].tolist(), strict=True)
        return [self._map(shard)[offset : offset + size] for shard, offset, size in places]

    def damaged(self, rows: NDArray[np.integer]) -> list[str]:
        """Return where those images lie whose bytes no longer have their checksum, as shard:offset."""
        found = self.index[rows]
        return [
            f"{self._files[shard]}:{offset}"
            for shard, offset, crc32, content in zip(
                found["shard"].tolist(),
                found["offset"].tolist(),
                found["crc32"].tolist(),
                self.images(rows),
                strict=True,
            )
            if zlib.crc32(content.data) != crc32
        ]

    def _map(self, shard: int) -> NDArray[np.uint8]:
        if shard not in self._maps:
            mapped = np.memmap(self.folder / self._files[shard], dtype=np.uint8, mode="r")
            # Slicing a memmap runs Python code for every slice; slicing an array does not.
            self._maps[shard] = mapped.view(np.ndarray)
        return self._maps[shard]

    def _open_index(self, images: int) -> NDArray[np.void]:
        path = self.folder / "index.npy"
        try:
            index = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise UserError(f"{path} is missing or damaged; convert the dataset again.") from None
        if index.dtype != INDEX_DTYPE or index.shape != (images,):
            raise UserError(f"{path} does not fit the manifest; convert the dataset again.")
        return index
