"""Options of the verbs, each declared once for the Python function, its documentation and the command line.

A parameter of a verb is annotated with an `Option`, or with a string if it exists only in Python.
`documented` generates the signature and the docstring from these annotations, and `fasticcl.cli.command`
generates the command.
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, get_args

from rich.console import Console

from fasticcl.config import SECTIONS, Cache, Device

Verb = TypeVar("Verb", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """Description of a parameter and its form on the command line.

    A parameter becomes an option if it is keyword-only or has ``flags``, and otherwise an argument. If a
    `Literal` has a metavar, the function checks the value instead of the command line.
    """

    help: str | None = None
    """Description. None: the docstring of the setting, followed by its default unless presets set it."""
    setting: str = ""
    """``section.key`` of the configuration that the option sets."""
    flags: tuple[str, ...] = ()
    """Names on the command line. Empty: ``--`` and the name of the parameter."""
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    complete: str | None = None
    """Function of `fasticcl.cli.completion` that completes values."""

    @property
    def text(self) -> str:
        """The description in one line."""
        if self.help:
            return self.help
        section, key = self.setting.split(".")
        field = SECTIONS[section].model_fields[key]
        text = " ".join((field.description or "").split())
        if section != "engine" or not field.default:
            return text
        return f"{text} Default: {field.default}."


Run = Annotated[str | Path, Option("Folder of a finished run.")]
WorkerThreads = Annotated[int | None, Option(setting="engine.workers", min=1)]
DeviceName = Annotated[Device | None, Option(setting="engine.device", metavar="DEVICE")]
RunDevice = Annotated[
    Device | None, Option("auto, cpu or gpu. None: the setting of the run.", metavar="DEVICE")
]
RunWorkers = Annotated[int | None, Option("Threads that decode images. None: the setting of the run.", min=1)]
ConfigFile = Annotated[
    str | Path | None,
    Option("TOML file with any part of the configuration.", flags=("--config", "-c"), metavar="FILE"),
]
Settings = Annotated[
    Mapping[str, Any] | Sequence[str],
    Option(
        "Further settings, as section.key=value. Repeatable. Python also accepts a mapping.",
        metavar="SECTION.KEY=VALUE",
        complete="settings",
    ),
]
Progress = Annotated[
    Console | None, "Rich console for progress. None: print only warnings, to standard error."
]


class TrainOptions(TypedDict, total=False):
    """Options of `fasticcl.train` and `fasticcl.configure` that set a value of the configuration."""

    data: Annotated[str | Path | None, Option(setting="data.dir", metavar="DIR")]
    imbalance: Annotated[int | None, Option(setting="data.imbalance", metavar="RATIO")]
    epochs: Annotated[int | None, Option(setting="optim.epochs")]
    batch_size: Annotated[int | None, Option(setting="optim.batch_size")]
    lr: Annotated[float | None, Option(setting="optim.lr")]
    seed: Annotated[int | None, Option(setting="engine.seed")]
    device: DeviceName
    workers: WorkerThreads
    name: Annotated[str | None, Option(setting="engine.name")]
    project: Annotated[str | Path | None, Option(setting="engine.project", metavar="DIR")]
    save_every: Annotated[str | int | None, Option(setting="engine.save_every", metavar="N")]
    eval_every: Annotated[int | None, Option(setting="engine.eval_every", metavar="EPOCHS")]
    verify_reads: Annotated[bool | None, Option(setting="data.verify_reads")]
    logger: Annotated[str | Sequence[str] | None, Option(setting="engine.logger", metavar="NAME")]
    report: Annotated[bool | None, Option(setting="engine.report")]
    cache: Annotated[Cache | None, Option(setting="data.cache", metavar="WHERE")]
    fast_dev_run: Annotated[bool | None, Option(setting="engine.fast_dev_run", flags=("--fast-dev-run",))]


SETTINGS: Mapping[str, str] = {
    name: get_args(annotation)[1].setting for name, annotation in TrainOptions.__annotations__.items()
}
"""Mapping from option names to ``section.key``."""


_PARAMETERS: dict[Callable[..., Any], list[inspect.Parameter]] = {}


def documented(verb: Verb) -> Verb:
    """Give a function the signature and the ``Args:`` section that its parameters declare."""
    signature = inspect.signature(verb)
    _PARAMETERS[verb] = _expanded([*signature.parameters.values()])
    plain, lines = [], ["Args:"]
    for parameter in declared(verb):
        kind, option = get_args(parameter.annotation)
        plain.append(parameter.replace(annotation=kind))
        text = f"{parameter.name}: {option.text if isinstance(option, Option) else option}"
        lines += textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="        ")
    vars(verb)["__signature__"] = signature.replace(parameters=plain)
    description, *rest = (inspect.getdoc(verb) or "").split("\n\nRaises:")
    verb.__doc__ = "\n\nRaises:".join([f"{description}\n\n{chr(10).join(lines)}", *rest])
    return verb


def declared(verb: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a verb with the annotations that declare them."""
    return _PARAMETERS[verb]


def _expanded(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """Replace ``**options`` with the `TrainOptions`, placed before the other keyword parameters."""
    if parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return parameters
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in TrainOptions.__annotations__.items()
    ]
    keywords = [parameter for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    positional = [parameter for parameter in parameters[:-1] if parameter not in keywords]
    return positional + options + keywords
