"""Simulated accuracy of the settings of a sweep: images, encoders, and when it chooses."""

import numpy as np
import pytest

import fasticcl
from fasticcl.data.holdout import draw_holdout_rows
from fasticcl.sweep import sweep as sweep_module
from fasticcl.sweep.class_gaussians import ClassGaussians
from tests.support.small_runs import TINY_COUNTS


@pytest.fixture
def fits(monkeypatch):
    """Features and classes of each fit of a sweep, in order."""
    fits = []

    class Recorded(ClassGaussians):
        @classmethod
        def fit(cls, features, num_classes):
            batches = [*features]
            fits.append(batches)
            return super().fit(batches, num_classes)

    monkeypatch.setattr(sweep_module, "ClassGaussians", Recorded)
    return fits


def class_counts(batches):
    return np.bincount(np.concatenate([y.numpy() for _, y in batches])).tolist()


def test_the_images_outside_the_holdout_are_encoded_once_for_a_frozen_encoder(run, fits):
    sweep = fasticcl.sweep(
        run, over={"rebalance.gamma": [0, 1]}, holdout=0.3, set=["rebalance.encoder=frozen"]
    )
    labels = np.repeat(np.arange(len(TINY_COUNTS)), TINY_COUNTS)
    held_back = np.bincount(
        labels[draw_holdout_rows(np.array(TINY_COUNTS), 0.3, seed=0)], minlength=len(TINY_COUNTS)
    )
    assert [class_counts(batches) for batches in fits] == [(np.array(TINY_COUNTS) - held_back).tolist()]
    assert sweep.criterion == "simulated"
    assert sweep.simulated_before is not None
    assert all(entry.simulated_accuracy is not None for entry in sweep.entries)


@pytest.mark.parametrize("setting", ["rebalance.encoder=tuned", "rebalance.batch_norm=train"])
def test_a_changed_encoder_has_gaussians_of_its_own(run, fits, setting):
    fasticcl.sweep(run, over={"rebalance.gamma": [0, 1]}, set=[setting])
    first, *others = [np.concatenate([x.numpy() for x, _ in batches]) for batches in fits]
    assert len(others) == 2
    assert all(np.abs(features - first).max() > 1e-6 for features in others)


def test_a_sweep_without_a_holdout_chooses_by_simulated_accuracy(run, fits):
    sweep = fasticcl.sweep(run, over={"rebalance.tau": [0, 1]}, method="tau-norm", holdout=0)
    assert [class_counts(batches) for batches in fits] == [[*TINY_COUNTS]]
    assert [entry.holdout_accuracy for entry in sweep.entries] == [None, None]
    scores = [entry.simulated_accuracy for entry in sweep.entries]
    assert sweep.best is (None if scores[0] == scores[1] else sweep.entries[int(np.argmax(scores))])


def test_an_unseen_holdout_chooses_unless_the_criterion_is_named(run_with_holdout, fits):
    over = {"rebalance.gamma": [0, 1]}
    assert fasticcl.sweep(run_with_holdout, over=over).criterion == "holdout"
    assert fits == []
    sweep = fasticcl.sweep(run_with_holdout, over=over, criterion="simulated")
    assert sweep.criterion == "simulated"
    assert len(fits) == 1
    assert sweep.entries[0].holdout_accuracy is not None
