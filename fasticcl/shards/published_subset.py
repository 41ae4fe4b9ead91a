"""The long-tailed subsets of CIFAR that the paper uses, and how the images in shards differ from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasticcl.longtail import exponential_counts
from fasticcl.shards.manifest import Manifest

IMBALANCES = (100, 50, 10)
"""Imbalance ratios of the published subsets (section 4.1 of the paper)."""
FILE_NAMES_SEED0 = "file-names-seed0"
"""First images of each class, sorted by name and shuffled with one ``RandomState(0)`` for all classes."""
LIST_ORDER_SEED0 = "list-order-seed0"
"""The same in the order of a list instead of the file names. The published subset has that of the archive."""
_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class Cifar:
    """CIFAR-10 or CIFAR-100: classes, numbers of images and names of the image files."""

    name: str
    classes: Sequence[str]
    """Class names in the order of the official labels, which is alphabetical."""
    images: int
    """Training images of each class."""
    tests: int
    """Test images of each class."""
    names_sha256: str
    """SHA-256 of the sorted names ``split/class/file`` of all images, one on a line, as in the archive."""

    @property
    def title(self) -> str:
        """Name of the long-tailed dataset in the literature, for example CIFAR100-LT."""
        return f"{self.name.replace('-', '')}-LT"

    def long_tailed_counts(self, imbalance: int) -> NDArray[np.int64]:
        """Return the published number of training images of each class [K]."""
        return exponential_counts(self.images, len(self.classes), imbalance)


CIFAR: Mapping[str, Cifar] = {
    "cifar10-lt": Cifar(
        "CIFAR-10",
        _CIFAR10_CLASSES.split(),
        images=5000,
        tests=1000,
        names_sha256="2a086c8ca2682069523ebdcd6b0d76fd361096c536f07a7579c85976e6ec5570",
    ),
    "cifar100-lt": Cifar(
        "CIFAR-100",
        _CIFAR100_CLASSES.split(),
        images=500,
        tests=100,
        names_sha256="960fb2a72aafa8c1edd1fcdfdb9d2d5c6b621c2f9b94957db374ddfec0629974",
    ),
}
"""CIFAR-10 and CIFAR-100 by the name of the layout of their long-tailed subsets."""


def published_profile(manifest: Manifest) -> tuple[str, int] | None:
    """Return the layout and the imbalance ratio whose published class counts the shards have, or None."""
    counts = manifest.splits["train"].class_counts
    for layout, cifar in CIFAR.items():
        if manifest.classes == list(cifar.classes):
            for imbalance in IMBALANCES:
                if counts == cifar.long_tailed_counts(imbalance).tolist():
                    return layout, imbalance
    return None


def subset_note(manifest: Manifest) -> str:
    """Return a sentence on the choice of the training images, or an empty string.

    It is empty if the shards contain all images or the published subset.
    """
    cifar, ratio = CIFAR.get(manifest.dataset), manifest.settings.get("long_tail")
    if cifar and "subset" not in manifest.settings:
        return ""
    if profile := published_profile(manifest):
        return (
            f"The class counts are those of the published {CIFAR[profile[0]].title}, "
            "but the images are another choice."
        )
    if cifar:
        return f"The images are another choice than those of the published {cifar.title}."
    if ratio:
        return (
            "The training images are a seeded random choice with an exponential profile of imbalance ratio "
            f"{ratio:g}."
        )
    return ""
