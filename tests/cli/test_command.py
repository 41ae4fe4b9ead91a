"""The list of verbs and options, which people type and scripts rely on: changing it is a decision."""

from pathlib import Path

import typer

from fasticcl.cli.main import app

FROZEN = Path(__file__).parents[1] / "verbs.txt"


def options(command):
    return " ".join(
        "/".join(parameter.opts + parameter.secondary_opts)
        if parameter.param_type_name == "option"
        else parameter.name.upper()
        for parameter in command.params
    )


def lines(command, name="fasticcl"):
    yield f"{name}: {options(command)}".rstrip()
    for each, member in getattr(command, "commands", {}).items():
        yield from lines(member, f"{name} {each}")


def test_verbs_and_options_are_those_that_were_agreed_on():
    now = "".join(line + "\n" for line in lines(typer.main.get_command(app)))
    assert now == FROZEN.read_text(), "if that is meant, write it into tests/verbs.txt and README"


def test_every_verb_says_what_it_does_and_has_an_example():
    commands = [typer.main.get_command(app)]
    while commands:
        command = commands.pop()
        below = [*getattr(command, "commands", {}).values()]
        commands += below
        assert command.help
        assert below or f"fasticcl {command.name}" in command.epilog or "fasticcl bench" in command.epilog
        assert all(parameter.help for parameter in command.params if parameter.name != "help")
