"""Subsets of a dataset: validation splits, long tails, limits, and their combination."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fasticcl
from fasticcl import UserError
from fasticcl.convert.source import ItemList, Source
from fasticcl.convert.subset import limit_images, make_long_tailed, split_validation
from tests.support.files import write_files
from tests.support.image_sources import stored_images
from tests.support.images import jpegs

class_sizes = st.lists(st.integers(1, 40), min_size=2, max_size=8).filter(lambda counts: max(counts) > 1)
fractions = st.floats(0.001, 0.999)
orders = st.randoms(use_true_random=False)


def item_list(labels):
    """Return images that are named after their class and their position."""
    return ItemList([f"{label}/{i}" for i, label in enumerate(labels)], labels, lambda _, name: name.encode())


def source(train, val):
    classes = [f"class {k}" for k in range(max(train, default=-1) + 1)]
    return Source("folder", classes, {"train": item_list(train), "val": item_list(val)})


def names(images):
    return [item.name for item in images]


def mixed(counts, order):
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    order.shuffle(labels)
    return labels


def shuffled_classes(labels):
    """Return the positions of each class: `numpy.random.seed(0)`, then one shuffle per class."""
    generator = np.random.RandomState(0)
    shuffled = []
    for k in range(max(labels) + 1):
        members = np.array([place for place, label in enumerate(labels) if label == k])
        generator.shuffle(members)
        shuffled.append(members.tolist())
    return shuffled


def profile(head, num_classes, ratio):
    """Return the n with n ≤ head · ratio^(-k/(K-1)) < n+1, computed in integers without rounding."""
    power = num_classes - 1
    counts = []
    for k in range(num_classes):
        count = 0
        while (count + 1) ** power * ratio**k <= head**power:
            count += 1
        counts.append(count)
    return counts


@given(class_sizes, fractions, orders)
def test_a_validation_split_partitions_the_images_and_keeps_their_order(counts, fraction, order):
    labels = mixed(counts, order)
    train, val = split_validation(item_list(labels), fraction)
    all_names = names(item_list(labels))
    for part in (train, val):
        places = [all_names.index(name) for name in names(part)]
        assert places == sorted(places)
        assert [item.label for item in part] == [labels[place] for place in places]
    assert sorted(names(train) + names(val)) == sorted(all_names)


@given(class_sizes, fractions, orders)
def test_validation_split_takes_the_fraction_of_each_class_but_not_all(counts, fraction, order):
    _, aside = split_validation(item_list(mixed(counts, order)), fraction)
    for k, count in enumerate(counts):
        val_count = int((aside.labels == k).sum())
        if count == 1:
            assert val_count == 0
        else:
            assert abs(val_count - min(max(count * fraction, 1), count - 1)) <= 0.5


@given(class_sizes, fractions, orders)
def test_validation_split_is_reproducible(counts, fraction, order):
    labels = mixed(counts, order)
    _, aside = split_validation(item_list(labels), fraction)
    expected = set()
    for members in shuffled_classes(labels):
        expected.update(members[: int((aside.labels == labels[members[0]]).sum())])
    assert names(aside) == [f"{labels[place]}/{place}" for place in sorted(expected)]


@settings(deadline=None)
@given(class_sizes, st.integers(1, 30), orders)
def test_long_tail_has_the_exact_profile_with_the_largest_possible_head(counts, ratio, order):
    labels = mixed(counts, order)
    fitting = [
        head
        for head in range(1, counts[0] + 1)
        if all(n <= count for n, count in zip(profile(head, len(counts), ratio), counts, strict=True))
    ]
    wanted = profile(fitting[-1], len(counts), ratio) if fitting else [0]
    if min(wanted) < 1:
        with pytest.raises(UserError, match=f"--long-tail {ratio}: .* Lower the imbalance ratio"):
            make_long_tailed(source(labels, [0]), ratio)
        return
    before = source(labels, [0, 1])
    cut = make_long_tailed(before, ratio)
    expected = [
        f"{k}/{place}" for k, members in enumerate(shuffled_classes(labels)) for place in members[: wanted[k]]
    ]
    assert names(cut.splits["train"]) == expected
    assert cut.splits["train"].labels.tolist() == [k for k, n in enumerate(wanted) for _ in range(n)]
    assert (cut.classes, names(cut.splits["val"])) == (before.classes, ["0/0", "1/1"])
    assert cut.settings["long_tail"] == ratio


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("ratio", [10, 50, 100, 12.5])
def test_balanced_classes_keep_all_images_of_the_first(num_classes, ratio):
    labels = np.repeat(np.arange(num_classes), 500)
    counts = np.bincount(make_long_tailed(source(labels, [0]), ratio).splits["train"].labels)
    assert counts[0] == 500
    assert counts[-1] == 500 / ratio
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize("ratio", [0.5, 0, -1, float("nan")])
def test_an_imbalance_below_one_gives_a_clear_error(ratio):
    with pytest.raises(UserError, match="--long-tail "):
        make_long_tailed(source([0] * 9 + [1] * 9, [0]), ratio)


def test_a_long_tail_of_one_class_gives_a_clear_error():
    with pytest.raises(UserError, match=r"--long-tail 10: .*at least two classes"):
        make_long_tailed(source([0] * 9, [0]), 10)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 70))
def test_a_limit_selects_images_evenly(labels, most):
    taken = [
        int(name.split("/")[1]) for name in names(limit_images(source(labels, labels), most).splits["train"])
    ]
    assert len(taken) == min(most, len(labels))
    assert taken[0] == 0
    gaps = [after - before for before, after in pairwise([*taken, len(labels)])]
    assert max(gaps) - min(gaps) <= 1


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
    st.integers(1, 70),
)
def test_limit_drops_classes_without_training_images_and_renumbers_others(train, val, most):
    assume(max(val) <= max(train))
    classes = [f"class {k}" for k in range(max(train) + 1)]
    kept = {train[i * len(train) // most] for i in range(most)} if most < len(train) else set(train)
    val_places = [i * len(val) // most for i in range(most)] if most < len(val) else range(len(val))
    val_kept = [place for place in val_places if val[place] in kept]
    if not val_kept:
        with pytest.raises(UserError, match=r"--limit leaves no image of val/ .*Increase the limit"):
            limit_images(source(train, val), most)
        return
    part = limit_images(source(train, val), most)
    assert part.classes == [name for k, name in enumerate(classes) if k in kept]
    assert set(part.splits["train"].labels) == set(range(len(part.classes)))
    for split in ("train", "val"):
        for item in part.splits[split]:
            assert part.classes[item.label] == f"class {item.name.split('/')[0]}"
    assert names(part.splits["val"]) == [f"{val[place]}/{place}" for place in val_kept]
    assert part.settings["limit"] == most


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(30, 99))
def test_a_limit_above_the_number_of_images_keeps_all(labels, most):
    part = limit_images(source(labels, labels), most)
    assert names(part.splits["val"]) == names(item_list(labels))


CLASSES = {"owl": 30, "bee": 24, "cat": 18, "fox": 3}
"""Number of images of each class. The first class by name is bee, so it is the head."""


@pytest.fixture
def folder(tmp_path):
    """A folder without splits, and the bytes of the images of each class, sorted by name."""
    images = iter(jpegs(sum(CLASSES.values())))
    contents = {name: [next(images) for _ in range(count)] for name, count in CLASSES.items()}
    for name, images in contents.items():
        write_files(tmp_path / "src" / name, {f"{i:03d}.jpg": image for i, image in enumerate(images)})
    return tmp_path / "src", contents


def test_validation_split_long_tail_and_limit_apply_in_this_order(folder, tmp_path):
    path, contents = folder
    manifest = fasticcl.convert(
        "folder", path, tmp_path / "shards", val_fraction=0.25, long_tail=5, limit=10, shard_size=4
    )
    everything = [(k, content) for k, name in enumerate(sorted(CLASSES)) for content in contents[name]]
    aside = set()
    for members, share in zip(shuffled_classes([k for k, _ in everything]), [6, 4, 1, 8], strict=True):
        aside.update(members[:share])
    left = [image for place, image in enumerate(everything) if place not in aside]
    val = [image for place, image in enumerate(everything) if place in aside]
    # With 18, 14, 2 and 22 images, 8 is the largest possible head, because 9 · 5^(-2/3) is 3.08.
    assert [profile(8, 4, 5), profile(9, 4, 5)] == [[8, 4, 2, 1], [9, 5, 3, 1]]
    tail = [
        left[place]
        for members, n in zip(shuffled_classes([k for k, _ in left]), [8, 4, 2, 1], strict=True)
        for place in members[:n]
    ]
    # A limit of 10 selects the positions 0, 1, 3, … 13 of 15, so no image of the last class, owl.
    train = [tail[place] for place in (0, 1, 3, 4, 6, 7, 9, 10, 12, 13)]
    val = [val[i * 19 // 10] for i in range(10)]
    assert manifest.classes == ["bee", "cat", "fox"]
    assert stored_images(tmp_path / "shards", "train") == sorted(train, key=lambda image: image[0])
    assert stored_images(tmp_path / "shards", "val") == [image for image in val if image[0] < 3]
    assert (manifest.settings["long_tail"], manifest.settings["limit"]) == (5, 10)


def test_a_list_gives_the_same_subsets_as_a_folder(folder, tmp_path):
    path, _ = folder
    lines = [f"{name}/{i:03d}.jpg,{name}" for name in sorted(CLASSES) for i in range(CLASSES[name])]
    (path / "images.csv").write_text("\n".join(["path,label", *lines]))
    options = {"val_fraction": 0.25, "long_tail": 5, "limit": 16}
    fasticcl.convert("folder", path, tmp_path / "from-folder", **options)
    fasticcl.convert("list", path / "images.csv", tmp_path / "from-list", **options)
    for split in ("train", "val"):
        assert stored_images(tmp_path / "from-list", split) == stored_images(tmp_path / "from-folder", split)


def test_shards_with_other_options_are_rejected(folder, tmp_path):
    path, _ = folder
    fasticcl.convert("folder", path, tmp_path / "shards", val_fraction=0.25, limit=16)
    others = {"--limit 16": {"val_fraction": 0.25}, "--val-fraction 0.25": {"val_fraction": 0.5, "limit": 16}}
    for difference, options in others.items():
        with pytest.raises(UserError, match=f"another conversion: it was made with {difference}\\."):
            fasticcl.convert("folder", path, tmp_path / "shards", **options)


def test_classes_with_one_image_each_have_no_validation_split(tmp_path):
    write_files(tmp_path / "src", {"a/1.jpg": jpegs(1)[0], "b/1.jpg": jpegs(1)[0]})
    with pytest.raises(UserError, match="--val-fraction"):
        fasticcl.convert("folder", tmp_path / "src", tmp_path / "shards", val_fraction=0.5)


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.1, float("nan")])
def test_an_invalid_fraction_gives_a_clear_error(folder, tmp_path, fraction):
    with pytest.raises(UserError, match="--val-fraction"):
        fasticcl.convert("folder", folder[0], tmp_path / "shards", val_fraction=fraction)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_gives_a_clear_error(folder, tmp_path, limit):
    with pytest.raises(UserError, match="--limit"):
        fasticcl.convert("folder", folder[0], tmp_path / "shards", val_fraction=0.5, limit=limit)
