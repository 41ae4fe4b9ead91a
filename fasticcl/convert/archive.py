"""Conversion directly from a tar, compressed or not, in one pass.

A compressed tar can be read only from its beginning. Images are therefore stored in the order of the archive,
and only the index has the order of the dataset. A conversion that is continued reads the archive again, but
decodes only the images of missing shards.
"""

import tarfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fasticcl.convert.jobs import Conversion, ShardJob
from fasticcl.convert.shard_parts import ShardPart, ShardPartWriter, load_part, wait_for_part
from fasticcl.convert.source import Item
from fasticcl.convert.tar_stream import open_tar
from fasticcl.errors import UserError
from fasticcl.shards.images import PreparedImage, UnreadableImage, try_prepare

_MAX_PENDING = 4  # images per worker


def convert_archive(
    conversion: Conversion, archive: Path
) -> tuple[list[tuple[str, ShardPart]], list[dict[str, str]]]:
    """Convert the shards of an archive that are assigned to this process.

    Returns:
        The split and part of every shard on rank 0 (an empty list on other ranks), and the quarantine
        entries of images that the archive does not contain.

    Raises:
        UserError: the archive is damaged or contains none of the images.
    """
    source = conversion.source
    missing = {
        item.name: (split, ordinal)
        for split, items in source.splits.items()
        for ordinal, item in enumerate(items)
    }
    shards = _OpenShards(conversion)
    pending: deque[_PendingImage] = deque()
    if len(missing) < conversion.total:
        names = Counter(item.name for items in source.splits.values() for item in items)
        repeated = names.most_common(1)[0][0]
        raise UserError(f"The dataset lists {repeated} more than once. Download the list again.")
    with ThreadPoolExecutor(conversion.workers) as pool:
        try:
            for name, read in _members(archive, missing):
                split, ordinal = missing.pop(name)
                if (job := shards.next_job(split)) is None:
                    conversion.report_progress(1)
                    continue
                image = pool.submit(try_prepare, read(), conversion.shrink)
                pending.append(_PendingImage(job, ordinal, source.splits[split][ordinal], image))
                if len(pending) > _MAX_PENDING * conversion.workers:
                    shards.add(pending.popleft())
            for image in pending:
                shards.add(image)
            shards.close()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            shards.abandon()
            raise
    if len(missing) == conversion.total:
        raise UserError(
            f"{archive} contains none of the listed images, such as {next(iter(missing))!r}. "
            "Download the archive again."
        )
    failures = [{"image": name, "reason": f"not in {archive.name}"} for name in missing]
    return ([] if conversion.rank else shards.parts()), failures


@dataclass(frozen=True)
class _PendingImage:
    """An image from the archive that is being decoded."""

    job: ShardJob
    ordinal: int
    item: Item
    image: Future[PreparedImage | UnreadableImage]


class _OpenShards:
    """Shards of an archive, of which at most one per split is open for writing."""

    def __init__(self, conversion: Conversion) -> None:
        self.conversion = conversion
        self._images: Counter[str] = Counter()
        self._finished: dict[tuple[str, int], ShardPart] = {}
        self._writers: dict[str, ShardPartWriter] = {}

    def next_job(self, split: str) -> ShardJob | None:
        """Return the shard of the next image of a split, or None if it is finished or not assigned here."""
        number, position = divmod(self._images[split], self.conversion.shard_size)
        self._images[split] += 1
        job = ShardJob(split, number, 0, ())
        if not self.conversion.is_assigned(number):
            return None
        if position == 0 and (part := load_part(self.conversion, job, self.conversion.fingerprint(job))):
            self._finished[split, number] = part
        return None if (split, number) in self._finished else job

    def add(self, pending: _PendingImage) -> None:
        """Write an image into its shard. The first image of a shard closes the previous shard."""
        job = pending.job
        writer = self._writers.get(job.split)
        if writer and writer.number != job.number:
            self._close(job.split)
            writer = None
        if writer is None:
            fingerprint = self.conversion.fingerprint(job)
            writer = ShardPartWriter(self.conversion.dest, job, fingerprint)
            self._writers[job.split] = writer
        writer.add(pending.ordinal, pending.item, pending.image.result())
        self.conversion.report_progress(1)

    def close(self) -> None:
        """Move the last shard of each split into place."""
        for split in list(self._writers):
            self._close(split)

    def _close(self, split: str) -> None:
        writer = self._writers.pop(split)
        self._finished[split, writer.number] = writer.close()

    def abandon(self) -> None:
        """Remove the unfinished shards."""
        for writer in self._writers.values():
            writer.abandon()

    def parts(self) -> list[tuple[str, ShardPart]]:
        """Return the parts of all shards in order, waiting for those of other processes."""
        parts = []
        for split, images in sorted(self._images.items()):
            for number in range(-(-images // self.conversion.shard_size)):
                part = self._finished.get((split, number))
                parts.append((split, part or wait_for_part(self.conversion, ShardJob(split, number, 0, ()))))
        return parts


def _members(archive: Path, names: Container[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the members of a tar with these names, each with a function to read it before the next one."""
    with _damage_as_user_error(archive), open_tar(archive) as tar:
        for member in tar:
            tar.members.clear()  # pyrefly: ignore[missing-attribute]  # tarfile would keep all members
            name = member.name.removeprefix("./")
            if member.isfile() and name in names:
                yield name, partial(_content, archive, tar, member)


@contextmanager
def _damage_as_user_error(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"Cannot read {archive}: {error.strerror}.") from None
        raise UserError(
            f"{archive} is damaged or truncated ({error}). Download it again, as .tar or .tar.gz."
        ) from None


def _content(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _damage_as_user_error(archive):
        file = tar.extractfile(member)
        assert file is not None, "members are checked to be files"
        return file.read()
