"""Readouts compared with NumPy in float64, their invariants and the numbers of CIFAR-LT."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fasticcl.config.method_summary import READOUT_PARAMETERS
from fasticcl.errors import UserError
from fasticcl.method.causal import CausalClassifier
from fasticcl.method.classifiers import ClassAffine, CosineClassifier, restore_classifier
from fasticcl.method.readouts import READOUTS, ReadoutInputs, find_readout
from tests.support.classifier_oracle import classifier_logits

COUNTS = torch.tensor([50, 20, 5, 1])
FEATURES = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))


def linear():
    torch.manual_seed(0)
    return nn.Linear(8, 4)


def inputs(classifier, tau=1.0, counts=COUNTS, alpha=1.0):
    return ReadoutInputs(classifier, counts, tau, alpha, features=())


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


CLASSIFIERS = {
    "linear": linear,
    "cosine": lambda: CosineClassifier(8, 4, scale=3),
    "causal": lambda: CausalClassifier(8, 4).eval(),
}
every_classifier = pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)


@every_classifier
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_log_prior_subtracts_the_log_of_the_class_frequencies(make, tau):
    first = make()
    prior = COUNTS.double().numpy() / COUNTS.sum().item()
    classifier = read_out("log_prior", first, tau=tau)
    expected = first(FEATURES).detach().double().numpy() - tau * np.log(prior)
    np.testing.assert_allclose(classifier(FEATURES).detach(), expected, rtol=1e-5, atol=1e-5)
    restored = restore_classifier(classifier.state_dict()).eval()
    assert torch.equal(restored(FEATURES), classifier(FEATURES))
    assert isinstance(restored, nn.Linear if make is linear else ClassAffine)


@every_classifier
def test_log_prior_with_tau_0_is_the_first_stage(make):
    first = make()
    before = {name: value.clone() for name, value in first.state_dict().items()}
    assert torch.equal(read_out("log_prior", first, tau=0.0)(FEATURES), first(FEATURES))
    read_out("log_prior", first, tau=1.0)
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())


def test_tau_norm_refuses_a_cosine_classifier_in_one_sentence():
    with pytest.raises(UserError, match=r"tau_norm requires a linear classifier, because .* Use the method"):
        find_readout("tau_norm", CosineClassifier(8, 4))
    with pytest.raises(UserError, match="tau_norm requires a linear classifier"):
        find_readout("tau_norm", CausalClassifier(8, 4))


@pytest.mark.parametrize("classifier", [linear(), CosineClassifier(8, 4)], ids=["linear", "cosine"])
def test_tde_refuses_other_classifiers_in_one_sentence(classifier):
    with pytest.raises(UserError, match=r"tde requires a causal classifier, because .* with --method tde\.$"):
        find_readout("tde", classifier)


@every_classifier
def test_other_readouts_support_every_classifier(make):
    for name in READOUTS.keys() - {"tau_norm", "tde"}:
        assert find_readout(name, make())


def causal():
    torch.manual_seed(0)
    classifier = CausalClassifier(8, 4, heads=2)
    for part in FEATURES.split(10):
        classifier(part + 1)
    return classifier.eval()


def test_tde_sets_alpha_in_a_copy_of_the_classifier():
    first = causal()
    before = {name: value.clone() for name, value in first.state_dict().items()}
    classifier = read_out("tde", first, alpha=1.5).eval()
    assert classifier.alpha == 1.5
    expected = classifier_logits({**before, "alpha": 1.5}, FEATURES)
    np.testing.assert_allclose(classifier(FEATURES).detach(), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(classifier(FEATURES).argmax(1), first(FEATURES).argmax(1))
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    assert torch.equal(read_out("tde", first, alpha=0.0).eval()(FEATURES), first(FEATURES))


@pytest.mark.parametrize("name", READOUTS)
def test_features_are_read_by_the_readouts_that_declare_it(name):
    classifier = CausalClassifier(8, 4) if name == "tde" else linear()
    read = []

    def features():
        read.append(name)
        yield torch.ones(4, 8), torch.arange(4)

    READOUTS[name].compute(replace(inputs(classifier), features=features()))
    assert bool(read) == READOUTS[name].reads_features


def test_an_unknown_readout_names_the_known_ones():
    with pytest.raises(UserError, match=r"There is no readout 'tau-norm'\. Did you mean tau_norm\?"):
        find_readout("tau-norm")
    with pytest.raises(UserError, match="Known: log_prior, ncm, tau_norm, tde, none"):
        find_readout("x")


def test_the_summary_of_a_run_states_the_parameter_of_a_readout():
    settings = {name: (key,) for name, (_, key) in READOUT_PARAMETERS.items()}
    assert {name: readout.settings for name, readout in READOUTS.items() if readout.settings} == settings
