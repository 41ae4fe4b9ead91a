"""Long-tailed profiles and class groups against the numbers of the papers."""

import numpy as np
import pytest

from fasticcl.longtail import class_groups, exponential_counts


@pytest.mark.parametrize(
    ("num_classes", "largest", "imbalance", "total"),
    [
        (10, 5000, 100, 12406),
        (10, 5000, 50, 13996),
        (10, 5000, 10, 20431),
        (100, 500, 100, 10847),
        (100, 500, 50, 12608),
        (100, 500, 10, 19573),
    ],
)
def test_profile_has_the_published_totals_of_cifar_lt(num_classes, largest, imbalance, total):
    counts = exponential_counts(largest, num_classes, imbalance)
    assert counts.sum() == total
    assert counts[0] == largest
    assert counts[-1] == largest // imbalance
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize(("largest", "num_classes", "imbalance"), [(10, 1, 2), (10, 5, 0.5), (10, 5, 100)])
def test_impossible_profiles_are_refused(largest, num_classes, imbalance):
    with pytest.raises(ValueError, match=r"empty|least"):
        exponential_counts(largest, num_classes, imbalance)


def test_class_groups_have_the_boundaries_of_the_paper():
    groups = class_groups(np.array([101, 100, 20, 19]))
    assert groups["many"].tolist() == [True, False, False, False]
    assert groups["medium"].tolist() == [False, True, True, False]
    assert groups["few"].tolist() == [False, False, False, True]


@pytest.mark.parametrize(("imbalance", "sizes"), [(100, (35, 35, 30)), (50, (41, 41, 18)), (10, (69, 31, 0))])
def test_class_groups_of_cifar100_lt(imbalance, sizes):
    groups = class_groups(exponential_counts(500, 100, imbalance))
    assert tuple(int(members.sum()) for members in groups.values()) == sizes
