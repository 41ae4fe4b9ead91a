"""Facts about data from the manifest of its shards."""

import pytest

from fasticcl.reproduce.table.data_facts import DataFacts
from fasticcl.resolve import configure
from tests.support.reproduced_table import write_manifest


@pytest.fixture
def data(tmp_path):
    write_manifest(tmp_path / "shards", [101, 100, 20, 19], [5, 5, 0, 5])
    return configure("demo", data=tmp_path / "shards").data


def test_groups_contain_the_classes_with_evaluated_images(data):
    facts = DataFacts.read(data)
    assert facts.evaluated_classes == {"many": 1, "medium": 1, "few": 1}
    assert (facts.split, facts.train_images, facts.evaluated_images, facts.classes) == ("test", 240, 15, 4)


def test_damaged_or_missing_manifest_gives_none(data, tmp_path):
    (tmp_path / "shards" / "manifest.json").write_text("{")
    assert DataFacts.read(data) is None
    assert DataFacts.read(configure("demo", data=tmp_path).data) is None


@pytest.mark.parametrize(
    ("settings", "subset"),
    [({}, None), ({"subset": "seed 1"}, "seed 1"), ({"long_tail": 100.0}, "long tail")],
)
def test_subset_is_the_choice_of_images(tmp_path, settings, subset):
    write_manifest(tmp_path / "shards", [101, 19], [5, 5], **settings)
    assert DataFacts.read(configure("demo", data=tmp_path / "shards").data).subset == subset


@pytest.mark.parametrize(
    ("medium", "few", "tail"),
    [(40.0, 10.0, 32.5), (40.0, None, 40.0), (None, 10.0, 10.0), (None, None, None)],
)
def test_tail_weights_the_groups_by_their_classes(medium, few, tail):
    facts = DataFacts("test", 9, 9, 5, {"many": 1, "medium": 3, "few": 1}, "")
    assert facts.tail_accuracy(medium, few) == tail
