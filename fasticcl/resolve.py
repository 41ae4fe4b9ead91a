"""Resolve the configuration of a run from layers.

Later layers override earlier ones: the dataset preset, a file (``--config``), a method preset (``--method``),
its published schedule (``--recipe published``), then options and ``--set``. An unknown key raises an error
that names the nearest known key.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, get_args

from pydantic import ValidationError

from fasticcl.config import SECTIONS, Config, Recipe
from fasticcl.config.layers import Layer, assignment, check_keys, merge
from fasticcl.config.unused_settings import check_used
from fasticcl.errors import UserError, nearest
from fasticcl.options import SETTINGS, TrainOptions
from fasticcl.preset_files import DatasetPreset, MethodPreset, preset_names


def configure(
    dataset: str | None = None,
    *,
    method: str | None = None,
    recipe: Recipe | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    **options: Unpack[TrainOptions],
) -> Config:
    """Return the configuration that `fasticcl.train` would use with the same arguments.

    Raises:
        UserError: an unknown name, an invalid value, or a setting that has no effect.
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
    assignments = () if isinstance(set, Mapping) else [set] if isinstance(set, str) else [*set]
    resolved = resolve(
        dataset,
        method=method,
        recipe=recipe,
        file=Path(config) if config else None,
        options=layer,
        assignments=assignments,
    )
    check_used(merge([layer, *map(assignment, assignments)]), resolved)
    return resolved


def resolve(
    dataset: str | None = None,
    *,
    method: str | None = None,
    recipe: Recipe | None = None,
    file: Path | None = None,
    options: Layer | None = None,
    assignments: Iterable[str] = (),
) -> Config:
    """Return the configuration that results from the layers. Later layers override earlier ones.

    Args:
        dataset: name of a dataset preset. None: the dataset named in ``file``.
        method: name of a method preset. None: that of ``file``, or else iccl.
        recipe: "preset": the schedule of the dataset preset. "published": the one that the authors of the
            method published for the dataset. None: that of ``file``, or else "preset".
        file: TOML file with any part of the configuration.
        options: settings by section and key.
        assignments: settings as ``section.key=value``.

    Raises:
        UserError: an unknown preset, section or key, or an invalid value.
    """
    from_file = _read(file) if file else {}
    preset = DatasetPreset.read(_dataset_name(dataset, file, from_file))
    # Options and --set form one layer, so their order on the command line does not matter.
    settings = merge([options or {}, *map(assignment, assignments)])
    if "recipe" in settings.get("optim", {}):
        raise UserError("optim.recipe cannot be set. Use --recipe published.")
    layers = [preset.settings, from_file]
    if method or recipe:
        layers = [preset.settings, *_method_layers(preset.name, method, recipe, from_file)]
    merged: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for layer in [*layers, settings]:
        _apply(merged, layer, preset.paper_warmup)
    if merged["data"].get("imbalance") and "imbalance" not in preset.settings["data"]:
        raise UserError(f"--imbalance applies only to cifar10-lt and cifar100-lt. Omit it for {preset.name}.")
    if merged["data"].get("dataset") != preset.name:
        raise UserError(f"data.dataset cannot be set. Pass it as an argument: fasticcl train {preset.name}.")
    return validate(merged)


def with_settings(config: Config, settings: Layer) -> Config:
    """Return a configuration with other settings, as a layer above all others.

    With another number of epochs, T and the cooldown keep their share of the epochs, as in `resolve`.

    Raises:
        UserError: an unknown section or key, or an invalid value.
    """
    merged = config.model_dump()
    check_keys(settings)
    _apply(merged, settings, DatasetPreset.read(config.data.dataset).paper_warmup)
    return validate(merged)


def _dataset_name(dataset: str | None, file: Path | None, from_file: Layer) -> str:
    """Return the dataset from the argument or the file, which must not contradict each other."""
    named = from_file.get("data", {}).get("dataset")
    if named is not None and not isinstance(named, str):
        raise UserError(f"{file}: data.dataset must be a name, got {named!r}.")
    if dataset and named and dataset != named:
        raise UserError(f"{file} is a configuration for {named}, not for {dataset}. Omit one of the two.")
    if not (dataset or named):
        raise UserError(f"Specify a dataset to train on: {', '.join(preset_names())}.")
    return dataset or named or ""


def _method_layers(dataset: str, method: str | None, recipe: str | None, from_file: Layer) -> list[Layer]:
    """Return the layers of a file, a method and its published schedule.

    The arguments replace the method and the recipe of the file, together with all settings that the file has
    from their presets.
    """
    named, written = from_file.get("method", {}).get("name"), from_file.get("optim", {}).get("recipe")
    if isinstance(named, str) and (unchanged := named_presets(dataset, named, written)):
        from_file = _without_presets(from_file, unchanged)
    preset, recipe = MethodPreset.read(method or named or "iccl"), recipe or written or "preset"
    if recipe not in (known := get_args(Recipe)):
        raise UserError(f"There is no recipe {recipe!r}. {nearest(recipe, known)}")
    published = preset.published(dataset) if recipe == "published" else {}
    return [from_file, preset.layer(dataset), published, {"optim": {"recipe": recipe}}]


