"""Suggestions for misspelled names."""

import pytest

from fasticcl.errors import nearest


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("dmeo", "Did you mean demo?"),
        ("inat", "Did you mean inat2018?"),
        ("xyz", "Known: demo, folder, inat2018."),
        ("", "Known: demo, folder, inat2018."),
    ],
)
def test_nearest_name_is_suggested_or_all_are_listed(word, suggestion):
    assert nearest(word, ["demo", "folder", "inat2018"]) == suggestion
