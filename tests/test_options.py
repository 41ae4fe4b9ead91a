"""Signatures and docstrings that are generated from declared options."""

import inspect
from typing import Annotated

import pytest

import fasticcl
from fasticcl.config import SECTIONS
from fasticcl.options import SETTINGS, Option, declared, documented


@pytest.mark.parametrize(
    "verb",
    [
        *(fasticcl.train, fasticcl.rebalance, fasticcl.sweep, fasticcl.evaluate, fasticcl.predict),
        *(fasticcl.export, fasticcl.convert, fasticcl.verify, fasticcl.show, fasticcl.report),
        *(fasticcl.doctor, fasticcl.benchmark, fasticcl.reproduce),
    ],
    ids=lambda verb: verb.__name__,
)
def test_every_parameter_is_documented(verb):
    arguments = verb.__doc__.partition("Args:")[2].partition("Raises:")[0]
    for name, parameter in inspect.signature(verb).parameters.items():
        assert f"\n    {name}: " in arguments
        assert "Annotated" not in str(parameter)


def test_train_has_all_options_and_the_help_of_their_settings():
    parameters = inspect.signature(fasticcl.train).parameters
    assert parameters.keys() >= SETTINGS.keys()
    for path in SETTINGS.values():
        section, key = path.split(".")
        description = " ".join(SECTIONS[section].model_fields[key].description.split())
        assert description in " ".join(fasticcl.train.__doc__.split())


def test_an_unknown_option_raises_an_error_with_the_nearest_name():
    for call in (fasticcl.train, fasticcl.configure):
        with pytest.raises(fasticcl.UserError, match=r"no option 'epoch'\. Did you mean epochs"):
            call("demo", epoch=3)


def test_documented_adds_arguments_before_the_raised_errors():
    @documented
    def verb(path: Annotated[str, Option("Input file.")], *, rank: Annotated[int, "Index."] = 0) -> None:
        """Do something.

        Raises:
            UserError: never.
        """

    assert inspect.getdoc(verb) == (
        "Do something.\n\nArgs:\n    path: Input file.\n    rank: Index.\n\nRaises:\n    UserError: never."
    )
    assert str(inspect.signature(verb)) == "(path: str, *, rank: int = 0) -> None"
    assert [parameter.name for parameter in declared(verb)] == ["path", "rank"]
