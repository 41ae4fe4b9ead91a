"""Sizes of a batch as text and as JSON."""

import pytest

from fasticcl.bench.sizes import Sizes


@pytest.mark.parametrize(
    ("sizes", "text", "fields"),
    [
        (
            Sizes(256, pairs=True, image_size=224, encoder="resnet50"),
            "224 px, 256 pairs, resnet50",
            {"batch_size": 256, "pairs": True, "image_size": 224, "encoder": "resnet50"},
        ),
        (
            Sizes(1, pairs=True, image_size=32),
            "32 px, 1 pair",
            {"batch_size": 1, "pairs": True, "image_size": 32},
        ),
        (Sizes(1024), "1,024 images", {"batch_size": 1024, "pairs": False}),
    ],
    ids=str,
)
def test_only_sizes_that_apply_are_given(sizes, text, fields):
    assert sizes.describe() == text
    assert sizes.to_dict() == fields
