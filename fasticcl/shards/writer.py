"""Writer of shards: tars in the WebDataset layout, each with an index for DALI."""

import hashlib
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from fasticcl.files import Replacement, write_file
from fasticcl.shards.manifest import ShardInfo
from fasticcl.shards.reader import INDEX_DTYPE, shard_name


class ShardWriter:
    """Writer of one shard and its DALI index. Both files get their final names in `close`.

    The same images give the same bytes, because the tar headers contain neither times nor user names.
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
        """Append an encoded image as ``key.suffix`` and its label as ``key.cls``."""
        offset = self._member(f"{key}.{suffix}", image)
        text = str(label).encode()
        label_offset = self._member(f"{key}.cls", text)
        self._rows.append((self.number, offset, len(image), label, height, width, crc32(image)))
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
        """Move the shard into place and return its entry in the manifest and its rows of the index."""
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
        """Remove the unfinished shard."""
        self._tar.abandon()


def idx_line(image: str, offset: int, size: int, label_offset: int, label_size: int) -> str:
    """Return the line of one sample in a DALI index. Offsets and sizes are in bytes."""
    key, _, suffix = image.rpartition(".")
    return f"{suffix} {offset} {size} {image} cls {label_offset} {label_size} {key}.cls"


def idx_text(lines: Sequence[str]) -> str:
    """Return the text of a DALI index with these lines, in the format v1.2 of ``wds2idx``."""
    return "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"


def member_key(ordinal: int, name: str) -> str:
    """Return a unique key that sorts in the order of the dataset and contains the name of the source file.

    The name is cleaned because WebDataset ends a key at its first dot and a tar header has room for only 100
    ASCII characters.
    """
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{ordinal:09d}_{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[:60]}"
