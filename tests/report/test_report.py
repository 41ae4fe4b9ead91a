import csv
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import fasticcl
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Source
from fasticcl.engine.run.checkpoint import load_checkpoint
from fasticcl.errors import UserError
from fasticcl.report import class_analysis, run_sections
from fasticcl.report import report as reporting
from tests.support.small_runs import start_tiny


@pytest.fixture(scope="module")
def finished(reported):
    return reported


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def numbers(folder):
    return json.loads((folder / "report.json").read_text())


def results(folder):
    return [*csv.DictReader((folder / "results.csv").read_text().splitlines())]


class Page(HTMLParser):
    """The tables of a page as lists of rows, what it would fetch, and its text."""

    def __init__(self, text):
        super().__init__()
        self.in_cell = False
        self.tables, self.fetched, self.text, self.elements = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.fetched += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_data(self, data):
        self.text.append(data)
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")


def page(folder):
    return Page((folder / "report.html").read_text())


def test_class_by_class_counts_add_up_to_the_accuracies_of_the_run(finished):
    found, rows = numbers(finished)["details"], results(finished)
    first = [row for row in rows if row["stage"] == "representation"]
    tuned = [row for row in rows if row["stage"] == "rebalancing"]
    wanted = {
        "before": first[-1],
        "after": tuned[-1],
        "best": max(tuned, key=lambda row: float(row["val/top1"])),
    }
    seen, train = np.array(found["seen"]), np.array(found["train_counts"])
    for name, row in wanted.items():
        right = np.array(found["right"][name])
        assert 100 * right.sum() / seen.sum() == pytest.approx(float(row["val/top1"]))
        assert 100 * (right / seen)[train < 20].mean() == pytest.approx(float(row["val/few"]))


def test_norms_are_those_of_the_weights_and_centroids(finished):
    found = numbers(finished)["details"]
    after = load_file(finished / "model.safetensors")["classifier.weight"].double()
    before = load_checkpoint(finished / "last.pt")["teacher"]["classifier.weight"].double()
    assert found["weight_norms"]["after"] == pytest.approx(after.square().sum(1).sqrt().tolist())
    assert found["weight_norms"]["before"] == pytest.approx(before.square().sum(1).sqrt().tolist())
    centroids = np.load(finished / "centroids.npy").astype(float)
    assert found["centroid_norms"] == pytest.approx(np.sqrt((centroids**2).sum(1)).tolist())
    assert np.any(centroids)


def test_confusions_and_their_pictures_are_mistakes_of_the_last_epoch(finished):
    found = numbers(finished)["details"]
    wrong = np.array(found["seen"]) - found["right"]["after"]
    rates = wrong / np.array(found["seen"])
    assert found["confusions"], "so short a run makes mistakes"
    shown = [each["label"] for each in found["confusions"]]
    assert sorted(rates[shown], reverse=True) == rates[shown].tolist()
    assert min(rates[shown]) >= max(np.delete(rates, shown), default=0)
    for each in found["confusions"]:
        counts = [count for _, count in each["mistaken"]]
        assert sum(counts) <= wrong[each["label"]]
        assert len(each["pictures"]) == min(4, wrong[each["label"]])
        assert all(picture["predicted"] != each["label"] for picture in each["pictures"])


def test_the_page_needs_no_network_and_shows_the_accuracies(finished):
    shown = page(finished)
    assert all(place.startswith(("data:", "#")) for place in shown.fetched)
    rows = {row[0]: row[1:] for row in shown.tables[0]}
    last = results(finished)[-1]
    keys = ("epoch", "val/top1", "val/many", "val/medium", "val/few")
    cells = ["–" if last[key] == "" else f"{float(last[key]):.1f}" for key in keys[1:]]
    assert rows["after rebalancing"] == [last["epoch"], *cells]
    assert shown.elements.count("svg") == 5


def test_settings_that_differ_from_the_preset_come_first(finished):
    differing = {row[0]: row[1:] for row in page(finished).tables[1][1:]}
    assert differing["data.image_size"] == ["16", "8"]
    assert differing["optim.batch_size"] == ["32", "20"]
    assert "optim.momentum" not in differing
    assert not any(key.startswith(("data.dir", "engine.name", "engine.seed")) for key in differing)


def test_a_second_report_needs_no_shards_unless_the_weights_changed(run, monkeypatch):
    before = numbers(run)

    def no_shards(*_, **__):
        raise UserError("The shards are gone.")

    monkeypatch.setattr(class_analysis, "open_saved_run", no_shards)
    fasticcl.report(run)
    assert numbers(run) == before
    weights = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    fasticcl.report(run)
    assert numbers(run)["details"] is None
    assert any("The shards are gone." in text for text in page(run).text)


@pytest.mark.parametrize("kept", [b"{", b"[]", b'{"details": {"format": 99}}', b'{"details": 3}'])
def test_a_damaged_report_is_made_again(run, kept):
    before = numbers(run)
    (run / "report.json").write_bytes(kept)
    fasticcl.report(run)
    assert numbers(run) == before


def test_an_unfinished_run_is_reported_without_classes_and_says_why(run):
    (run / "model.safetensors").unlink()
    (run / "report.json").unlink()
    fasticcl.report(run)
    assert any("is not finished. Continue it with" in text for text in page(run).text)
    assert page(run).elements.count("svg") == 3


def test_a_line_that_a_crash_cut_short_is_passed_over(run):
    before = numbers(run)["accuracies"]
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"stage": "rebalancing", "val/top1": 10')
    fasticcl.report(run)
    assert numbers(run)["accuracies"] == before


