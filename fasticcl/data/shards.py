"""The shard format: WebDataset tars, DALI indexes beside them, and one memory-mapped index per split.

    DEST/manifest.json              format, dataset, classes, counts, checksums, conversion settings
    DEST/train/shard-000000.tar     key.jpg (or key.png) and key.cls, one after the other
    DEST/train/shard-000000.idx     the same in the format of DALI's wds2idx
    DEST/train/index.npy            one row per image, sorted by label

Since the rows are sorted by label, the images of a class are a run of rows, and drawing one of them
takes the run's start and length and nothing else: no list of images per class is kept in memory.
"""

import hashlib
import json
import mmap
import re
import resource
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fasticcl.errors import UserError
from fasticcl.files import Replacement, write_file

FORMAT = 2
MANIFEST = "manifest.json"
INDEX = "index.npy"
SPLITS = ("train", "val", "test")
QUARANTINE = "quarantine.jsonl"
_CHECKED_INDEX = 2**28  # bytes; 8 million images
_CHECKSUM = "sha256"
_CHECKSUM_ENTRY = b',\n "sha256": "'
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


class ShardWriter:
    """Writes one shard and its DALI index; nothing is visible before `close`.

    The same images give the same bytes: headers carry no time, user or mode of the machine.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self._tar = Replacement(folder / f"{shard_name(number)}.tar")
        self._digest = hashlib.sha256()
        self._size = 0
        self._rows: list[tuple[int, ...]] = []
        self._lines: list[str] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: str, suffix: str, image: bytes, label: int, height: int, width: int) -> None:
        """Append an encoded image, stored as ``key.suffix`` and ``key.cls``."""
        offset = self._member(f"{key}.{suffix}", image)
        text = str(label).encode()
        label_offset = self._member(f"{key}.cls", text)
        self._rows.append((self.number, offset, len(image), label, height, width, zlib.crc32(image)))
        self._lines.append(idx_line(f"{key}.{suffix}", offset, len(image), label_offset, len(text)))

    def _member(self, name: str, content: bytes) -> int:
        header = tarfile.TarInfo(name)
        header.size = len(content)
        self._write(header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        offset = self._size
        self._write(content)
        self._write(bytes(-len(content) % tarfile.BLOCKSIZE))
        return offset

    def _write(self, content: bytes) -> None:
        self._tar.file.write(content)
        self._digest.update(content)
        self._size += len(content)

    def close(self) -> tuple[ShardInfo, NDArray[np.void]]:
        """Put the shard in place and return what the manifest and the index say of it."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self._size % tarfile.RECORDSIZE))
        name = shard_name(self.number)
        write_file(self.folder / f"{name}.idx", idx_text(self._lines).encode())
        self._tar.commit()
        info = ShardInfo(
            name=f"{name}.tar",
            images=len(self),
            bytes=self._size,
            sha256=self._digest.hexdigest(),
        )
        return info, np.array(self._rows, dtype=INDEX_DTYPE)

    def abandon(self) -> None:
        """Remove what was written so far."""
        self._tar.abandon()


def idx_line(image: str, offset: int, size: int, label_offset: int, label_size: int) -> str:
    """Return one sample's line of a DALI index, from the name of its image and where image and label lie."""
    key, _, suffix = image.rpartition(".")
    return f"{suffix} {offset} {size} {image} cls {label_offset} {label_size} {key}.cls"


