"""Conversion: a source's images, each checked by decoding it once, into shards.

Each shard is a unit of work that is either whole or absent, so a conversion that was stopped goes on
with the shards that are missing when the same command is given again.
"""

import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasticcl.data.images import JPEG_QUALITY, UnreadableImage, check_image
from fasticcl.data.shards import (
    FORMAT,
    INDEX_DTYPE,
    Manifest,
    ShardInfo,
    ShardWriter,
    SplitInfo,
    member_key,
    shard_name,
)
from fasticcl.data.sources import Item, Source
from fasticcl.errors import UserError
from fasticcl.files import write_file

_PARTS = ".parts"

Progress = Callable[[int, int], None]
"""Called with how many images were just done, and how many there are in all."""


@dataclass(frozen=True)
class _Job:
    """The images of one shard."""

    split: str
    number: int
    first: int
    """Place of the first image in its split."""
    items: Sequence[Item]


@dataclass
class _Part:
    """What one finished shard contributes; kept on disk until the whole conversion is done."""

    info: ShardInfo
    rows: NDArray[np.void]
    reencoded: dict[str, int] = field(default_factory=dict)
    quarantine: list[dict[str, str]] = field(default_factory=list)


def convert(
    source: Source,
    dest: Path,
    *,
    shard_size: int = 2000,
    workers: int | None = None,
    max_corrupt: int = 0,
    report: Progress | None = None,
) -> Manifest:
    """Write the shards of a source; the same source gives the same bytes, whatever the number of workers.

    Args:
        source: what to convert.
        dest: folder of the shards; created if need be.
        shard_size: images per shard.
        workers: threads; None: one per core.
        max_corrupt: unreadable images that are accepted; all are listed in ``dest/quarantine.jsonl``.
        report: told of progress.

    Raises:
        UserError: ``dest`` holds something else, too many images are unreadable, or the disk is full.
    """
    settings: dict[str, int | str | None] = {"shard_size": shard_size, "jpeg_quality": JPEG_QUALITY}
    digest = hashlib.sha256(json.dumps([FORMAT, source.dataset, source.classes, settings]).encode())
    jobs = [
        _Job(split, number, first, items[first : first + shard_size])
        for split, items in source.splits.items()
        for number, first in enumerate(range(0, len(items), shard_size))
    ]
    total = sum(len(job.items) for job in jobs)

    def tell(images: int) -> None:
        if report:
            report(images, total)

    stamps = [_stamp(digest.hexdigest(), job) for job in jobs]
    for stamp in stamps:
        digest.update(stamp.encode())
    if existing := _finished(dest, digest.hexdigest()):
        return existing
    try:
        for split in source.splits:
            (dest / _PARTS / split).mkdir(parents=True, exist_ok=True)
            (dest / split).mkdir(exist_ok=True)
        with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
            work = [
                pool.submit(_convert_shard, dest, job, stamp, tell)
                for job, stamp in zip(jobs, stamps, strict=True)
            ]
            try:
                parts = [(job.split, done.result()) for job, done in zip(jobs, work, strict=True)]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return _finish(source, dest, parts, settings, digest.hexdigest(), max_corrupt)
    except OSError as error:
        raise UserError(
            f"Cannot write {error.filename or dest}: {error.strerror}; make room or choose another folder, "
            "then give the same command to continue."
        ) from None


def _stamp(salt: str, job: _Job) -> str:
    """Return a digest of a shard's inputs, so that a changed image redoes its shard and no other."""
    return hashlib.sha256(
        "\n".join([salt, job.split, *(item.stamp() for item in job.items)]).encode()
    ).hexdigest()


def _finished(dest: Path, source_sha256: str) -> Manifest | None:
    existing = Manifest.read(dest)
    if existing and existing.source_sha256 != source_sha256:
        raise UserError(
            f"{dest} already holds shards of another source or with other settings; "
            "choose another folder or delete this one."
        )
    if existing is None and dest.is_dir() and not (dest / _PARTS).exists() and any(dest.iterdir()):
        raise UserError(f"{dest} holds other files; choose an empty folder or a new one for the shards.")
    return existing


