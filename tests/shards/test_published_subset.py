"""The note on subsets that differ from the published ones."""

import hashlib

import numpy as np
import pytest
from torchvision import datasets

from fasticcl.shards.manifest import Manifest, SplitInfo
from fasticcl.shards.published_subset import CIFAR, published_profile, subset_note

TOTALS = {
    ("cifar10-lt", 100): 12406,
    ("cifar10-lt", 50): 13996,
    ("cifar10-lt", 10): 20431,
    ("cifar100-lt", 100): 10847,
    ("cifar100-lt", 50): 12608,
    ("cifar100-lt", 10): 19573,
}
SAME_COUNTS = "The class counts are those of the published {}-LT, but the images are another choice."


def manifest(dataset, classes, counts, **settings):
    return Manifest(
        dataset=dataset,
        classes=[*classes],
        splits={"train": SplitInfo(class_counts=[*counts], shards=[], index_sha256="")},
        settings=settings,
        source_sha256="",
        reencoded={},
        quarantined=0,
        quarantine_sha256="",
    )


def published(layout, imbalance):
    """Return the counts of section 4.1: floor(n_max · r^(-k / (K - 1))), in the integers of LDAM-DRW."""
    largest, num_classes = (5000, 10) if layout == "cifar10-lt" else (500, 100)
    factor = {100: 0.01, 50: 0.02, 10: 0.1}[imbalance]
    return [int(largest * factor ** (k / (num_classes - 1.0))) for k in range(num_classes)]


@pytest.mark.parametrize(("layout", "imbalance"), TOTALS)
def test_class_counts_are_the_published_ones(layout, imbalance):
    counts = CIFAR[layout].long_tailed_counts(imbalance)
    assert counts.sum() == TOTALS[layout, imbalance]
    assert counts.tolist() == published(layout, imbalance)


@pytest.mark.parametrize(("layout", "imbalance"), TOTALS)
def test_a_folder_with_the_published_counts_is_recognised(layout, imbalance):
    shards = manifest("folder", CIFAR[layout].classes, published(layout, imbalance), long_tail=imbalance)
    assert published_profile(shards) == (layout, imbalance)
    assert subset_note(shards) == SAME_COUNTS.format(CIFAR[layout].name.replace("-", ""))


@pytest.mark.parametrize("change", ["classes", "order of the classes", "a count"])
def test_a_folder_with_other_classes_or_counts_is_not_recognised(change):
    classes, counts = [*CIFAR["cifar10-lt"].classes], published("cifar10-lt", 100)
    if change == "a count":
        counts[3] -= 1
    else:
        classes = ["plane", *classes[1:]] if change == "classes" else classes[::-1]
    shards = manifest("folder", classes, counts, long_tail=100.0)
    assert published_profile(shards) is None
    assert subset_note(shards) == (
        "The training images are a seeded random choice with an exponential profile of imbalance ratio 100."
    )


def test_only_the_published_subset_and_whole_datasets_have_no_note():
    cifar = CIFAR["cifar100-lt"]
    counts = published("cifar100-lt", 50)
    assert subset_note(manifest("cifar100-lt", cifar.classes, counts, imbalance=50)) == ""
    assert subset_note(manifest("folder", ["a", "b"], [3, 2])) == ""
    assert subset_note(manifest("inat2018", ["a", "b"], [3, 2])) == ""
    named = {"imbalance": 50, "subset": "file-names-seed0"}
    assert subset_note(manifest("cifar100-lt", cifar.classes, counts, **named)) == SAME_COUNTS.format(
        "CIFAR100"
    )
    limited = manifest("cifar100-lt", cifar.classes[:2], np.array([9, 8]).tolist(), **named)
    assert subset_note(limited) == "The images are another choice than those of the published CIFAR100-LT."


def python2_pickle(values):
    """Return the pickle (protocol 2) of a dictionary of numbers and lists of texts, as Python 2 writes it."""
    memo = iter(range(1, 1000))

    def memoized(code):
        number = next(memo)
        return code + b"q" + bytes([number])

    def text(value):
        return memoized(b"U" + bytes([len(value)]) + value.encode())

    content = b"\x80\x02" + memoized(b"}") + b"("
    for key, value in values.items():
        content += text(key)
        if isinstance(value, int):
            content += b"M" + value.to_bytes(2, "little")
        else:
            content += memoized(b"]") + b"(" + b"".join(map(text, value)) + b"e"
    return content + b"u."


COARSE = (
    "aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices "
    "household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes "
    "large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals "
    "trees vehicles_1 vehicles_2"
)


def test_the_classes_are_those_of_the_archive():
    """The file with the class names, written with these names, has the official MD5."""
    fine = CIFAR["cifar100-lt"].classes
    meta = {"fine_label_names": fine, "coarse_label_names": COARSE.split()}
    assert hashlib.md5(python2_pickle(meta)).hexdigest() == datasets.CIFAR100.meta["md5"]
    meta = {"num_cases_per_batch": 10_000, "label_names": CIFAR["cifar10-lt"].classes, "num_vis": 3072}
    assert hashlib.md5(python2_pickle(meta)).hexdigest() == datasets.CIFAR10.meta["md5"]
