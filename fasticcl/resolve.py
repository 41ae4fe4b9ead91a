"""Resolve the configuration of a run from layers.

Later layers override earlier ones: the dataset preset, a file (``--config``), a method preset (``--method``),
then options and ``--set``. An unknown key raises an error that names the nearest known key.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Unpack

from pydantic import ValidationError

from fasticcl.config import SECTIONS, Config
from fasticcl.errors import UserError, nearest
from fasticcl.options import SETTINGS, TrainOptions

PRESETS = resources.files("fasticcl") / "presets"
Layer = Mapping[str, Mapping[str, Any]]


def preset_names(kind: Literal["dataset", "method"] = "dataset") -> list[str]:
    """Return the sorted names of the dataset presets or of the method presets."""
    folder = PRESETS if kind == "dataset" else PRESETS / "method"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def preset_text(name: str, kind: Literal["dataset", "method"] = "dataset") -> str:
    """Return the TOML text of a preset.

    Raises:
        UserError: there is no preset with this name.
    """
    known = preset_names(kind)
    if name not in known:
        raise UserError(f"There is no {kind} preset {name!r}. {nearest(name, known)}")
    folder = PRESETS if kind == "dataset" else PRESETS / "method"
    return (folder / f"{name}.toml").read_text(encoding="utf-8")


def configure(
    dataset: str | None = None,
    *,
    method: str | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    **options: Unpack[TrainOptions],
) -> Config:
    """Return the configuration that `fasticcl.train` would use with the same arguments.

    Raises:
        UserError: an unknown name or an invalid value.
    """
    settings = dict(set) if isinstance(set, Mapping) else {}
    for name, value in options.items():
        if name not in SETTINGS:
            raise UserError(f"There is no option {name!r}. {nearest(name, SETTINGS)}")
        if value is not None:
            settings.setdefault(SETTINGS[name], str(value) if isinstance(value, Path) else value)
    layer: dict[str, dict[str, Any]] = {}
    for path, value in settings.items():
        section, _, key = path.partition(".")
        layer.setdefault(section, {})[key] = value
    return resolve(
        dataset,
        method=method,
        file=Path(config) if config else None,
        options=layer,
        assignments=() if isinstance(set, Mapping) else [set] if isinstance(set, str) else set,
    )


def resolve(
    dataset: str | None = None,
    *,
    method: str | None = None,
    file: Path | None = None,
    options: Layer | None = None,
    assignments: Iterable[str] = (),
) -> Config:
    """Return the configuration that results from the layers. Later layers override earlier ones.

    Args:
        dataset: name of a dataset preset. None: the dataset named in ``file``.
        method: name of a method preset (iccl, ce, mixup, crt).
        file: TOML file with any part of the configuration.
        options: settings by section and key.
        assignments: settings as ``section.key=value``.

    Raises:
        UserError: an unknown preset, section or key, or an invalid value.
    """
    from_file = _read(file) if file else {}
    _check_keys(from_file, file)
    named = from_file.get("data", {}).get("dataset")
    if named is not None and not isinstance(named, str):
        raise UserError(f"{file}: data.dataset must be a name, got {named!r}.")
    if dataset and named and dataset != named:
        raise UserError(f"{file} is a configuration for {named}, not for {dataset}. Omit one of the two.")
    dataset = dataset or named
    if not dataset:
        raise UserError(f"Specify a dataset to train on: {', '.join(preset_names())}.")
    preset = tomllib.loads(preset_text(dataset))
    paper_warmup = {int(e): t for e, t in preset.pop("paper", {}).get("warmup_epochs", {}).items()}
    method_layer = tomllib.loads(preset_text(method, "method")) if method else {}
    # Options and --set form one layer, so their order on the command line does not matter.
    layers = [preset, from_file, method_layer, _merged([options or {}, *map(assignment, assignments)])]
    merged: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for layer in layers:
        _apply(merged, layer, paper_warmup)
    if merged["data"].get("imbalance") and "imbalance" not in preset["data"]:
        raise UserError(f"--imbalance applies only to cifar10-lt and cifar100-lt. Omit it for {dataset}.")
    if merged["data"].get("dataset") != dataset:
        raise UserError(f"data.dataset cannot be set. Pass it as an argument: fasticcl train {dataset}.")
    return validate(merged)


def _merged(layers: Iterable[Layer]) -> Layer:
    union: dict[str, dict[str, Any]] = {}
    for layer in layers:
        _check_keys(layer)
        for section, values in layer.items():
            union.setdefault(section, {}).update(values)
    return union


def validate(values: Layer) -> Config:
    """Return a configuration with these settings.

    Raises:
        UserError: an unknown section or key, or an invalid value.
    """
    _check_keys(values)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"][:2])
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise UserError(f"{reason}.") from None
        raise UserError(f"{setting}: {reason[:1].lower()}{reason[1:]}, got {first['input']!r}.") from None


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read the configuration {file}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a TOML file: {error}.") from None


def as_layer(settings: Mapping[str, Any] | Iterable[str]) -> Layer:
    """Return settings as a layer.

    Args:
        settings: {"section.key": value}, ["section.key=value"], or a single "section.key=value".

    Raises:
        UserError: a string that is not an assignment, or an unknown section or key.
    """
    if isinstance(settings, Mapping):
        paths = ((path.partition("."), value) for path, value in settings.items())
        return _merged({section: {key: value}} for (section, _, key), value in paths)
    return _merged(map(assignment, [settings] if isinstance(settings, str) else settings))


def assignment(text: str) -> Layer:
    """Return ``section.key=value`` as a layer. A value that is not valid TOML is treated as a string.

    Raises:
        UserError: the text is not an assignment.
    """
    path, equals, value = text.partition("=")
    section, dot, key = path.strip().partition(".")
    if not (equals and dot and key):
        raise UserError(f"--set expects section.key=value, for example optim.lr=0.1, got {text!r}.")
    try:
        return {section: {key: tomllib.loads(f"value = {value}")["value"]}}
    except tomllib.TOMLDecodeError:
        return {section: {key: value.strip()}}


def _check_keys(layer: Layer, file: Path | None = None) -> None:
    origin = f"{file}: " if file else ""
    for section, values in layer.items():
        if section not in Config.model_fields:
            raise UserError(
                f"{origin}There is no section {section!r}. {nearest(section, Config.model_fields)}"
            )
        if not isinstance(values, Mapping):
            raise UserError(f"{origin}{section} is a section. Set its keys, as in {section}.key = value.")
        known = SECTIONS[section].model_fields
        for key in values:
            if key not in known:
                close = nearest(f"{section}.{key}", [f"{section}.{name}" for name in known])
                raise UserError(f"{origin}There is no setting {section}.{key}. {close}")


def _apply(merged: dict[str, dict[str, Any]], layer: Layer, paper_warmup: Mapping[int, int]) -> None:
    """Apply a layer, and adapt dependent settings that the layer does not set.

    T depends on the number of epochs. Section 4.3 specifies T for some numbers. For any other number, T keeps
    its fraction of the epochs. The short side in evaluation scales with the image size.
    """
    data = merged["data"]
    size, new_size, resize = (
        data.get("image_size"),
        layer.get("data", {}).get("image_size"),
        data.get("eval_resize"),
    )
    if isinstance(size, int) and isinstance(new_size, int) and isinstance(resize, int):
        data["eval_resize"] = round(resize * new_size / size)
    before = merged["optim"].get("epochs"), merged["method"].get("warmup_epochs")
    for section, values in layer.items():
        merged[section].update(values)
    epochs = merged["optim"].get("epochs")
    if None in before or epochs == before[0] or "warmup_epochs" in layer.get("method", {}):
        return
    old_epochs, warmup = before
    if not (isinstance(epochs, int) and isinstance(old_epochs, int) and isinstance(warmup, int)):
        return  # validation reports the invalid value
    if paper_warmup.get(old_epochs) == warmup and epochs in paper_warmup:
        merged["method"]["warmup_epochs"] = paper_warmup[epochs]
    else:
        merged["method"]["warmup_epochs"] = round(warmup * epochs / old_epochs)
