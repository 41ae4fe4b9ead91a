"""Commands, generated from the functions of the Python API that they call."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin

import typer

from fasticcl.cli import completion
from fasticcl.options import Option, declared

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def command(
    app: typer.Typer,
    verb: Callable[..., Any],
    *examples: str,
    name: str | None = None,
    omit: Collection[str] = (),
    before: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], None]:
    """Decorate the function behind a command. It receives the options that the user has set.

    The command has the options of the verb, followed by those that only the function has. The docstring of
    the function is its help.

    Args:
        app: the application to add the command to.
        verb: a function of the Python API, see `fasticcl.options`.
        examples: command lines for the end of the help.
        name: name of the command. None: that of the verb.
        omit: options of the verb that the command does not have.
        before: options to move, each with the option in front of which it is placed.
    """

    def register(function: Callable[..., None]) -> None:
        parameters = {each.name: _parameter(each) for each in declared(verb) if _is_option(each, omit)}
        for own in inspect.signature(function).parameters.values():
            if own.kind is not own.VAR_KEYWORD:
                parameters.setdefault(own.name, own)
        for moved, following in (before or {}).items():
            parameter = parameters.pop(moved)
            items = [*parameters.items()]
            items.insert([*parameters].index(following), (moved, parameter))
            parameters = dict(items)

        def run(**values: Any) -> None:
            function(**{key: value for key, value in values.items() if value not in (None, [], ())})

        keywords = [each.replace(kind=each.KEYWORD_ONLY) for each in parameters.values()]
        vars(run)["__signature__"] = inspect.Signature(keywords)
        app.command(name or verb.__name__, help=inspect.getdoc(function), epilog=epilog(*examples))(run)

    return register


def epilog(*examples: str) -> str:
    """Return the epilog of a help text, with one unwrapped example per line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples)])


def _is_option(parameter: inspect.Parameter, omit: Collection[str]) -> bool:
    return parameter.name not in omit and isinstance(get_args(parameter.annotation)[1], Option)


def _parameter(parameter: inspect.Parameter) -> inspect.Parameter:
    """Convert a parameter of a verb into a parameter of a typer command."""
    annotation, option = get_args(parameter.annotation)
    kind = _type(annotation, option)
    flags = option.flags
    if parameter.kind is parameter.KEYWORD_ONLY and annotation is bool:
        flags = (f"--{parameter.name.replace('_', '-')}",)  # without --no-...
    keywords = {
        "help": option.text.replace("None: ", "Default: "),
        "metavar": option.metavar,
        "min": option.min,
        "max": option.max,
        "autocompletion": getattr(completion, option.complete) if option.complete else None,
    }
    is_option = flags or parameter.kind is parameter.KEYWORD_ONLY
    info = typer.Option(*flags, **keywords) if is_option else typer.Argument(**keywords)
    if parameter.kind is parameter.VAR_POSITIONAL:
        kind = list[kind]
    default = None if parameter.default == () else parameter.default
    return parameter.replace(kind=parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _type(annotation: Any, option: Option) -> Any:
    """Return the command-line type of an annotation, for a union preferably a list, a path or a string."""
    if isinstance(annotation, ForwardRef) or (get_origin(annotation) is Literal and option.metavar):
        return str
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    types = [each for each in get_args(annotation) if each is not NoneType]
    for each in types:
        if get_origin(each) in (Sequence, Iterable):
            return GenericAlias(list, _type(get_args(each)[0], option))
    return next((each for each in (Path, str) if each in types), _type(types[0], option))
