"""Conversion straight from a tar, compressed or not, in one pass.

A compressed tar can be read only from its beginning. So the images are stored in the order in which they
come, and the index puts them into the order of the dataset. A conversion that goes on reads the archive
again, but decodes only what is missing.
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

from fasticcl.convert.jobs import Job, Work
from fasticcl.convert.shard_parts import Part, PartWriter, load_part, wait_for_part
from fasticcl.convert.source import Item
from fasticcl.convert.tar_stream import open_tar
from fasticcl.errors import UserError
from fasticcl.shards.images import SoundImage, UnreadableImage, prepared

_AHEAD = 4  # images a worker may have waiting


def convert_archive(work: Work, archive: Path) -> tuple[list[tuple[str, Part]], list[dict[str, str]]]:
    """Convert this process's share of the images in an archive.

    Returns:
        The parts of all shards, or, where another process finishes, none; and what the archive lacks.

    Raises:
        UserError: a damaged archive, or one without any of the images.
    """
    wanted = {
        item.name: (split, place)
        for split, items in work.source.splits.items()
        for place, item in enumerate(items)
    }
    shards = _OpenShards(work)
    waiting: deque[_Arrival] = deque()
    if len(wanted) < work.total:
        names = Counter(item.name for items in work.source.splits.values() for item in items)
        twice = names.most_common(1)[0][0]
        raise UserError(f"The dataset lists {twice} more than once; download the list again.")
    with ThreadPoolExecutor(work.workers) as pool:
        try:
            for name, content in _members(archive, wanted):
                split, place = wanted.pop(name)
                if (job := shards.next_job(split)) is None:
                    work.tell(1)
                    continue
                image = pool.submit(prepared, content(), work.shrink)
                waiting.append(_Arrival(job, place, work.source.splits[split][place], image))
                if len(waiting) > _AHEAD * work.workers:
                    shards.add(waiting.popleft())
            for arrival in waiting:
                shards.add(arrival)
            shards.close()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            shards.abandon()
            raise
    if len(wanted) == work.total:
        raise UserError(f"{archive} holds none of the images; there should be {next(iter(wanted))!r}.")
    missing = [{"image": name, "reason": f"not in {archive.name}"} for name in wanted]
    return ([] if work.rank else shards.parts()), missing


@dataclass(frozen=True)
class _Arrival:
    """An image that came out of the archive and is being decoded."""

    job: Job
    place: int
    item: Item
    image: Future[SoundImage | UnreadableImage]


class _OpenShards:
    """The shards of an archive: at most one of each split is being written."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._arrived: Counter[str] = Counter()
        self._done: dict[tuple[str, int], Part] = {}
        self._open: dict[str, PartWriter] = {}

    def next_job(self, split: str) -> Job | None:
        """Return which shard takes the next image of a split; None: one that is done or not ours."""
        number, place = divmod(self._arrived[split], self.work.shard_size)
        self._arrived[split] += 1
        job = Job(split, number, 0, ())
        if not self.work.is_mine(number):
            return None
        if place == 0:
            made_from = self.work.fingerprint(job)
            if part := load_part(self.work, job, made_from):
                self._done[split, number] = part
        return None if (split, number) in self._done else job

    def add(self, arrival: _Arrival) -> None:
        """Write an image into its shard; the one before it is complete when the first of the next comes."""
        job = arrival.job
        writer = self._open.get(job.split)
        if writer and writer.number != job.number:
            self._close(job.split)
            writer = None
        if writer is None:
            made_from = self.work.fingerprint(job)
            writer = self._open[job.split] = PartWriter(self.work.dest, job, made_from)
        writer.add(arrival.place, arrival.item, arrival.image.result())
        self.work.tell(1)

    def close(self) -> None:
        """Put the last shard of each split in place."""
        for split in list(self._open):
            self._close(split)

    def _close(self, split: str) -> None:
        writer = self._open.pop(split)
        self._done[split, writer.number] = writer.close()

    def abandon(self) -> None:
        """Remove what is not complete."""
        for writer in self._open.values():
            writer.abandon()

    def parts(self) -> list[tuple[str, Part]]:
        """Return the parts of all shards in order; those of other processes are waited for."""
        parts = []
        for split, images in sorted(self._arrived.items()):
            for number in range(-(-images // self.work.shard_size)):
                part = self._done.get((split, number))
                parts.append((split, part or wait_for_part(self.work, Job(split, number, 0, ()))))
        return parts


def _members(archive: Path, wanted: Container[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the wanted files of a tar, each with what reads it before the next one is asked for."""
    with _refusing_damage(archive), open_tar(archive) as tar:
        for member in tar:
            tar.members.clear()  # pyrefly: ignore[missing-attribute]  # else it remembers them all
            name = member.name.removeprefix("./")
            if member.isfile() and name in wanted:
                yield name, partial(_content, archive, tar, member)


@contextmanager
def _refusing_damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"Cannot read {archive}: {error.strerror}.") from None
        raise UserError(
            f"{archive} is damaged or cut short ({error}); download it again, as .tar or .tar.gz."
        ) from None


def _content(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _refusing_damage(archive):
        file = tar.extractfile(member)
        assert file is not None, "members are checked to be files"
        return file.read()
