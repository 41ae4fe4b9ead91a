"""Options and sizes of shrinking. Pixels of shrunk images are compared in test_images.py."""

import pytest

from fasticcl.errors import UserError
from fasticcl.shards.shrink import Shrink


@pytest.mark.parametrize(
    ("side", "length", "height", "width", "size"),
    [
        ("short", 256, 375, 500, (256, 341)),
        ("short", 256, 500, 375, (341, 256)),
        ("short", 375, 375, 500, None),
        ("short", 374, 375, 500, (374, 499)),
        ("long", 256, 375, 500, (192, 256)),
        ("long", 500, 375, 500, None),
        ("long", 256, 300, 100, (256, 85)),
        ("long", 10, 1, 5000, (1, 10)),
        ("short", 256, 100, 5000, None),
    ],
)
def test_new_sizes_follow_one_side_and_never_enlarge(side, length, height, width, size):
    assert Shrink(side, length, 90).new_size(height, width) == size


@pytest.mark.parametrize(
    ("options", "shrink"),
    [
        ((None, None, None), None),
        ((256, None, None), Shrink("short", 256, 90)),
        ((None, 512, None), Shrink("long", 512, 90)),
        ((256, None, 75), Shrink("short", 256, 75)),
    ],
)
def test_options_give_the_shrink_settings(options, shrink):
    assert Shrink.from_options(*options) == shrink


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((256, 512, None), "--short-side and --max-side are mutually exclusive"),
        ((None, None, 90), "--quality requires --short-side or --max-side"),
    ],
)
def test_contradicting_options_are_rejected(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Shrink.from_options(*options)