def test_class_names_cannot_become_part_of_the_page(tmp_path, photo_source):
    names = ["<script>alert(1)</script>", 'quote " and & amp', "c_%"]
    odd = Source("folder", names, photo_source.splits)
    convert(odd, tmp_path / "shards")
    settings = {"method.encoder": "resnet8", "data.image_size": 16, "rebalance.epochs": 0}
    options = {"data": tmp_path / "shards", "project": tmp_path, "set": settings, "device": "cpu"}
    folder = fasticcl.train("folder", fast_dev_run=True, batch_size=4, **options).run
    shown = page(folder)
    assert shown.elements.count("script") == 1
    names_shown = {row[0] for table in shown.tables for row in table}
    assert set(names) <= names_shown
    assert any("--fast-dev-run" in text for text in shown.text)


def test_classes_csv_has_every_class(finished):
    rows = [*csv.DictReader((finished / "classes.csv").read_text().splitlines())]
    found = numbers(finished)["details"]
    assert [row["class"] for row in rows] == found["classes"]
    assert [int(row["right_after"]) for row in rows] == found["right"]["after"]


def test_of_very_many_classes_the_page_shows_the_worst(run, monkeypatch):
    monkeypatch.setattr(run_sections, "_CLASS_ROWS", 4)
    fasticcl.report(run)
    table = next(table for table in page(run).tables if table[0][0].startswith("class"))
    found = numbers(run)["details"]
    accuracy = sorted(100 * np.array(found["right"]["after"]) / found["seen"])
    assert [float(row[-1]) for row in table[1:]] == pytest.approx(accuracy[:4], abs=0.05)


def test_figures_are_files_of_both_kinds(finished):
    names = {path.stem for path in (finished / "figures").iterdir()}
    assert names == {"accuracy", "losses", "per-class", "norms", "speed"}
    for name in names:
        root = ElementTree.fromstring((finished / "figures" / f"{name}.svg").read_bytes())
        assert root.tag.endswith("svg")
        with Image.open(finished / "figures" / f"{name}.png") as picture:
            picture.load()
            assert picture.width > 900
            assert len(picture.convert("RGB").getcolors(2**24) or ()) > 2


def test_figures_in_the_page_take_its_colours_and_share_no_identifiers(finished):
    text = (finished / "report.html").read_text()
    drawn = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert all("currentColor" in each and 'width="' not in each.split(">")[0] for each in drawn)
    defined = [set(re.findall(r'<(?:path|clipPath)[^>]* id="([^"]+)"', each)) for each in drawn]
    assert sum(map(len, defined)) == len(set().union(*defined))


def test_the_same_run_gives_the_same_page(run):
    fasticcl.report(run)
    first = (run / "report.html").read_bytes()
    fasticcl.report(run)
    assert (run / "report.html").read_bytes() == first


def test_training_ends_with_a_report(tiny_shards, tmp_path):
    text = io.StringIO()
    console = Console(file=text, width=300)
    found = start_tiny(tiny_shards, tmp_path, {"engine.report": True}, epochs=1, console=console)
    assert f"report   {found.run / 'report.html'}" in text.getvalue()
    assert numbers(found.run)["accuracies"]["after"]["val/top1"] == found.rows["after"]["val/top1"]


def test_a_report_that_fails_does_not_fail_the_run(tiny_shards, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(reporting, "report_run", fail)
    text = io.StringIO()
    console = Console(file=text, width=300)
    found = start_tiny(tiny_shards, tmp_path, {"engine.report": True}, epochs=1, console=console)
    assert f"no report was written (no fonts). Write it with: fasticcl report {found.run}" in text.getvalue()
    assert found.rows["after"]


def test_bad_input_is_one_sentence(run, tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        fasticcl.report(tmp_path)
    with pytest.raises(UserError, match="given twice"):
        fasticcl.report(run, run, output=tmp_path / "both")
    assert not (tmp_path / "both").exists()
    with pytest.raises(UserError, match="Give at least one run folder"):
        fasticcl.report()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Choose another --output"):
        fasticcl.report(run, output=tmp_path / "file")
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no finished epoch"):
        fasticcl.report(run)


def test_items_of_a_source_are_what_the_thumbnails_show(finished, tiny_shards):
    """A thumbnail of an 8×8 digit is that digit."""
    import base64

    from fasticcl.shards.reader import Shards

    shards = Shards(tiny_shards, "test")
    stored = set()
    for row in range(len(shards)):
        (content,) = shards.read(np.array([row]))
        with Image.open(io.BytesIO(content.tobytes())) as image:
            stored.add(image.convert("RGB").tobytes())
    for each in numbers(finished)["details"]["confusions"]:
        for picture in each["pictures"]:
            with Image.open(io.BytesIO(base64.b64decode(picture["png"]))) as image:
                assert image.tobytes() in stored
            assert picture["small"]


def test_an_unfinished_run_is_not_compared(run, finished, tmp_path):
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "rebalancing" not in line]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"is not finished, so it cannot be compared\. .* --resume"):
        fasticcl.report(run, finished, output=tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_run_is_known_by_its_name_from_inside_too(run, monkeypatch):
    monkeypatch.chdir(run)
    fasticcl.report(".")
    assert numbers(run)["run"] == "run"


def test_a_report_that_is_interrupted_leaves_the_run_whole(tiny_shards, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reporting, "report_run", interrupt)
    text = io.StringIO()
    console = Console(file=text, width=300)
    found = start_tiny(tiny_shards, tmp_path, {"engine.report": True}, epochs=1, console=console)
    assert "no report was written (interrupted). Write it with: fasticcl report" in text.getvalue()
    assert found.rows["after"]