def _without_presets(from_file: Layer, presets: Config) -> Layer:
    """Return the settings of a file that differ from those of its presets."""
    unchanged = presets.model_dump(mode="json")
    return {
        section: {key: value for key, value in values.items() if unchanged[section][key] != value}
        for section, values in from_file.items()
    }


def named_presets(
    dataset: str, method: str, recipe: Recipe | None = None, options: Layer | None = None
) -> Config | None:
    """Return the configuration of the presets that the method name of a run stands for.

    `fasticcl rebalance --method` appends the method of the second stage to the name, as in ``iccl+lws``.

    Args:
        dataset: name of a dataset preset.
        method: the name.
        recipe: as in `resolve`, but "preset" if no schedule was published for the dataset.
        options: other settings.

    Returns:
        The configuration, or None if the name does not consist of method presets.
    """
    first, *second = method.split("+")
    if not {first, *second} <= {*preset_names("method")}:
        return None
    layers = [options or {}]
    for name in second:
        layers.append({"method": {"name": method}, "rebalance": second_stage_of(dataset, name, recipe)})
    return resolve(dataset, method=first, recipe=_if_published(recipe, first, dataset), options=merge(layers))


def _if_published(recipe: Recipe | None, method: str, dataset: str) -> Recipe | None:
    """Return the recipe, or None if no schedule of the method was published for the dataset."""
    return recipe if dataset in MethodPreset.read(method).schedules else None


def second_stage_of(dataset: str, method: str, recipe: Recipe | None = None) -> dict[str, Any]:
    """Return the settings of the second stage of a method: all keys of the section ``rebalance``.

    They are the defaults, overridden by the dataset preset and then by the method preset, including its
    settings for this dataset. Because all keys are present, they replace those of another method completely,
    as ``options={"rebalance": second_stage_of(...)}``. A method of one stage has ``epochs`` 0 and no readout.

    Args:
        dataset: name of a dataset preset.
        method: name of a method preset.
        recipe: as in `resolve`, but "preset" if no schedule was published for the dataset.

    Raises:
        UserError: an unknown preset.
    """
    recipe = _if_published(recipe, method, dataset)
    return resolve(dataset, method=method, recipe=recipe).rebalance.model_dump()


def first_stage_differences(config: Config, method: str) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which the first stage of a run differs from that of a method.

    Only settings of the sections ``data`` and ``method`` that the preset of one of both methods sets are
    compared, so an encoder or a schedule that the user has chosen is not a difference. If the run uses the
    published schedule of its method, it is compared with the published one of the other method.

    Args:
        config: the configuration of the run.
        method: name of a method preset.

    Returns:
        (value of the run, value of the method) by section.key.

    Raises:
        UserError: there is no method preset with this name.
    """
    dataset = config.data.dataset
    methods = [method, *({config.method.name} & set(preset_names("method")))]
    layers = [MethodPreset.read(name).layer(dataset) for name in methods]
    recipe = _if_published(config.optim.recipe, method, dataset)
    expected = resolve(dataset, method=method, recipe=recipe).model_dump()
    actual = config.model_dump()
    paths = {
        (section, key) for layer in layers for section in ("data", "method") for key in layer.get(section, {})
    }
    return {
        f"{section}.{key}": (actual[section][key], expected[section][key])
        for section, key in sorted(paths - {("method", "name")})
        if actual[section][key] != expected[section][key]
    }


def validate(values: Layer) -> Config:
    """Return a configuration with these settings.

    Raises:
        UserError: an unknown section or key, or an invalid value.
    """
    check_keys(values)
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
    """Return the settings of a file, which is a part of a configuration or a complete one."""
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read the configuration {file}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a TOML file: {error}.") from None
    check_keys(settings, str(file))
    # The configuration of a run has all sections, so its schedule is the one that the recipe names.
    if "recipe" in settings.get("optim", {}) and settings.keys() != SECTIONS.keys():
        raise UserError(f"{file}: optim.recipe cannot be set. Use --recipe published.")
    return settings


def _apply(merged: dict[str, dict[str, Any]], layer: Layer, paper_warmup: Mapping[int, int]) -> None:
    """Apply a layer, and adapt dependent settings that the layer does not set.

    T depends on the number of epochs. Section 4.3 specifies T for some numbers. For any other number, T keeps
    its fraction of the epochs, and so does the cooldown. The short side in evaluation scales with the image
    size.
    """
    data = merged["data"]
    size, new_size, resize = (
        data.get("image_size"),
        layer.get("data", {}).get("image_size"),
        data.get("eval_resize"),
    )
    if isinstance(size, int) and isinstance(new_size, int) and isinstance(resize, int):
        data["eval_resize"] = round(resize * new_size / size)
    old_epochs = merged["optim"].get("epochs")
    for section, values in layer.items():
        merged[section].update(values)
    epochs, method = merged["optim"].get("epochs"), merged["method"]
    if epochs == old_epochs or not (isinstance(epochs, int) and isinstance(old_epochs, int)):
        return  # validation reports an invalid value
    for name in {"warmup_epochs", "cooldown_epochs"} - layer.get("method", {}).keys():
        count = method.get(name)
        if name == "warmup_epochs" and paper_warmup.get(old_epochs) == count and epochs in paper_warmup:
            method[name] = paper_warmup[epochs]
        elif isinstance(count, int):
            method[name] = round(count * epochs / old_epochs)
