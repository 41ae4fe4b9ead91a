"""Settings and method name of a run whose second stage is run again."""

import shlex
from collections.abc import Iterable

from fasticcl.config import Config, Rebalance
from fasticcl.config.layers import Layer
from fasticcl.config.unused_settings import check_used
from fasticcl.engine.run.folder import CONFIG, RunFolder
from fasticcl.errors import UserError
from fasticcl.method.readouts import READOUTS, find_readout
from fasticcl.preset_files import preset_names
from fasticcl.resolve import first_stage_differences, resolve, second_stage_of

_READOUT_METHODS = {
    "tau": "--method tau-norm or --method logit-adjustment-post-hoc",
    "alpha": "--method tde",
}
"""Methods with a readout that uses a setting."""
_ALLOWED = {"engine": ("device", "workers", "report")}  # in addition to all settings of rebalance


def with_settings(run: RunFolder, settings: Layer, method: str | None = None) -> Config:
    """Return the configuration of a run with other settings of its second stage.

    The name of the method does not change, see `method_name`.

    Args:
        run: the run.
        settings: keys of ``rebalance``, and those of ``engine`` that do not affect the result.
        method: method preset whose second stage replaces that of the run, or None to change only
            ``settings``.

    Raises:
        UserError: a setting is not allowed here, unknown, out of range or not used, there is no such method,
            or the second stage is empty.
    """
    _check_sections(run, settings)
    changes = settings.get("rebalance", {})
    dataset, recipe = run.config.data.dataset, run.config.optim.recipe
    base = second_stage_of(dataset, method, recipe) if method else {}
    config = resolve(file=run.path / CONFIG, options={**settings, "rebalance": {**base, **changes}})
    if config.rebalance.enabled or not method:
        _check_used(config.rebalance, changes)
    if not config.rebalance.enabled:
        raise _nothing_to_run(run.config.data.dataset, method, "epochs" in changes)
    check_used({"rebalance": changes}, config)
    return config


def method_name(config: Config, method: str) -> str:
    """Return the name of a method whose second stage follows the first stage of a run.

    It is ``method`` if the first stage is that of this method, as cross-entropy is for ``tau-norm``.
    Otherwise it is the method of the first stage, ``+`` and ``method``, for example ``iccl+tau-norm``.

    Args:
        config: configuration of the run.
        method: method preset whose second stage is run.
    """
    name, dataset = config.method.name.partition("+")[0], config.data.dataset
    first = config.model_copy(update={"method": config.method.model_copy(update={"name": name})})
    if not first_stage_differences(first, method):
        return method
    if name in preset_names("method") and _has_second_stage(dataset, name):
        one_stage = (each for each in preset_names("method") if not _has_second_stage(dataset, each))
        name = next((each for each in one_stage if not first_stage_differences(first, each)), name)
    return f"{name}+{method}"


def _has_second_stage(dataset: str, method: str) -> bool:
    return Rebalance(**second_stage_of(dataset, method)).enabled


def _check_sections(run: RunFolder, settings: Layer) -> None:
    """Raise UserError if a setting affects the first stage."""
    for section, values in settings.items():
        if section == "rebalance" or section not in Config.model_fields:
            continue
        for key in values:
            if key not in _ALLOWED.get(section, ()):
                options = ["-c", str(run.path / CONFIG), "--name", "NEW", "--set", f"{section}.{key}=..."]
                command = shlex.join(["fasticcl", "train", *options])
                raise UserError(
                    f"{section}.{key} cannot be set here. Only rebalance.*, engine.device, engine.workers "
                    f"and engine.report can. Start a new run with: {command}"
                )


def _nothing_to_run(dataset: str, method: str | None, is_set: bool) -> UserError:
    if method is None or is_set:
        return UserError(
            "rebalance.epochs is 0, so there is nothing to run. "
            "Add --set rebalance.epochs=10, or --method NAME."
        )
    known = ", ".join(name for name in preset_names("method") if _has_second_stage(dataset, name))
    return UserError(f"The method {method} has no second stage. Choose one of: {known}.")


def _check_used(rebalance: Rebalance, changes: Iterable[str]) -> None:
    """Raise UserError if the second stage does not use a changed setting."""
    if rebalance.readout == "none":
        for key in _READOUT_METHODS.keys() & changes:
            names = [name for name, readout in READOUTS.items() if key in readout.settings]
            readouts = f"readout{'s' * (len(names) > 1)} {' and '.join(names)}"
            raise UserError(f"rebalance.{key} is used only by the {readouts}. Add {_READOUT_METHODS[key]}.")
        return
    used = ("readout", *find_readout(rebalance.readout).settings)
    for key in changes:
        if key not in used:
            raise UserError(
                f"The readout {rebalance.readout} does not use rebalance.{key}. Omit it, or choose another "
                "--method."
            )
