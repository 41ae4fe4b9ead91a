"""Tests of errors about weights files."""

import pytest
from safetensors.torch import load_file, save_file

from fasticcl.engine.run.weights import load_model
from fasticcl.errors import UserError
from tests.support.trained_runs import fresh_weights


@pytest.fixture
def weights(tmp_path):
    """An intact weights file."""
    fresh_weights(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_weights_file_outside_of_a_run_is_loaded(weights):
    model = load_model(weights)
    assert model.run is None
    assert model.description.encoder == "resnet8"


def test_best_weights_require_the_run_folder(weights):
    with pytest.raises(UserError, match=r"only the last epoch's weights\. Use the run folder"):
        load_model(weights, best=True)


def test_file_that_is_not_safetensors_is_an_error(weights):
    weights.write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_model(weights)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "has no fasticcl metadata"),
        ({"fasticcl": "{}"}, "unknown or missing fields"),
    ],
    ids=["none", "empty"],
)
def test_foreign_weights_are_an_error(weights, metadata, message):
    save_file(load_file(weights), weights, metadata)
    with pytest.raises(UserError, match=message):
        load_model(weights)