def _convert_shard(dest: Path, job: _Job, stamp: str, report: Callable[[int], None]) -> _Part:
    saved = dest / _PARTS / job.split / f"{shard_name(job.number)}.json"
    if part := _load_part(saved, dest / job.split, stamp):
        report(len(job.items))
        return part
    reencoded: Counter[str] = Counter()
    quarantine = []
    writer = ShardWriter(dest / job.split, job.number)
    try:
        for place, item in enumerate(job.items, start=job.first):
            try:
                image = check_image(_read(item))
            except UnreadableImage as error:
                quarantine.append({"image": item.name, "reason": str(error)})
            else:
                key = member_key(place, item.name)
                writer.add(key, image.suffix, image.content, item.label, image.height, image.width)
                reencoded.update([image.reencoded] if image.reencoded else [])
            report(1)
        info, rows = writer.close()
    except BaseException:
        writer.abandon()
        raise
    part = _Part(info, rows, dict(reencoded), quarantine)
    _save_part(saved, stamp, part)
    return part


def _read(item: Item) -> bytes:
    try:
        return item.read()
    except OSError as error:
        raise UnreadableImage(str(error.strerror)) from None


def _save_part(path: Path, stamp: str, part: _Part) -> None:
    buffer = io.BytesIO()
    np.save(buffer, part.rows)
    write_file(path.with_suffix(".npy"), buffer.getvalue())
    record = {
        "stamp": stamp,
        "info": part.info.model_dump(),
        "reencoded": part.reencoded,
        "quarantine": part.quarantine,
    }
    write_file(path, json.dumps(record).encode())


def _load_part(path: Path, folder: Path, stamp: str) -> _Part | None:
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["stamp"] != stamp:
        return None
    info = ShardInfo(**record["info"])
    shard = folder / info.name
    if not shard.exists() or shard.stat().st_size != info.bytes:
        return None
    rows = np.load(path.with_suffix(".npy"), allow_pickle=False)
    return _Part(info, rows, record["reencoded"], record["quarantine"])


def _finish(
    source: Source,
    dest: Path,
    parts: list[tuple[str, _Part]],
    settings: dict[str, int | str | None],
    source_sha256: str,
    max_corrupt: int,
) -> Manifest:
    """Write the indexes and, last, the manifest; then the parts are no longer needed."""
    quarantine = [entry for _, part in parts for entry in part.quarantine]
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in quarantine]
    write_file(dest / "quarantine.jsonl", "".join(lines).encode())
    if len(quarantine) > max_corrupt:
        raise UserError(
            f"{len(quarantine)} images cannot be read, the first is {quarantine[0]['image']} "
            f"({quarantine[0]['reason']}); "
            f"all are listed in {dest / 'quarantine.jsonl'}: repair them, or leave them out with "
            f"--max-corrupt {len(quarantine)}."
        )
    splits = {
        split: _finish_split(dest / split, source, [part for of, part in parts if of == split])
        for split in source.splits
    }
    manifest = Manifest(
        dataset=source.dataset,
        classes=source.classes,
        splits=splits,
        settings=settings,
        source_sha256=source_sha256,
        reencoded=dict(sum((Counter(part.reencoded) for _, part in parts), Counter())),
        quarantined=len(quarantine),
    )
    _remove_strays(dest, manifest)
    manifest.write(dest)
    shutil.rmtree(dest / _PARTS)
    return manifest


def _remove_strays(dest: Path, manifest: Manifest) -> None:
    """Remove shards that an earlier conversion with other settings left unfinished."""
    for split, info in manifest.splits.items():
        kept = {Path(shard.name).stem for shard in info.shards}
        for path in (dest / split).glob("shard-*"):
            if path.stem not in kept:
                path.unlink()


def _finish_split(folder: Path, source: Source, parts: list[_Part]) -> SplitInfo:
    rows = np.concatenate([np.empty(0, INDEX_DTYPE), *(part.rows for part in parts)])
    rows = rows[np.argsort(rows["label"], kind="stable")]
    counts = np.bincount(rows["label"], minlength=len(source.classes))
    if not len(rows):
        raise UserError(f"No image of {folder.name}/ can be read; repair some.")
    if folder.name == "train" and (empty := np.flatnonzero(counts == 0)).size:
        raise UserError(
            f"No training image of the class {source.classes[empty[0]]!r} can be read; "
            "repair some or remove the class."
        )
    buffer = io.BytesIO()
    np.save(buffer, rows)
    write_file(folder / "index.npy", buffer.getvalue())
    return SplitInfo(
        class_counts=counts.tolist(),
        shards=[part.info for part in parts],
        index_sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
    )
