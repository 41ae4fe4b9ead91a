"""The end of a conversion: from the parts of all shards to indexes, list of failures and manifest."""

import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from fasticcl.convert.jobs import Work
from fasticcl.convert.shard_parts import Part
from fasticcl.errors import UserError
from fasticcl.files import file_sha256, replacing, write_file
from fasticcl.shards.manifest import SPLITS, Manifest, SplitInfo
from fasticcl.shards.reader import INDEX, INDEX_DTYPE, QUARANTINE


def finish(
    work: Work, parts: list[tuple[str, Part]], missing: list[dict[str, str]], max_corrupt: int
) -> Manifest:
    """Write the indexes and, last, the manifest.

    Raises:
        UserError: too many images are unreadable, or a class or a split has none left.
    """
    source, dest = work.source, work.dest
    quarantine = [entry for _, part in parts for entry in part.quarantine] + missing
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in quarantine]
    # A name that is no UTF-8 stays valid JSON: it is escaped as JSON escapes it.
    listed = "".join(lines).encode("utf-8", "backslashreplace")
    write_file(dest / QUARANTINE, listed)
    if len(quarantine) > max_corrupt:
        first = quarantine[0]
        images = "1 image" if len(quarantine) == 1 else f"{len(quarantine)} images"
        raise UserError(
            f"{images} cannot be read, the first is {first['image']} ({first['reason']}); "
            f"all are listed in {dest / QUARANTINE}: repair them, or leave them out with "
            f"--max-corrupt {len(quarantine)}."
        )
    # An archive that lacks images has fewer shards than were planned.
    made_from = map(work.fingerprint, work.jobs()) if source.archive else (p.fingerprint for _, p in parts)
    manifest = Manifest(
        dataset=source.dataset,
        classes=source.classes,
        splits={
            split: _finish_split(dest / split, source.classes, [part for of, part in parts if of == split])
            for split in source.splits
        },
        settings=work.settings,
        source_sha256=work.source_sha256(made_from),
        reencoded=dict(sum((Counter(part.reencoded) for _, part in parts), Counter())),
        quarantined=len(quarantine),
        quarantine_sha256=hashlib.sha256(listed).hexdigest(),
    )
    _remove_strays(dest, manifest)
    manifest.write(dest)
    return manifest


def _finish_split(folder: Path, classes: list[str], parts: list[Part]) -> SplitInfo:
    """Write the index of a split, one part after another: memory holds the order and not the rows."""
    labels, ordinals = np.empty(0, np.uint32), np.empty(0, np.uint64)
    for part in parts:
        rows = part.rows()
        labels = np.concatenate([labels, rows["row"]["label"]])
        ordinals = np.concatenate([ordinals, rows["ordinal"]])
    counts = np.bincount(labels, minlength=len(classes))
    _check_counts(folder, classes, counts)
    place = np.empty(len(labels), np.int64)
    place[np.lexsort((ordinals, labels))] = np.arange(len(labels))
    with replacing(folder / INDEX) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": INDEX_DTYPE.descr, "fortran_order": False, "shape": (len(labels),)}
        )
        start = file.tell()
        file.flush()
        # Writing to a mapped file on a full disk would end the process instead of raising an error.
        os.posix_fallocate(file.fileno(), start, max(1, len(labels)) * INDEX_DTYPE.itemsize)
        index = np.memmap(file, INDEX_DTYPE, "r+", start, (len(labels),))
        done = 0
        for part in parts:
            rows = part.rows()
            index[place[done : done + len(rows)]] = rows["row"]
            done += len(rows)
        index.flush()
    return SplitInfo(
        class_counts=counts.tolist(),
        shards=[part.info for part in parts if part.info],
        index_sha256=file_sha256(folder / INDEX),
    )


def _check_counts(folder: Path, classes: list[str], counts: np.ndarray) -> None:
    if not counts.sum():
        raise UserError(f"No image of {folder.name}/ can be read; repair some.")
    if folder.name == "train" and (empty := np.flatnonzero(counts == 0)).size:
        raise UserError(
            f"No training image of the class {classes[empty[0]]!r} can be read; "
            "repair some or remove the class."
        )


def _remove_strays(dest: Path, manifest: Manifest) -> None:
    """Remove what an earlier conversion with other settings or splits left unfinished."""
    for split in SPLITS:
        if split not in manifest.splits:
            shutil.rmtree(dest / split, ignore_errors=True)
    for split, info in manifest.splits.items():
        kept = {Path(shard.name).stem for shard in info.shards}
        for path in (dest / split).glob("shard-*"):
            if path.name.split(".")[0] not in kept or path.suffix == ".part":
                path.unlink()
