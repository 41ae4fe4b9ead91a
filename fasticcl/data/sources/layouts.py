"""The layouts that `fasticcl convert` knows. A new one is a file beside this one and an entry here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

from fasticcl.data.selection import limited, with_long_tail
from fasticcl.data.sources import Source, cifar_lt, folder, imagenet_lt, inat2018, table
from fasticcl.errors import UserError, nearest

_OWN = frozenset({"val_fraction", "long_tail"})


@dataclass(frozen=True)
class Layout:
    """How one kind of dataset lies on the disk, and where a person gets it."""

    read: Callable[..., Source]
    """Called with SRC and those of ``options`` that were given, by name."""
    what: str
    where: str
    licence: str
    command: str
    """The exact next command."""
    options: frozenset[str] = field(default=frozenset())


_CIFAR = {
    "licence": "none stated; the authors ask to cite Krizhevsky's technical report (2009)",
    "options": frozenset({"imbalance", "download"}),
}

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "inat2018": Layout(
            inat2018.read,
            "8,142 species, 437,513 training and 24,426 validation images, 120 GB",
            "train_val2018.tar.gz, train2018.json.tar.gz, val2018.json.tar.gz and, for real names, "
            "categories.json: github.com/visipedia/inat_comp, folder 2018",
            "non-commercial research and education; each photograph has its own licence",
            "fasticcl convert inat2018 DOWNLOADS data/inat2018",
        ),
        "imagenet-lt": Layout(
            imagenet_lt.read,
            "1,000 classes, 115,846 training, 20,000 validation and 50,000 test images of ILSVRC-2012",
            "ILSVRC2012 train and val: image-net.org (an account is needed); the lists "
            "ImageNet_LT_{train,val,test}.txt: github.com/zhmiao/OpenLongTailRecognition-OLTR",
            "ImageNet's terms of access: non-commercial research and education",
            "fasticcl convert imagenet-lt ILSVRC2012 data/imagenet-lt --lists LISTS",
            frozenset({"lists"}),
        ),
        "cifar100-lt": Layout(
            partial(cifar_lt.read, name="cifar100-lt"),
            "100 classes, 10,847, 12,608 or 19,573 training images at ratio 100, 50 or 10; 10,000 to test",
            "cifar-100-python.tar.gz: www.cs.toronto.edu/~kriz/cifar.html, or --download",
            command="fasticcl convert cifar100-lt DOWNLOADS data/cifar100-lt --imbalance 100 --download",
            **_CIFAR,
        ),
        "cifar10-lt": Layout(
            partial(cifar_lt.read, name="cifar10-lt"),
            "10 classes, 12,406, 13,996 or 20,431 training images at ratio 100, 50 or 10; 10,000 to test",
            "cifar-10-python.tar.gz: www.cs.toronto.edu/~kriz/cifar.html, or --download",
            command="fasticcl convert cifar10-lt DOWNLOADS data/cifar10-lt --imbalance 100 --download",
            **_CIFAR,
        ),
        "folder": Layout(
            folder.read,
            "your images: train/CLASS/x.jpg and val/CLASS/x.jpg (or test/); CLASS/x.jpg with --val-fraction",
            "",
            "yours",
            "fasticcl convert folder IMAGES data/folder",
            _OWN,
        ),
        "list": Layout(
            table.read,
            "your images: a CSV file with the columns path, label and split",
            "",
            "yours",
            "fasticcl convert list IMAGES.csv data/folder",
            _OWN,
        ),
    }
)


def read(name: str, source: Path, *, long_tail: float | None, limit: int | None, **options: object) -> Source:
    """Read a dataset in a layout.

    Args:
        name: the layout.
        source: SRC.
        long_tail: imbalance ratio to which the training images are cut.
        limit: most images a split.
        options: those of the layout; None: not given.

    Raises:
        UserError: bad input, in one sentence.
    """
    layout = find(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option in [*given, *(["long_tail"] if long_tail is not None else [])]:
        if option not in layout.options:
            users = " and ".join(each for each, other in LAYOUTS.items() if option in other.options)
            raise UserError(f"--{option.replace('_', '-')} is for {users}; leave it out for {name}.")
    found = layout.read(source, **given)
    if long_tail is not None:
        found = with_long_tail(found, long_tail)
    return found if limit is None else limited(found, limit)


def find(name: str) -> Layout:
    """Return a layout.

    Raises:
        UserError: there is none of this name.
    """
    if name not in LAYOUTS:
        raise UserError(f"There is no layout {name!r}. {nearest(name, LAYOUTS)}")
    return LAYOUTS[name]
