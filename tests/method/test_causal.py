"""The causal classifier, compared with NumPy in float64, and the invariants of its evaluation."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fasticcl.config import Method
from fasticcl.errors import UserError
from fasticcl.method.causal import CausalClassifier
from fasticcl.method.classifiers import ClassAffine, build_classifier, restore_classifier
from tests.support.classifier_oracle import classifier_logits

D, K = 8, 5
RNG = np.random.default_rng(0)
BATCHES = [RNG.normal(0.5, 1, (count, D)).astype(np.float32) for count in (6, 6, 3)]
QUERIES = RNG.normal(0.5, 1, (20, D)).astype(np.float32)


def trained(heads=2, alpha=0.0, **options):
    """Return a classifier that has seen all batches in training, in evaluation mode."""
    torch.manual_seed(0)
    classifier = CausalClassifier(D, K, heads=heads, **options)
    for batch in BATCHES:
        classifier(torch.from_numpy(batch))
    classifier.alpha.fill_(alpha)
    return classifier.eval()


def logits(classifier, features=QUERIES):
    return classifier(torch.from_numpy(np.float32(features))).detach()


def training_logits(features, weight, heads, scale, gamma):
    """Return the logits of training, one image, class and head at a time."""
    size, result = D // heads, np.zeros((len(features), len(weight)))
    for b, f in enumerate(np.float64(features)):
        for k, w in enumerate(np.float64(weight)):
            for h in range(0, D, size):
                part_f, part_w = f[h : h + size], w[h : h + size]
                product = sum(part_f * part_w)
                result[b, k] += product / ((np.sqrt(sum(part_w**2)) + gamma) * np.sqrt(sum(part_f**2)))
    return scale / heads * result


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize(("scale", "gamma"), [(16.0, 1 / 32), (5.0, 0.5)])
def test_training_logits_are_scaled_sums_of_normalised_heads(heads, scale, gamma):
    torch.manual_seed(1)
    classifier = CausalClassifier(D, K, scale, heads, gamma)
    expected = training_logits(QUERIES, classifier.weight.detach(), heads, scale, gamma)
    np.testing.assert_allclose(logits(classifier), expected, rtol=1e-5, atol=1e-5)
    assert classifier.state_dict().keys() == {"weight", "scale", "gamma", "alpha", "mean"}


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5])
def test_evaluation_subtracts_the_projections_onto_the_mean(heads, alpha):
    classifier = trained(heads, alpha)
    expected = classifier_logits(classifier.state_dict(), QUERIES)
    np.testing.assert_allclose(logits(classifier), expected, rtol=1e-5, atol=1e-5)
    if alpha == 0:
        weight, scale, gamma = (classifier.state_dict()[name] for name in ("weight", "scale", "gamma"))
        loops = training_logits(QUERIES, weight, heads, float(scale), float(gamma))
        np.testing.assert_allclose(expected, loops, rtol=1e-12)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_alpha_0_computes_the_logits_of_training(heads):
    classifier = trained(heads)
    evaluated = logits(classifier)
    assert torch.equal(logits(classifier.train()), evaluated)


def test_training_adds_the_mean_of_each_batch_to_the_decayed_mean():
    expected = np.zeros(D)
    for batch in BATCHES:
        expected = 0.7 * expected + np.float64(batch).mean(axis=0)
    classifier = trained(heads=4, momentum=0.7)
    np.testing.assert_allclose(classifier.mean, expected.reshape(4, 2), rtol=1e-5)
    logits(classifier)
    np.testing.assert_allclose(classifier.mean, expected.reshape(4, 2), rtol=1e-5)
    assert not classifier.mean.requires_grad


def test_alpha_has_no_effect_on_training():
    """The official code and the paper apply α only at test time."""
    gradients, losses, means = [], [], []
    for alpha in (0.0, 3.0):
        classifier = trained(alpha=alpha).train()
        features = torch.from_numpy(QUERIES).requires_grad_()
        loss = nn.functional.cross_entropy(classifier(features), torch.arange(20) % K)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([features.grad.flatten(), classifier.weight.grad.flatten()]))
        means.append(classifier.mean.clone())
    assert torch.equal(*losses)
    assert torch.equal(*gradients)
    assert torch.equal(*means)
    assert not torch.equal(logits(trained(alpha=3.0)), logits(trained(alpha=0.0)))


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-3, 3), heads=st.sampled_from([1, 2, 4]))
def test_alpha_1_removes_the_component_along_the_mean(shift, heads):
    """With f = p·m̂ + q, where q is orthogonal to m̂, the logits for α = 1 are those of q / ‖f‖.

    So ‖f‖·z does not depend on p. This is visible with one head, because all heads share one z.
    """
    classifier = trained(heads, alpha=1.0)
    mean = classifier.mean.numpy()
    assert logits(classifier, shift * np.tile(mean.reshape(1, D), (2, 1))).abs().max() < 1e-4
    if heads == 1:
        shifted = QUERIES + shift * mean
        norms = [torch.from_numpy(np.linalg.norm(each, axis=1)[:, None]) for each in (QUERIES, shifted)]
        expected = norms[0] * logits(classifier)
        torch.testing.assert_close(norms[1] * logits(classifier, shifted), expected, rtol=1e-3, atol=1e-3)


def test_alpha_2_reflects_features_at_the_mean_direction():
    f = np.float64(QUERIES)
    classifier, reference = trained(heads=1, alpha=2.0), trained(heads=1)
    direction = np.float64(classifier.mean[0]) / np.linalg.norm(classifier.mean)
    reflected = f - 2 * np.outer(f @ direction, direction)
    assert torch.allclose(logits(classifier), logits(reference, reflected), atol=1e-4)


def test_only_directions_of_features_and_mean_matter():
    classifier = trained(heads=2, alpha=1.5)
    expected = logits(classifier)
    classifier.mean *= torch.tensor([[3.0], [0.2]])
    scales = np.repeat([2.0, 0.5], D // 2)
    assert torch.allclose(logits(classifier, QUERIES * scales), expected, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_vectors_of_norm_0_give_finite_logits_and_gradients(training, gamma):
    classifier = CausalClassifier(D, K, gamma=gamma).train(training)  # its mean is 0
    classifier.alpha.fill_(2.0)
    nn.init.zeros_(classifier.weight[0])
    features = torch.from_numpy(QUERIES[:3]).clone()
    features[0] = 0
    features[1, : D // 2] = 0
    values = classifier(features.requires_grad_())
    nn.functional.cross_entropy(values, torch.tensor([0, 1, 2])).backward()
    assert values.isfinite().all()
    assert features.grad.isfinite().all()
    assert classifier.weight.grad.isfinite().all()
    assert torch.equal(values[0], torch.zeros(K))


def test_weights_start_uniformly_within_the_bound():
    torch.manual_seed(0)
    classifier = CausalClassifier(64, 500)
    assert classifier.weight.abs().max() <= 1 / 8
    torch.testing.assert_close(classifier.weight.std().item(), 1 / 8 / 3**0.5, rtol=0.02, atol=0)
    classifier.mean.fill_(2.0)
    before = classifier.weight.clone()
    classifier.reset_parameters()
    assert not torch.equal(classifier.weight, before)
    assert (classifier.mean == 2).all()  # the encoder, and so the mean of its features, is the same


@pytest.mark.parametrize(
    ("decay", "initial", "lr", "momentum"),
    [
        (False, 0.9, 0.2, 0.9),
        (False, 0.9, 1e-5, 0.9),
        (True, 0.9, 0.2, 0.9),
        (True, 0.9, 0.02, 0.9),
        (True, 0.9, 0.01, 0.95),
        (True, 0.9, 2e-5, 0.9999),
        (True, 0.6, 0.005, 0.9),
        (True, 0.9, 0.0, 1.0),
    ],
)
def test_the_momentum_of_an_epoch_follows_the_learning_rate(decay, initial, lr, momentum):
    """The official rule for ImageNet-LT: 1 - 0.1 · min(50 · rate, 1)."""
    classifier = CausalClassifier(D, K, momentum=initial, momentum_decay=decay)
    tensor = classifier.momentum
    classifier.set_momentum(lr)
    assert classifier.momentum is tensor  # compiled and captured steps refer to it
    assert tensor.item() == pytest.approx(momentum)


def test_logits_and_mean_are_computed_in_float32_under_autocast():
    reference, classifier = trained(alpha=1.5), trained(alpha=1.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits(classifier), logits(reference))
        assert torch.equal(logits(classifier.train()), logits(reference.train()))
        half = classifier(torch.from_numpy(QUERIES).bfloat16())
    assert half.dtype == classifier.mean.dtype == torch.float32
    expected = 0.9 * reference.mean + torch.from_numpy(QUERIES).bfloat16().float().mean(0).view(2, -1)
    torch.testing.assert_close(classifier.mean, expected)


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize("affine", [False, True])
def test_the_state_dict_restores_the_classifier_with_its_heads(heads, affine):
    classifier = trained(heads, alpha=1.5, scale=7, gamma=0.1)
    if affine:
        classifier = ClassAffine(classifier, K)
        classifier.offset.uniform_()
        expected = classifier_logits(classifier.state_dict(), QUERIES)
        np.testing.assert_allclose(logits(classifier), expected, rtol=1e-5, atol=1e-5)
    restored = restore_classifier(classifier.state_dict()).eval()
    assert type(restored) is type(classifier)
    assert torch.equal(logits(restored), logits(classifier))


def test_a_mean_of_another_size_is_not_a_classifier():
    state = trained().state_dict()
    with pytest.raises(RuntimeError):
        restore_classifier({**state, "mean": torch.zeros(3, 3)})


def test_the_settings_reach_the_classifier():
    options = {"heads": 4, "gamma": 0.25, "momentum": 0.5, "momentum_decay": True}
    chosen = Method(
        classifier="causal",
        classifier_scale=3,
        **{f"causal_{name}": value for name, value in options.items()},
    )
    classifier = build_classifier(chosen, D, K)
    assert isinstance(classifier, CausalClassifier)
    assert classifier.mean.shape == (4, 2)
    assert (classifier.scale, classifier.gamma, classifier.momentum) == (3, 0.25, 0.5)
    classifier.set_momentum(0.01)
    assert classifier.momentum == 0.75


def test_heads_of_unequal_size_are_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"cannot divide 8 features into 3 equal heads\. Set method\.causal"):
        build_classifier(Method(classifier="causal", causal_heads=3), D, K)


def test_a_compiled_forward_pass_updates_the_mean_and_sees_a_new_momentum():
    torch.compiler.reset()
    eager, graphs = CausalClassifier(D, K, momentum_decay=True), []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    inner = copy.deepcopy(eager)
    compiled = torch.compile(inner, backend=keep, fullgraph=True)
    for batch, lr in zip([*BATCHES[:2], *BATCHES[:2]], (0.1, 0.1, 0.01, 0.001), strict=True):
        for classifier in (eager, inner):
            classifier.set_momentum(lr)
        features = torch.from_numpy(batch)
        assert torch.equal(compiled(features), eager(features))
        assert torch.equal(inner.mean, eager.mean)
    assert len(graphs) == 1
    torch.compiler.reset()
