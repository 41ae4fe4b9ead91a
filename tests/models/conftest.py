"""One trained network for the tests of what it is used for."""

import pytest

import fasticcl


@pytest.fixture(scope="session")
def digit_run(digit_shards, tmp_path_factory):
    """A run on the demonstration data, evaluated on the centre of slightly larger images."""
    settings = {"method.encoder": "resnet8", "rebalance.epochs": 1, "data.eval_resize": 20}
    report = fasticcl.train(
        "demo",
        data=digit_shards,
        project=tmp_path_factory.mktemp("runs"),
        epochs=6,
        device="cpu",
        set=settings,
    )
    return report.run
