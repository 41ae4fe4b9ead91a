"""Inputs and outputs of the exported classifier."""

import pytest
import torch

from fasticcl.engine.run.weights import load_model
from fasticcl.errors import UserError
from fasticcl.export.classifier import Classifier
from tests.support.trained_runs import fresh_weights


@pytest.fixture
def model(tmp_path):
    fresh_weights(tmp_path / "trees.safetensors")
    return load_model(tmp_path / "trees.safetensors")


def test_both_input_types_give_the_same_outputs(model):
    pixels = Classifier(model, "uint8").random_images(3)
    images = Classifier(model, "float").random_images(3)
    assert (pixels.shape, pixels.dtype) == ((3, 8, 8, 3), torch.uint8)
    assert (images.shape, images.dtype) == ((3, 3, 8, 8), torch.float32)
    with torch.no_grad():
        outputs = Classifier(model, "uint8")(pixels), Classifier(model, "float")(images)
    torch.testing.assert_close(*outputs)


def test_probabilities_are_the_softmax_of_the_logits(model):
    classifier = Classifier(model)
    with torch.no_grad():
        logits, probabilities = classifier(classifier.random_images(2))
    assert logits.shape == (2, 3)
    torch.testing.assert_close(probabilities, logits.softmax(dim=1))


def test_unknown_input_type_raises_user_error(model):
    with pytest.raises(UserError, match=r"There is no --input 'uint'\. Did you mean uint8"):
        Classifier(model, "uint")
