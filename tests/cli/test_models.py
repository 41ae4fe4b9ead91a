"""Output, error messages and exit codes of ``fasticcl predict``."""

import csv
import io
import json
import os
import signal
import sys

import numpy as np
import pytest

import fasticcl
from fasticcl.predict import predictions
from tests.support.images import encode, noise
from tests.support.processes import Child, call_main


@pytest.fixture
def predict(run_cli, monkeypatch, tmp_path, digit_run):
    """A function that runs ``fasticcl predict`` in tmp_path and returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_cli("predict", digit_run, *arguments, "--device", "cpu")


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(noise(np.random.default_rng(number)), "PNG"))
    return folder


def test_standard_output_has_only_the_predictions_which_equal_those_of_python(predict, album, digit_run):
    code, out, err = predict(album, "--topk", 2, "--format", "jsonl")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    expected = [*fasticcl.predict(digit_run, album, topk=2, device="cpu")]
    assert [(row["image"], tuple(row["classes"])) for row in rows] == [
        (row.image, row.classes) for row in expected
    ]


def test_unreadable_images_are_counted_on_standard_error(predict, album):
    (album / "1.png").write_bytes(b"not an image")
    code, out, err = predict(album, "--topk", 1, "--format", "csv")
    assert (code, err) == (0, "1 of 3 images could not be read.\n")
    rows = [*csv.DictReader(io.StringIO(out))]
    assert [(row["image"][-5:], row["error"]) for row in rows] == [
        ("0.png", ""),
        ("1.png", "not an image"),
        ("2.png", ""),
    ]


def test_exit_code_is_1_if_all_images_are_unreadable(predict, album):
    for path in album.iterdir():
        path.write_bytes(b"")
    code, out, err = predict(album)
    assert (code, err) == (1, "3 of 3 images could not be read.\n")
    assert out.count("error: empty file") == 3


def test_interruption_leaves_the_previous_output_file_unchanged(predict, album, monkeypatch, tmp_path):
    code, out, _ = predict(album, "--format", "csv", "--output", "rows.csv")
    assert (code, out) == (0, "")
    complete = (tmp_path / "rows.csv").read_text()
    assert complete == predict(album, "--format", "csv")[1]
    monkeypatch.setattr(predictions, "_float32_digits", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    assert predict(album, "--format", "csv", "--output", "rows.csv")[0] == 130
    assert (tmp_path / "rows.csv").read_text() == complete
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "rows.csv"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["gone.jpg"],
            "error: gone.jpg does not exist. Specify existing files, folders",
        ),
        (["."], "error: . contains no images. Specify a folder that contains some.\n"),
        (["album", "--output", "no/rows.csv"], "error: Cannot write no/rows.csv: No such file or directory"),
        (["album", "--topk", "0"], "'--topk'"),
        (["album", "--format", "xml"], "'--format'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gives_one_sentence_and_exit_code_2(predict, request, arguments, sentence):
    if "album" in arguments:
        request.getfixturevalue("album")
    code, out, err = predict(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err


def write_to(pipe, *words):
    sys.stdout = open(pipe, "w")  # noqa: SIM115
    os.dup2(sys.stdout.fileno(), 1)
    call_main(*words)


def test_closed_pipe_ends_the_command_silently(album, digit_run, tmp_path):
    (album / "many").mkdir()
    for number in range(300):
        (album / "many" / f"{number}.png").symlink_to(album / "0.png")
    words = ["predict", digit_run, album, "--format", "csv", "--device", "cpu", "--batch-size", 8]
    output = tmp_path / "output"
    os.mkfifo(output)
    child = Child(tmp_path / "log", write_to, output, *words)
    with open(output) as lines:
        assert lines.readline() == "image,rank,class,probability,error\n"
        assert lines.readline().startswith(f"{album}/0.png,1,")
    assert child.exit_code() == -signal.SIGPIPE
    assert child.printed() == ""
