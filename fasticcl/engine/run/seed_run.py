"""The finished run whose network guides the translation of M2m (``method.seed_run``)."""

from collections.abc import Sequence

from fasticcl.config import Config
from fasticcl.engine.run.weights import load_model
from fasticcl.errors import UserError
from fasticcl.method.network import Network


def load_seed_network(config: Config, classes: Sequence[str]) -> Network:
    """Return the network of the seed run.

    Args:
        config: configuration of the run that uses it.
        classes: [K] names of the classes of that run.

    Raises:
        UserError: the seed run is missing or not finished, or its encoder, classes or images differ.
    """
    folder = config.method.seed_run
    assert folder is not None
    model = load_model(folder)
    seed, data = model.description, config.data
    if seed.encoder != config.method.encoder:
        raise UserError(
            f"The encoder of {folder} is {seed.encoder}, not {config.method.encoder}. Use "
            f"--set method.encoder={seed.encoder}, or another run as method.seed_run."
        )
    if seed.classes != [*classes]:
        raise UserError(
            f"{folder} was trained on other classes ({seed.dataset}). Use another run as method.seed_run, "
            "or omit it to train a seed network first."
        )
    for name in ("image_size", "mean", "std"):
        expected, found = getattr(data, name), getattr(seed, name)
        if expected != found:
            raise UserError(
                f"data.{name} of {folder} is {found}, not {expected}. Use the same value, or another run as "
                "method.seed_run."
            )
    return model.network
