"""The reader of the shard format: WebDataset tars, their DALI indexes, and one memory-mapped index per split.

    DEST/manifest.json              format, dataset, classes, counts, checksums, conversion settings
    DEST/train/shard-000000.tar     key.jpg (or key.png) and key.cls, one after the other
    DEST/train/shard-000000.idx     its index in the format of DALI's wds2idx
    DEST/train/index.npy            one row per image, sorted by label

The rows are sorted by label. The images of a class are therefore consecutive rows, and drawing one needs
only the first row and the count. No list of images per class is kept in memory.
"""

import mmap
import resource
import shlex
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from fasticcl.errors import UserError
from fasticcl.files import file_sha256
from fasticcl.shards.image_headers import declares_size
from fasticcl.shards.manifest import Manifest, SplitInfo

INDEX = "index.npy"
QUARANTINE = "quarantine.jsonl"
_CHECKED_INDEX = 2**28  # bytes, for about 8 million images
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


class Shards:
    """A split that is open for reading, with memory-mapped index and images.

    Args:
        folder: DEST of a conversion.
        split: train, val or test.
        verify_reads: if True, every image that is read is compared with its checksum.

    Raises:
        UserError: the shards do not exist or have changed since the conversion.
    """

    image_format: Literal["encoded"] = "encoded"
    """Format of the images that `graph_input` returns."""
    cuda_stream: None = None
    """None, because encoded images are in host memory."""

    def __init__(self, folder: Path, split: str, verify_reads: bool = True) -> None:
        manifest = Manifest.read(folder)
        if manifest is None:
            raise UserError(
                f"There are no shards in {folder}. Create them with: "
                f"fasticcl convert folder SRC {shlex.quote(str(folder))} "
                "(`fasticcl datasets` lists the other layouts)"
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
                    f"{path} is missing or was changed since the conversion. Convert {folder} again."
                )
        self._files: dict[int, _MappedFile] = {}
        self._valid_headers = np.zeros(len(self.index), bool)
        _allow_open_files(len(info.shards))

    def __len__(self) -> int:
        return len(self.index)

    def read(self, rows: NDArray[np.integer]) -> list[NDArray[np.uint8]]:
        """Return the encoded bytes of images, whether or not they can be decoded.

        Use `graph_input` for images that DALI decodes.

        Args:
            rows: rows of the index.

        Returns:
            Arrays [size], each a view into its mapped shard.

        Raises:
            DamagedImages: images that are truncated or, if reads are verified, have another checksum than at
                conversion.
        """
        entries = self.index[rows]
        fields = [entries[name].tolist() for name in ("shard", "offset", "size", "crc32")]
        for shard, offset, size, _ in zip(*fields, strict=True):
            self._file(shard).fetch(offset, size)
        images, damaged = [], []
        for row, shard, offset, size, stored in zip(rows.tolist(), *fields, strict=True):
            image = self._file(shard).content[offset : offset + size]
            if len(image) != size or (self.verify_reads and crc32(image.data) != stored):
                damaged.append(row)
            images.append(image)
        if damaged:
            raise DamagedImages([self.name(row) for row in damaged], damaged, "damaged since the conversion")
        return images

    def graph_input(self, rows: NDArray[np.integer]) -> list[NDArray[np.uint8]]:
        """Return encoded images that are safe to feed to DALI's decoder.

        The bytes are those of `read`. In addition, the header of each image must be that of a JPEG or PNG
        with the size in the index, because DALI may crash on a damaged header.

        Returns:
            Arrays [size], each a view into its mapped shard.

        Raises:
            DamagedImages: images with another checksum or another header than at conversion.
        """
        images = self.read(rows)
        # With verified checksums, one check per image is enough: the same bytes have the same header.
        new = np.flatnonzero(~self._valid_headers[rows]).tolist()
        sides = self.index[rows[new]][["height", "width"]].tolist()
        wrong = [
            int(rows[position])
            for position, (height, width) in zip(new, sides, strict=True)
            if not declares_size(images[position], height, width)
        ]
        if wrong:
            raise DamagedImages([self.name(row) for row in wrong], wrong, "cannot be decoded")
        if self.verify_reads:
            self._valid_headers[rows] = True
        return images

    def name(self, row: int) -> str:
        """Return the location and the name of an image, as ``split/shard:offset key.jpg``."""
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
            raise UserError(f"{path} is missing or damaged. Convert the dataset again.")
        # Hashing a larger index takes seconds. `fasticcl verify` checks an index of any size.
        checked = path.stat().st_size <= _CHECKED_INDEX
        if len(index) != sum(info.class_counts) or (checked and file_sha256(path) != info.index_sha256):
            raise UserError(f"{path} does not match the manifest. Convert the dataset again.")
        return index


def open_index(path: Path) -> NDArray[np.void] | None:
    """Return the memory-mapped rows of an index, or None if it is missing or damaged."""
    try:
        index = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # NumPy evaluates the header as Python code, which can raise any exception
        return None
    return index if index.dtype == INDEX_DTYPE and index.ndim == 1 else None


class _MappedFile:
    """A memory-mapped file. A file that no longer exists has empty content."""

    def __init__(self, path: Path) -> None:
        self.content: NDArray[np.uint8] = np.empty(0, np.uint8)
        try:
            with open(path, "rb") as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, ValueError):  # deleted or truncated since the shards were opened
            return
        self.content = np.frombuffer(self._mapped, np.uint8)

    def fetch(self, offset: int, size: int) -> None:
        """Ask the kernel to read these bytes in advance, so the images of a batch are read in parallel."""
        start = offset - offset % mmap.PAGESIZE
        if start < len(self.content):
            self._mapped.madvise(mmap.MADV_WILLNEED, start, offset + size - start)


def _allow_open_files(count: int) -> None:
    """Raise the open-file limit of this process if there are many shards, because each stays mapped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and count > soft // 4:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class DamagedImages(Exception):
    """Images that have been damaged since the conversion.

    Args:
        names: names of the images in the shards.
        rows: their rows of the index.
        reason: the kind of damage.
    """

    def __init__(self, names: list[str], rows: list[int], reason: str) -> None:
        super().__init__(f"{', '.join(names)}: {reason}")
        self.rows, self.reason = rows, reason
