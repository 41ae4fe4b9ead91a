import pytest

from fasticcl.plural import counted


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 cores"),
        (1, "1 core"),
        (1.0, "1 core"),
        (1.5, "1.5 cores"),
        (2, "2 cores"),
        (1000, "1,000 cores"),
    ],
)
def test_only_one_is_singular(number, words):
    assert counted(number, "core") == words
