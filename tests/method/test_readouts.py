"""Readouts compared with NumPy in float64, their invariants and the numbers of CIFAR-LT."""

import numpy as np
import pytest
import torch
from torch import nn

from fasticcl.config.method_summary import READOUTS_WITH_TAU
from fasticcl.errors import UserError
from fasticcl.method.classifiers import ClassAffine, CosineClassifier, restore_classifier
from fasticcl.method.readouts import READOUTS, ReadoutInputs, find_readout

COUNTS = torch.tensor([50, 20, 5, 1])
FEATURES = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))


def linear():
    torch.manual_seed(0)
    return nn.Linear(8, 4)


def inputs(classifier, tau=1.0, counts=COUNTS):
    return ReadoutInputs(classifier, counts, tau, features=())


def read_out(name, classifier, **options):
    return find_readout(name, classifier).compute(inputs(classifier, **options))


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
def test_tau_norm_divides_weights_by_powers_of_their_norms_and_drops_the_bias(tau):
    first = linear()
    weight = first.weight.detach().double().numpy()
    normalised = np.array([w / np.linalg.norm(w) ** tau for w in weight])
    classifier = read_out("tau_norm", first, tau=tau)
    np.testing.assert_allclose(classifier.weight.detach(), normalised, rtol=1e-6)
    expected = FEATURES.double().numpy() @ normalised.T
    np.testing.assert_allclose(classifier(FEATURES).detach(), expected, rtol=1e-4, atol=1e-5)


def test_tau_0_leaves_the_weights_and_drops_the_bias():
    first = linear()
    classifier = read_out("tau_norm", first, tau=0.0)
    assert torch.equal(classifier.weight, first.weight)
    assert torch.equal(classifier(FEATURES), nn.functional.linear(FEATURES, first.weight))
    assert not torch.equal(classifier(FEATURES).argmax(1), first(FEATURES).argmax(1))


def test_tau_norm_of_a_class_without_weights_is_finite():
    first = linear()
    nn.init.zeros_(first.weight)
    assert read_out("tau_norm", first, tau=2.0)(FEATURES).isfinite().all()


@pytest.mark.parametrize("make", [linear, lambda: CosineClassifier(8, 4, scale=3)], ids=["linear", "cosine"])
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_log_prior_subtracts_the_log_of_the_class_frequencies(make, tau):
    first = make()
    prior = COUNTS.double().numpy() / COUNTS.sum().item()
    classifier = read_out("log_prior", first, tau=tau)
    expected = first(FEATURES).detach().double().numpy() - tau * np.log(prior)
    np.testing.assert_allclose(classifier(FEATURES).detach(), expected, rtol=1e-5, atol=1e-5)
    restored = restore_classifier(classifier.state_dict())
    assert torch.equal(restored(FEATURES), classifier(FEATURES))
    assert isinstance(restored, nn.Linear if make is linear else ClassAffine)


@pytest.mark.parametrize("make", [linear, lambda: CosineClassifier(8, 4, scale=3)], ids=["linear", "cosine"])
def test_log_prior_with_tau_0_is_the_first_stage(make):
    first = make()
    before = {name: value.clone() for name, value in first.state_dict().items()}
    assert torch.equal(read_out("log_prior", first, tau=0.0)(FEATURES), first(FEATURES))
    read_out("log_prior", first, tau=1.0)
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())


def test_tau_norm_refuses_a_cosine_classifier_in_one_sentence():
    with pytest.raises(UserError, match=r"tau_norm requires a linear classifier, because .* Use the method"):
        find_readout("tau_norm", CosineClassifier(8, 4))
    for name in READOUTS.keys() - {"tau_norm"}:
        assert find_readout(name, CosineClassifier(8, 4))


def test_an_unknown_readout_names_the_known_ones():
    with pytest.raises(UserError, match=r"There is no readout 'tau-norm'\. Did you mean tau_norm\?"):
        find_readout("tau-norm")
    with pytest.raises(UserError, match="Known: log_prior, ncm, tau_norm, none"):
        find_readout("x")


def test_the_summary_of_a_run_states_tau_for_the_readouts_that_use_it():
    assert {name for name, readout in READOUTS.items() if "tau" in readout.settings} == {*READOUTS_WITH_TAU}
