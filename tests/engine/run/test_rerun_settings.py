"""Settings and names of runs whose second stage is run again, with and without another method."""

import pytest

import fasticcl
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.rerun_settings import method_name, with_settings
from fasticcl.errors import UserError
from fasticcl.resolve import resolve
from tests.support.small_runs import train_tiny


def run_of(folder, method, **settings):
    options = {"engine": {"project": folder, "name": "run"}, **settings}
    return RunFolder.create(resolve("demo", method=method, options=options))


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("ce", "tau-norm", "tau-norm"),
        ("ce", "ncm", "ncm"),
        ("ce", "logit-adjustment-post-hoc", "logit-adjustment-post-hoc"),
        ("ce", "crt", "crt"),
        ("ce", "lws", "lws"),
        ("mixup", "mislas", "mislas"),
        ("ce", "oltr", "oltr"),
        ("oltr", "mislas", "ce+mislas"),
        ("ce", "mislas", "ce+mislas"),
        ("iccl", "tau-norm", "iccl+tau-norm"),
        ("focal", "tau-norm", "focal+tau-norm"),
        ("ldam-drw", "ncm", "ldam-drw+ncm"),
        ("mixup", "iccl", "mixup+iccl"),
        ("crt", "tau-norm", "tau-norm"),
        ("tau-norm", "mislas", "ce+mislas"),
        ("tau-norm", "iccl", "ce+iccl"),
        ("mislas", "ncm", "mixup+ncm"),
    ],
)
def test_the_name_states_the_first_stage_unless_the_method_has_the_same(first, second, name):
    settings = {"method": {"encoder": "resnet8"}, "optim": {"epochs": 7, "lr": 0.2}}
    config = resolve("cifar100-lt", method=first, options=settings)
    assert method_name(config, second) == name
    method = config.method.model_copy(update={"name": name})
    renamed = config.model_copy(update={"method": method})
    assert method_name(renamed, second) == name  # of the new run, which is run again


def test_a_method_brings_all_settings_of_its_second_stage(tmp_path):
    run = run_of(tmp_path, "ce", rebalance={"gamma": 0.7, "lr_factor": 3.0, "tau": 9.0})
    config = with_settings(run, {}, "crt")
    assert config.rebalance == resolve("demo", method="crt").rebalance
    assert config.method == run.config.method
    config = with_settings(run, {"rebalance": {"tau": 0.5}}, "tau-norm")
    assert (config.rebalance.readout, config.rebalance.tau) == ("tau_norm", 0.5)
    assert with_settings(run, {"rebalance": {"epochs": 2}}).rebalance.lr_factor == 3.0


def test_the_second_stage_follows_the_recipe_of_the_run(tmp_path):
    published = resolve("imagenet-lt", method="crt", recipe="published")
    options = {"engine": {"project": tmp_path, "name": "run"}}
    run = RunFolder.create(resolve("imagenet-lt", method="ce", recipe="published", options=options))
    assert with_settings(run, {}, "crt").rebalance == published.rebalance
    assert published.rebalance.lr_factor == 1.0
    options["engine"]["name"] = "fair"
    fair = RunFolder.create(resolve("imagenet-lt", method="ce", options=options))
    assert with_settings(fair, {}, "crt").rebalance.lr_factor == 0.1


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        ("focal", {"tau": 0.5}, r"The method focal has no second stage\."),
        (
            "focal",
            {},
            r"The method focal has no second stage\. Choose one of: crt, .*, tau-norm, tde\.",
        ),
        ("tau_norm", {}, r"There is no method preset 'tau_norm'\. Did you mean tau-norm\?"),
        (None, {}, r"rebalance\.epochs is 0, so there is nothing to run\. Add --set .* or --method NAME\."),
        (
            None,
            {"tau": 0.5},
            r"is used only by the readouts log_prior and tau_norm\. Add --method tau",
        ),
        (None, {"alpha": 0.5}, r"rebalance\.alpha is used only by the readout tde\. Add --method tde\."),
        ("ncm", {"alpha": 0.5}, r"The readout ncm does not use rebalance\.alpha\. Omit it"),
        (
            "crt",
            {"attention": False},
            r"no effect, because rebalance\.classifier is reinit\. Omit it, or set",
        ),
        ("crt", {"tau": 0.5}, r"rebalance\.tau is used only by the readouts"),
        ("ncm", {"tau": 0.5}, r"The readout ncm does not use rebalance\.tau\. Omit it"),
        ("tau-norm", {"gamma": 1.0}, r"The readout tau_norm does not use rebalance\.gamma\. Omit it"),
        ("tau-norm", {"epochs": 3}, r"The readout tau_norm does not use rebalance\.epochs\."),
        ("tau-norm", {"readout": "x"}, r"no readout 'x'\. Known: log_prior, ncm, tau_norm, tde, none\."),
        ("tau-norm", {"tau": -1.0}, r"rebalance\.tau: .*greater than or equal to 0"),
        ("tau-norm", {"taus": 1.0}, r"There is no setting rebalance\.taus\. Did you mean rebalance\.tau\?"),
    ],
)
def test_settings_without_effect_and_methods_of_one_stage_are_refused(tmp_path, method, settings, sentence):
    run = run_of(tmp_path, "ce")
    with pytest.raises(UserError, match=sentence):
        with_settings(run, {"rebalance": settings}, method)


def test_the_command_line_names_the_run_after_the_new_method(tiny_shards, tmp_path, run_cli):
    train_tiny(tiny_shards, tmp_path, {"rebalance.epochs": 0}, name="mine", method="ce", epochs=1)
    code, out, _ = run_cli("rebalance", tmp_path / "demo/mine", "--method", "tau-norm")
    assert code == 0
    assert "after the readout" in out
    run = tmp_path / "demo/tau-norm-1"
    assert out.rstrip().splitlines()[-1].startswith(f"Next: fasticcl report {tmp_path / 'demo/mine'} {run}")
    assert RunFolder.open(run).config.method.name == "tau-norm"
    again = fasticcl.rebalance(run, method="ncm").run
    assert again == tmp_path / "demo/ncm-1"
    assert fasticcl.rebalance(run).run == tmp_path / "demo/tau-norm-1-rebalance-1"
    assert fasticcl.rebalance(run, method="tau-norm").run == tmp_path / "demo/tau-norm-2"
