"""Seed runs: their network, and runs that cannot be used."""

import pytest
import torch

from fasticcl.engine.run.seed_run import load_seed_network
from fasticcl.engine.run.weights import load_model
from fasticcl.errors import UserError
from fasticcl.resolve import resolve
from tests.support.small_runs import train_method

CLASSES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def run(tiny_shards, tmp_path_factory):
    """A finished run of cross-entropy."""
    return train_method(tiny_shards, tmp_path_factory.mktemp("seed"), "ce").run


def configuration(run, *assignments):
    small = ["method.encoder=resnet8", "data.image_size=8", f"method.seed_run={run}"]
    return resolve("demo", method="m2m", assignments=[*small, *assignments])


def test_seed_network_is_the_network_of_the_run(run):
    network, expected = load_seed_network(configuration(run), CLASSES), load_model(run).network
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), expected.parameters(), strict=True))


def test_without_a_name_a_seed_network_is_trained():
    config = resolve("demo", method="m2m", assignments=["method.seed_run="])
    assert config.method.seed_run is None
    assert config.seed_epochs == config.optim.epochs


@pytest.mark.parametrize(
    ("assignment", "classes", "sentence"),
    [
        ("method.encoder=resnet14", CLASSES, "not resnet14. Use --set method.encoder=resnet8, or"),
        ("optim.epochs=9", CLASSES[::-1], "was trained on other classes (demo). Use another run as"),
        ("data.image_size=16", CLASSES, "is 8, not 16. Use the same value, or another run as"),
        ("data.std=[0.2, 0.2, 0.2]", CLASSES, "is (0.377, 0.377, 0.377), not (0.2, 0.2, 0.2). Use the same"),
    ],
)
def test_a_run_of_another_encoder_or_other_classes_is_an_error(run, assignment, classes, sentence):
    with pytest.raises(UserError) as error:
        load_seed_network(configuration(run, assignment), classes)
    assert sentence in str(error.value)


def test_an_unfinished_run_is_an_error_before_a_folder_is_created(run, tiny_shards, tmp_path):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/config.toml").write_bytes((run / "config.toml").read_bytes())
    with pytest.raises(UserError, match="There are no finished weights"):
        train_method(tiny_shards, tmp_path, "m2m", {"method.seed_run": str(tmp_path / "unfinished")})
    assert not (tmp_path / "demo/m2m").exists()
