"""The layouts that `fasticcl convert` knows. A new one is a file beside this one and a line here."""

from pathlib import Path

from fasticcl.convert.layouts.layout import Layout
from fasticcl.convert.source import Source
from fasticcl.convert.subset import limited, with_long_tail
from fasticcl.errors import UserError, nearest
from fasticcl.registry import Registry

LAYOUTS: Registry[Layout] = Registry(
    "fasticcl.convert.layouts",
    {
        "inat2018": "inat2018.LAYOUT",
        "imagenet-lt": "imagenet_lt.LAYOUT",
        "cifar100-lt": "cifar_lt.CIFAR100_LT",
        "cifar10-lt": "cifar_lt.CIFAR10_LT",
        "folder": "folder.LAYOUT",
        "list": "csv_list.LAYOUT",
    },
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
