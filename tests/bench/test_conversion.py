"""Conversion throughput on the user's own images."""

import json

from fasticcl.bench.synthetic_images import generate_images, write_files


def test_conversion_of_a_folder_of_images_is_measured(fasticcl_command, tmp_path):
    write_files(generate_images(30, 5, 1, width=48, height=32), tmp_path / "images")
    options = ("--data", "images", "--repeats", "1", "--seconds", "0.01", "--json", "result.json")
    code, out, _ = fasticcl_command("bench", "convert", *options)
    assert code == 0
    assert "convert bytes kept" in out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["images"]["made"] is False
    assert set(result["measured"]) == {"convert bytes kept", "convert short side 256"}
