"""Small replicas of official downloads: the same files, in the same layouts, with tiny images."""

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.files import write_files, write_tar
from tests.support.images import jpegs


def git_blob(content: bytes) -> str:
    """Return the hash that `git hash-object` prints."""
    return hashlib.sha1(f"blob {len(content)}".encode() + b"\x00" + content).hexdigest()


@dataclass(frozen=True)
class INat2018:
    """Annotations and images in the official format."""

    annotations: dict[str, dict]
    """Content of train2018.json and val2018.json."""
    images: dict[str, list[tuple[str, int]]]
    """Path and category of each image of each split, in the order of the annotations."""
    contents: dict[str, bytes]
    """Every image by path."""

    def write(self, root: Path) -> Path:
        """Write the unpacked files."""
        write_files(root, self.contents)
        return self.write_annotations(root)

    def write_annotations(self, root: Path) -> Path:
        return write_files(
            root,
            {
                f"{split}2018.json": json.dumps(content).encode()
                for split, content in self.annotations.items()
            },
        )

    def write_downloads(self, root: Path, images: str = "train_val2018.tar.gz") -> Path:
        """Write the archives of the official download."""
        for split, content in self.annotations.items():
            name = f"{split}2018.json"
            write_tar(root / f"{name}.tar.gz", [(name, json.dumps(content).encode())])
        write_tar(root / images, self.contents.items())
        return root

    def rows(self, split: str) -> list[tuple[int, bytes]]:
        """Return label and bytes of every image in the order of the index: by class, then as listed."""
        rank = {category: i for i, category in enumerate(sorted({c for _, c in self.images["train"]}))}
        listed = [(rank[category], self.contents[name]) for name, category in self.images[split]]
        return sorted(listed, key=lambda row: row[0])


def inat2018(counts: Mapping[int, int], val: int = 1, seed: int = 0) -> INat2018:
    """Return annotations whose images, annotations and categories have unrelated orders.

    Args:
        counts: training images of each category id.
        val: validation images of each category.
        seed: seed of the orders and the images.
    """
    rng = np.random.default_rng(seed)
    families = ["Aves", "Plantae", "Insecta"]
    categories = [
        {"id": number, "name": f"species {number:04d}", "supercategory": families[number % 3], "kingdom": "?"}
        for number in counts
    ]
    contents = iter(jpegs(sum(counts.values()) + val * len(counts), seed))
    annotations, images, files = {}, {}, {}
    next_id = 1
    for split in ("train", "val"):
        per_class = counts if split == "train" else dict.fromkeys(counts, val)
        members = rng.permutation(np.repeat(list(per_class), list(per_class.values()))).tolist()
        ids = range(next_id, next_id + len(members))
        next_id += len(members)
        images[split], listed, joined = [], [], []
        for image_id, category in zip(ids, members, strict=True):
            digest = hashlib.md5(b"%d" % image_id).hexdigest()
            name = f"train_val2018/{families[category % 3]}/{category}/{digest}.jpg"
            files[name] = next(contents)
            images[split].append((name, category))
            listed.append({"id": image_id, "file_name": name, "width": 24, "height": 24, "license": 3})
            joined.append({"id": image_id, "image_id": image_id, "category_id": category})
        annotations[split] = {
            "info": {"year": 2018, "version": "1"},
            "images": listed,
            "annotations": [joined[i] for i in rng.permutation(len(joined))],
            "categories": [categories[i] for i in rng.permutation(len(categories))],
            "licenses": [{"id": 3, "name": "CC BY-NC", "url": "?"}],
        }
    return INat2018(annotations, images, files)


def inat2018_profile() -> np.ndarray:
    """Return class counts with all published figures of iNaturalist 2018, in random order.

    The real counts are not available. Within many, medium and few, these counts fall smoothly.
    """
    many = np.round(101 + 899 * (1 - np.linspace(0, 1, 842)) ** 5.6)
    medium = np.round(np.geomspace(100, 20, 4076))
    few = np.round(np.linspace(19, 2, 3224))
    counts = np.concatenate([many, medium, few]).astype(int)
    lacking = 437_513 - counts.sum()
    counts[1:841] += lacking // 840
    counts[1 : 1 + lacking % 840] += 1
    return np.random.default_rng(0).permutation(counts)


def cifar(name: str, pixels: np.ndarray, labels: np.ndarray, tests: int) -> dict[str, bytes]:
    """Return the files of a CIFAR download by path. The last ``tests`` images are the test split.

    Args:
        name: CIFAR10 or CIFAR100.
        pixels: [N, 3072] in the order of the pickles.
        labels: [N] labels.
        tests: number of test images.
    """
    trains, classes = len(labels) - tests, range(labels.max() + 1)
    if name == "CIFAR10":
        folder, key = "cifar-10-batches-py", "labels"
        ends = np.linspace(0, trains, 6).astype(int)
        batches = {f"data_batch_{i + 1}": slice(ends[i], ends[i + 1]) for i in range(5)}
        batches["test_batch"] = slice(trains, None)
        meta = {"batches.meta": {"label_names": [f"thing {k}" for k in classes], "num_vis": 3072}}
    else:
        folder, key = "cifar-100-python", "fine_labels"
        batches = {"train": slice(trains), "test": slice(trains, None)}
        meta = {
            "meta": {
                "fine_label_names": [f"thing {k}" for k in classes],
                "coarse_label_names": [f"kind {k}" for k in range(20)],
            }
        }
    contents = {batch: {"data": pixels[rows], key: labels[rows].tolist()} for batch, rows in batches.items()}
    if name == "CIFAR100":
        for batch in contents.values():
            batch["coarse_labels"] = [label % 20 for label in batch["fine_labels"]]
    return {f"{folder}/{file}": _python2_pickle(batch) for file, batch in {**contents, **meta}.items()}


def _python2_pickle(content: object) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


class _Python2Pickler(pickle._Pickler):
    """A pickler that writes like Python 2 and NumPy 1, where every string is a byte string."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, text):
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, what, name=None):
        if getattr(what, "__name__", "") == "_reconstruct":
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            self.memoize(what)
        else:
            super().save_global(what, name)

    def reducer_override(self, what):
        if isinstance(what, np.dtype):
            return np.dtype, (what.str[1:], 0, 1), what.__reduce__()[2]
        return NotImplemented
