"""The frozen list of verbs and options, which scripts rely on."""

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


def command_lines(command, name="fasticcl"):
    yield f"{name}: {options(command)}".rstrip()
    for verb, subcommand in getattr(command, "commands", {}).items():
        yield from command_lines(subcommand, f"{name} {verb}")


def test_verbs_and_options_match_the_frozen_list():
    current = "".join(line + "\n" for line in command_lines(typer.main.get_command(app)))
    assert current == FROZEN.read_text(), "update tests/verbs.txt and the README if this is intended"


def test_every_verb_and_option_has_help_and_every_verb_has_an_example():
    commands = [typer.main.get_command(app)]
    while commands:
        command = commands.pop()
        subcommands = [*getattr(command, "commands", {}).values()]
        commands += subcommands
        assert command.help
        assert (
            subcommands or f"fasticcl {command.name}" in command.epilog or "fasticcl bench" in command.epilog
        )
        assert all(parameter.help for parameter in command.params if parameter.name != "help")