def idx_text(lines: Sequence[str]) -> str:
    """Return a DALI index with these lines, in the format v1.2 of ``wds2idx``."""
    return "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"


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
        verify_reads: whether every image that is read is compared with its checksum.

    Raises:
        UserError: no such shards, or they changed since the conversion.
    """

    def __init__(self, folder: Path, split: str, verify_reads: bool = True) -> None:
        manifest = Manifest.read(folder)
        if manifest is None:
            raise UserError(
                f"There are no shards in {folder}; make them with: fasticcl convert folder SRC {folder} "
                "(or another layout: fasticcl datasets)"
            )
        if split not in manifest.splits:
            raise UserError(
                f"The shards in {folder} have no split {split!r}, only {', '.join(manifest.splits)}."
            )
        self.manifest, self.split, self.verify_reads = manifest, split, verify_reads
        self.folder = folder / split
        info = manifest.splits[split]
        self.counts = np.array(info.class_counts, dtype=np.int64)
        self.index = self._open_index(info)
        for shard in info.shards:
            path = self.folder / shard.name
            if not path.is_file() or path.stat().st_size != shard.bytes:
                raise UserError(
                    f"{path} is missing or was changed since the conversion; convert {folder} again."
                )
        self._files: dict[int, _MappedFile] = {}
        _allow_open_files(len(info.shards))

    def __len__(self) -> int:
        return len(self.index)

    def images(self, rows: NDArray[np.integer]) -> list[NDArray[np.uint8]]:
        """Return the encoded bytes [size] of images, each a view into its mapped shard.

        Raises:
            DamagedImages: bytes that no longer have the checksum that they were stored with.
        """
        found = self.index[rows]
        fields = [found[name].tolist() for name in ("shard", "offset", "size", "crc32")]
        for shard, offset, size, _ in zip(*fields, strict=True):
            self._file(shard).fetch(offset, size)
        images, damaged = [], []
        for row, shard, offset, size, crc32 in zip(rows.tolist(), *fields, strict=True):
            image = self._file(shard).content[offset : offset + size]
            if len(image) != size or (self.verify_reads and zlib.crc32(image.data) != crc32):
                damaged.append(row)
            images.append(image)
        if damaged:
            raise DamagedImages([self.name(row) for row in damaged], damaged)
        return images

    def name(self, row: int) -> str:
        """Return where an image lies and what it is called there, as split/shard:offset key.jpg."""
        shard, offset = (int(self.index[row][field]) for field in ("shard", "offset"))
        header = self._file(shard).content[max(0, offset - tarfile.BLOCKSIZE) : offset].tobytes()
        key = header[:100].rstrip(b"\0").decode("ascii", "replace")
        return f"{self.split}/{shard_name(shard)}.tar:{offset} {key}"

    def _file(self, shard: int) -> "_MappedFile":
        if shard not in self._files:
            self._files[shard] = _MappedFile(self.folder / f"{shard_name(shard)}.tar")
        return self._files[shard]

    def _open_index(self, info: SplitInfo) -> NDArray[np.void]:
        path = self.folder / INDEX
        index = open_index(path)
        if index is None:
            raise UserError(f"{path} is missing or damaged; convert the dataset again.")
        # Reading more than this takes seconds; `fasticcl verify` reads an index of any size.
        checked = path.stat().st_size <= _CHECKED_INDEX
        if len(index) != sum(info.class_counts) or (checked and file_sha256(path) != info.index_sha256):
            raise UserError(f"{path} does not fit the manifest; convert the dataset again.")
        return index


def open_index(path: Path) -> NDArray[np.void] | None:
    """Return the memory-mapped rows of an index, or None where it is missing or damaged."""
    try:
        index = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # NumPy evaluates the header as Python would, and raises whatever that raises
        return None
    return index if index.dtype == INDEX_DTYPE and index.ndim == 1 else None


class _MappedFile:
    """A file in memory, page by page as it is read; one that is gone is an empty one."""

    def __init__(self, path: Path) -> None:
        self.content: NDArray[np.uint8] = np.empty(0, np.uint8)
        try:
            with open(path, "rb") as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, ValueError):  # gone or emptied since the shards were opened
            return
        self.content = np.frombuffer(self._mapped, np.uint8)

    def fetch(self, offset: int, size: int) -> None:
        """Have the kernel start to read these bytes, so that a batch's images come side by side."""
        start = offset - offset % mmap.PAGESIZE
        if start < len(self.content):
            self._mapped.madvise(mmap.MADV_WILLNEED, start, offset + size - start)


def _allow_open_files(count: int) -> None:
    """Raise this process's limit of open files for a dataset of many shards: each stays mapped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and count > soft // 4:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class DamagedImages(Exception):
    """Images whose bytes changed since the conversion.

    Attributes:
        rows: their rows of the index.
    """

    def __init__(self, places: list[str], rows: list[int]) -> None:
        super().__init__(", ".join(places))
        self.rows = rows


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
