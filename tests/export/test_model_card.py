"""Front matter, data and licence of model cards."""

import re

import pytest
import yaml

from fasticcl.convert.layouts.registry import LAYOUTS
from fasticcl.export import model_card
from tests.support.model_cards import card_section, export_card, table_rows
from tests.support.small_runs import ConsoleOutput, train_tiny
from tests.support.trained_runs import fresh_weights, network_of


def test_front_matter_has_the_fields_of_model_hubs(run):
    _, front_matter, _ = export_card(run).split("---\n", 2)
    assert yaml.safe_load(front_matter) == {
        "library_name": "fasticcl",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "long-tailed", "iccl", "safetensors"],
        "datasets": ["demo"],
        "metrics": ["accuracy"],
    }


def test_card_contains_no_paths_of_this_machine(run, digit_shards):
    card = export_card(run)
    assert str(digit_shards) not in card
    assert str(run.parent) not in card


def test_class_groups_are_counted_by_training_images(run, tmp_path):
    assert table_rows(card_section(export_card(run), "Data")) == {
        "many": ["more than 100", "1", "142"],
        "medium": ["20 to 100", "4", "212"],
        "few": ["fewer than 20", "5", "38"],
    }
    fresh_weights(tmp_path / "trees.safetensors")
    data = card_section(export_card(tmp_path / "trees.safetensors"), "Data")
    assert "195 training images of 3 classes" in data
    assert "an imbalance factor of 30.0" in data


def test_parameter_count_covers_encoder_and_classifier(run):
    count = sum(parameter.numel() for parameter in network_of(run).parameters())
    assert f"a resnet8 with {count:,} parameters" in export_card(run)


@pytest.mark.parametrize("method", ["iccl", "ce"])
def test_parameter_counts_of_banner_and_card_differ_by_the_projection_head(tiny_shards, tmp_path, method):
    output = ConsoleOutput()
    run = train_tiny(tiny_shards, tmp_path, method=method, console=output.console, epochs=2).run
    banner = re.search(
        r"resnet8, ([\d,]+) parameters(?: \(([\d,]+) in the projection head, used .*\))?, seed",
        output.file.getvalue(),
    )
    total, head = (int((count or "0").replace(",", "")) for count in banner.groups())
    assert (head > 0) == (method == "iccl")
    note = ", without the projection head used in training" if head else ""
    expected = f"a resnet8 with {total - head:,} parameters (encoder and classifier{note}), trained"
    assert expected in export_card(run)


@pytest.mark.parametrize(
    ("method", "sources"),
    [
        ("iccl", []),
        ("ce", []),
        ("my-own", []),
        (
            "ldam-drw",
            ["The method `ldam-drw`: LDAM with deferred re-weighting (DRW) (Cao et al., NeurIPS 2019)."],
        ),
        (
            "focal+lws",
            [
                "The method `focal`: Focal loss, softmax form (Lin et al., ICCV 2017).",
                "The method `lws`: Learnable weight scaling (LWS) (Kang et al., ICLR 2020).",
            ],
        ),
    ],
)
def test_citation_names_the_sources_of_comparison_methods(method, sources):
    lines = [*model_card._citation(method)]
    assert [line for line in lines if line.startswith("The method")] == sources
    assert ("ICCL, which `fasticcl` implements:" in lines) == bool(sources)
    assert "arXiv:2110.10048" in "\n".join(lines)


@pytest.mark.parametrize("dataset", ["inat2018", "imagenet-lt", "cifar100-lt"])
def test_licence_is_that_of_the_dataset(tmp_path, dataset):
    fresh_weights(tmp_path / "trees.safetensors", dataset=dataset)
    licence = card_section(export_card(tmp_path / "trees.safetensors"), "Licence")
    assert LAYOUTS[dataset].licence in licence


def test_licence_of_own_images_is_not_known(tmp_path):
    fresh_weights(tmp_path / "trees.safetensors", dataset="folder")
    licence = card_section(export_card(tmp_path / "trees.safetensors"), "Licence")
    assert "unknown" in licence
