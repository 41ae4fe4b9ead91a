"""The dataset layouts of `fasticcl convert`. A new layout needs a module in this folder and a line here."""

from pathlib import Path

from fasticcl.convert.layouts.layout import Layout
from fasticcl.convert.source import Source
from fasticcl.convert.subset import limit_images, make_long_tailed
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


def read_source(
    name: str, source: Path, *, long_tail: float | None, limit: int | None, **options: object
) -> Source:
    """Read the list of images of a dataset.

    Args:
        name: name of the layout.
        source: SRC.
        long_tail: imbalance ratio to which the training images are reduced, or None.
        limit: maximum number of images per split, or None.
        options: other options of the layout. Options that are None are ignored.

    Raises:
        UserError: the dataset or an option is invalid.
    """
    layout = find_layout(name)
    layout_options = {option: value for option, value in options.items() if value is not None}
    for option in [*layout_options, *(["long_tail"] if long_tail is not None else [])]:
        if option not in layout.options:
            users = " and ".join(user for user, other in LAYOUTS.items() if option in other.options)
            raise UserError(f"--{option.replace('_', '-')} applies only to {users}. Leave it out for {name}.")
    dataset = layout.read(source, **layout_options)
    if long_tail is not None:
        dataset = make_long_tailed(dataset, long_tail, layout.subset)
    return dataset if limit is None else limit_images(dataset, limit)


def find_layout(name: str) -> Layout:
    """Return the layout with this name.

    Raises:
        UserError: the layout does not exist.
    """
    if name not in LAYOUTS:
        raise UserError(f"There is no layout {name!r}. {nearest(name, LAYOUTS)}")
    return LAYOUTS[name]
