"""Per-class results of a run and the images that it confuses."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import fasticcl
from fasticcl.engine.run.checkpoint import load_checkpoint
from fasticcl.errors import UserError
from fasticcl.report import class_analysis, report
from fasticcl.shards.reader import Shards
from tests.support.report_files import read_json, read_page


def test_per_class_counts_add_up_to_the_accuracies_of_the_run(analysis, results):
    first = [row for row in results if row["stage"] == "representation"]
    second = [row for row in results if row["stage"] == "rebalancing"]
    best = max(second, key=lambda row: float(row["val/top1"]))
    seen, train = np.array(analysis.seen), np.array(analysis.train_counts)
    for name, row in {"before": first[-1], "after": second[-1], "best": best}.items():
        right = np.array(analysis.right[name])
        assert 100 * right.sum() / seen.sum() == pytest.approx(float(row["val/top1"]))
        assert 100 * (right / seen)[train < 20].mean() == pytest.approx(float(row["val/few"]))


def test_norms_are_those_of_the_weights_and_centroids(finished_run, analysis):
    after = load_file(finished_run / "model.safetensors")["classifier.weight"].double()
    before = load_checkpoint(finished_run / "last.pt")["teacher"]["classifier.weight"].double()
    assert analysis.weight_norms["after"] == pytest.approx(after.square().sum(1).sqrt().tolist())
    assert analysis.weight_norms["before"] == pytest.approx(before.square().sum(1).sqrt().tolist())
    centroids = np.load(finished_run / "centroids.npy").astype(float)
    assert analysis.centroid_norms == pytest.approx(np.sqrt((centroids**2).sum(1)).tolist())
    assert np.any(centroids)


def test_confusions_are_those_of_the_classes_with_the_highest_error_rates(analysis):
    wrong = np.array(analysis.seen) - analysis.right["after"]
    rates = wrong / np.array(analysis.seen)
    assert analysis.confusions, "such a short run makes errors"
    labels = [confusion.label for confusion in analysis.confusions]
    assert sorted(rates[labels], reverse=True) == rates[labels].tolist()
    assert min(rates[labels]) >= max(np.delete(rates, labels), default=0)
    for confusion in analysis.confusions:
        assert sum(count for _, count in confusion.mistaken) <= wrong[confusion.label]
        assert len(confusion.pictures) == min(4, wrong[confusion.label])
        assert all(image.predicted != confusion.label for image in confusion.pictures)


def test_thumbnails_of_small_images_are_the_evaluated_images(analysis, tiny_shards):
    shards = Shards(tiny_shards, "test")
    evaluated = set()
    for row in range(len(shards)):
        (content,) = shards.read(np.array([row]))
        with Image.open(io.BytesIO(content.tobytes())) as image:
            evaluated.add(image.convert("RGB").tobytes())
    for confusion in analysis.confusions:
        for example in confusion.pictures:
            with Image.open(io.BytesIO(base64.b64decode(example.png))) as image:
                assert image.tobytes() in evaluated
            assert example.small


@pytest.fixture
def empty_figures(monkeypatch):
    """Leave out the drawing, which takes most of the time of a report."""
    monkeypatch.setattr(report, "to_svg", lambda *_: b"<svg></svg>")
    monkeypatch.setattr(report, "to_png", lambda *_: b"")


@pytest.mark.usefixtures("empty_figures")
def test_the_stored_analysis_is_reused_unless_the_weights_changed(run, monkeypatch):
    before = read_json(run)

    def no_shards(*_, **__):
        raise UserError("The shards are missing.")

    monkeypatch.setattr(class_analysis, "open_saved_run", no_shards)
    fasticcl.report(run)
    assert read_json(run) == before
    weights = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    fasticcl.report(run)
    assert read_json(run)["details"] is None
    assert any("The shards are missing." in text for text in read_page(run).texts)


@pytest.mark.usefixtures("empty_figures")
@pytest.mark.parametrize("content", [b"{", b"[]", b'{"details": {"format": 99}}', b'{"details": 3}'])
def test_a_damaged_report_json_is_replaced(run, content):
    before = read_json(run)
    (run / "report.json").write_bytes(content)
    fasticcl.report(run)
    assert read_json(run) == before
