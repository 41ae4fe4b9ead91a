"""Test classifiers against NumPy in float64, and that a state dict identifies its classifier."""

import numpy as np
import pytest
import torch

from fasticcl.config import Method
from fasticcl.errors import UserError
from fasticcl.method.classifiers import ClassAffine, CosineClassifier, build_classifier, restore_classifier
from fasticcl.method.memory import MemoryClassifier


def features(count: int = 6, size: int = 8) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(1))


def test_cosine_logits_are_scaled_cosines_of_features_and_weights():
    classifier = CosineClassifier(8, 5, scale=7)
    torch.nn.init.normal_(classifier.weight)
    f, w = features().double().numpy(), classifier.weight.detach().double().numpy()
    expected = [[7 * x @ v / np.linalg.norm(x) / np.linalg.norm(v) for v in w] for x in f]
    np.testing.assert_allclose(classifier(features()).detach(), expected, rtol=1e-5, atol=1e-6)


def test_cosine_weights_start_with_norm_1_in_all_directions():
    torch.manual_seed(0)
    weight = CosineClassifier(64, 200).weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(200))
    assert weight.mean().abs() < 0.01
    assert weight.min() < -0.1
    assert weight.max() > 0.1


def test_cosine_logits_are_float32_under_autocast():
    classifier = CosineClassifier(8, 5)
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(features())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, classifier(features()))


@pytest.mark.parametrize("name", ["linear", "cosine", "causal"])
def test_class_affine_scales_and_shifts_the_logits_of_each_class(name: str):
    base = build_classifier(Method(classifier=name, classifier_scale=3), 8, 5).eval()
    affine = ClassAffine(base, 5)
    torch.testing.assert_close(affine(features()), base(features()))
    with torch.no_grad():
        affine.scale.copy_(torch.tensor([0.5, 1, 2, 3, 4]))
    affine.offset.copy_(torch.tensor([1.0, -1, 0, 2, 5]))
    expected = base(features()).detach().numpy() * [0.5, 1, 2, 3, 4] + [1, -1, 0, 2, 5]
    np.testing.assert_allclose(affine(features()).detach(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(affine.weight.detach()[4], 4 * base.weight.detach()[4])


@pytest.mark.parametrize("name", ["linear", "cosine", "causal"])
@pytest.mark.parametrize("affine", [False, True])
def test_a_state_dict_restores_its_classifier(name: str, affine: bool):
    classifier = build_classifier(Method(classifier=name, classifier_scale=3), 8, 5).eval()
    classifier = ClassAffine(classifier, 5) if affine else classifier
    for value in classifier.state_dict().values():
        value.mul_(1.5)
    restored = restore_classifier(classifier.state_dict()).eval()
    assert type(restored) is type(classifier)
    assert torch.equal(restored(features()), classifier(features()))


def test_a_state_dict_restores_a_memory_classifier():
    classifier = MemoryClassifier(8, 5)
    torch.nn.init.normal_(classifier.centroids)
    restored = restore_classifier(classifier.state_dict())
    assert type(restored) is MemoryClassifier
    assert torch.equal(restored(features()), classifier(features()))


def test_other_tensors_are_not_a_classifier():
    with pytest.raises(RuntimeError):
        restore_classifier({"weight": torch.zeros(5, 8), "gamma": torch.zeros(5)})
    with pytest.raises(RuntimeError):
        restore_classifier({})


def test_an_unknown_classifier_is_an_error():
    with pytest.raises(UserError, match=r"There is no classifier 'cosin'.*cosine"):
        build_classifier(Method(classifier="cosin"), 8, 5)
