"""The files of a result."""

import pytest

from fasticcl.errors import UserError
from fasticcl.reproduce.files import write_result
from tests.support.reproduced_table import small_result


def test_page_is_first_and_nothing_else_is_left(tmp_path):
    written = write_result(small_result(tmp_path), tmp_path / "out")
    assert [path.name for path in written] == ["table9.html", "table9.md", "table9.tex", "table9.json"]
    assert {*(tmp_path / "out").iterdir()} == {*written}


def test_equal_results_give_equal_files(tmp_path):
    result = small_result(tmp_path)
    first = [path.read_bytes() for path in write_result(result, tmp_path)]
    assert [path.read_bytes() for path in write_result(result, tmp_path)] == first


def test_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write the result into .*file"):
        write_result(small_result(tmp_path), tmp_path / "file")
