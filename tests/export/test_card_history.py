"""Training and accuracy sections of model cards, compared with the records of the run."""

import csv
import re
import shutil

import pytest

import fasticcl
from tests.support.model_cards import card_section, export_card, table_rows
from tests.support.run_histories import change_config, with_readout
from tests.support.trained_runs import fresh_weights


def accuracies(record):
    return [f"{float(record[f'val/{key}']):.1f}" for key in ("top1", "many", "medium", "few")]


def test_accuracies_are_those_of_the_last_and_best_epochs(run):
    with open(run / "results.csv", newline="") as file:
        records = [*csv.DictReader(file)]
    before, after = (
        [record for record in records if record["stage"] == stage]
        for stage in ("representation", "rebalancing")
    )
    best = max(after, key=lambda record: float(record["val/top1"]))
    accuracy = card_section(export_card(run), "Accuracy")
    assert table_rows(accuracy) == {
        "before rebalancing, last epoch (2)": accuracies(before[-1]),
        "after rebalancing, last epoch (2): this file": accuracies(after[-1]),
        f"best epoch ({best['epoch']}), chosen on these images": accuracies(best),
    }
    assert "on the 359 images of the test split" in accuracy


def test_card_of_the_best_epoch_marks_it_and_states_its_bias(run):
    accuracy = card_section(export_card(run, best=True), "Accuracy")
    assert [title for title in table_rows(accuracy) if "this file" in title] == [
        f"best epoch ({fasticcl.evaluate(run).best_epoch}), chosen on these images: this file"
    ]
    assert "its accuracy on other images is probably lower" in accuracy


@pytest.fixture
def run_without_rebalancing(digit_shards, tmp_path):
    fasticcl.train(
        "demo",
        method="ce",
        data=digit_shards,
        project=tmp_path,
        name="ce",
        epochs=1,
        batch_size=196,
        device="cpu",
        report=False,
        set={"method.encoder": "resnet8", "data.image_size": 8, "data.crop_padding": 1},
    )
    return tmp_path / "demo" / "ce"


def test_run_without_rebalancing_has_no_accuracy_before_it(run_without_rebalancing):
    card = export_card(run_without_rebalancing)
    assert [*table_rows(card_section(card, "Accuracy"))] == [
        "last epoch (1): this file",
        "best epoch (1), chosen on these images",
    ]
    assert "no rebalancing" in card_section(card, "Training")
    assert "rebalance.epochs" not in card  # it equals the preset of the method


def test_card_of_ldam_drw_names_its_loss_classifier_and_weights(run):
    method = {
        "name": "ldam-drw",
        "interpolative_weight": 0.0,
        "centroid_contrastive": False,
        "class_loss": "ldam",
        "classifier": "cosine",
        "class_weight_beta": 0.9999,
        "class_weight_start": 0.5,
    }
    change_config(run, method=method)
    card = export_card(run)
    training = card_section(card, "Training")
    assert "Method `ldam-drw`: 2 epochs of representation learning, 2 epochs of rebalancing" in training
    assert (
        "Parts of the method: loss ldam (margin = 0.5); classifier cosine (scale 30); class weights "
        "(β = 0.9999) from epoch 2, loss divided by the sum of the weights."
    ) in training
    assert "projection head" not in card
    assert "warm-up T" not in card


def test_card_of_cmo_names_its_mixing_and_its_cooldown(run):
    method = {"name": "cmo", "warmup_epochs": 0, "cooldown_epochs": 1}
    change_config(run, method=method, data={"mixing": "cutmix", "mixing_probability": 0.5})
    training = card_section(export_card(run), "Training")
    assert "`cmo`: 2 epochs of representation learning (warm-up T = 0, cooldown 1), 2 epochs" in training
    assert "Parts of the method: CutMix of both streams (probability 0.5)." in training


def test_card_of_ce_drs_names_the_epoch_of_resampling(run):
    change_config(run, method={"name": "ce-drs"}, data={"resample_start": 0.5})
    training = card_section(export_card(run), "Training")
    assert "Parts of the method: re-sampling (γ = 0) from epoch 2." in training


def test_card_of_a_readout_states_that_nothing_was_trained_in_it(run):
    with_readout(run, "tau_norm", tau=0.7, epochs=10)
    for best in (False, True):
        card = export_card(run, best=best)
        training, accuracy = card_section(card, "Training"), card_section(card, "Accuracy")
        assert "then the readout tau_norm (τ = 0.7) without training, batch size 98" in training
        assert [*table_rows(accuracy)] == [
            "before the readout, last epoch (2)",
            "after the readout: this file",
        ]
        assert "best epoch" not in card
        assert "epochs of rebalancing" not in card


def test_settings_that_differ_from_the_presets_are_listed(run):
    assert table_rows(card_section(export_card(run), "Training")) == {
        "`data.image_size`": ["8", "16"],
        "`data.crop_padding`": ["1", "2"],
        "`method.encoder`": ["resnet8", "resnet14"],
        "`method.warmup_epochs`": ["1", "20"],
        "`optim.epochs`": ["2", "50"],
        "`optim.batch_size`": ["98", "32"],
        "`rebalance.epochs`": ["2", "10"],
    }


def test_weights_without_their_run_have_unknown_accuracies(run, tmp_path):
    weights = shutil.copy(run / "model.safetensors", tmp_path / "digits.safetensors")
    card = export_card(weights)
    assert "The accuracies are not known" in card_section(card, "Accuracy")
    assert "without the records" in card_section(card, "Training")
    assert "392 training images of 10 classes" in card_section(card, "Data")


def test_other_weights_in_a_run_folder_do_not_get_its_accuracies(run):
    fresh_weights(run / "other.safetensors")
    accuracy = card_section(export_card(run / "other.safetensors"), "Accuracy")
    assert "The accuracies are not known" in accuracy


def test_truncated_last_line_of_metrics_is_ignored(run):
    accuracy = card_section(export_card(run), "Accuracy")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"stage": "rebalancing", "epo')
    assert card_section(export_card(run), "Accuracy") == accuracy


def test_accuracies_are_not_attributed_to_replaced_shards(run, photo_shards):
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(re.sub(r'^dir = ".*"$', f'dir = "{photo_shards}"', config, flags=re.M))
    accuracy = card_section(export_card(run), "Accuracy")
    assert "on the test split, or if there is none the val split:" in accuracy
