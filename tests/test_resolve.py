"""The configuration: the paper's settings, layers, and what is refused."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasticcl.config import Config
from fasticcl.errors import UserError
from fasticcl.preset_files import MethodPreset, preset_names
from fasticcl.resolve import (
    configure,
    first_stage_differences,
    resolve,
    second_stage_of,
    validate,
    with_settings,
)

COMMON = {  # section 4.3, "for all experiments"
    "optim.momentum": 0.9,
    "method.centroid_momentum": 0.99,
    "data.gamma": 0.0,
    "rebalance.gamma": 1.0,
    "rebalance.distillation_weight": 0.5,
    "rebalance.distillation_temperature": 10.0,
    "rebalance.lr_factor": 0.1,
    "rebalance.epochs": 10,
    "data.alpha": 1.0,
    "data.beta": 1.0,
    "method.interpolative_weight": 1.0,
}
CIFAR = {
    "method.encoder": "resnet32",
    "optim.epochs": 200,
    "optim.batch_size": 128,
    "method.embedding_dim": 32,
    "data.crop": "pad",
    "data.crop_padding": 4,
    "data.flip": 0.5,
    "data.image_size": 32,
    "optim.lr": 0.1,
    "optim.warmup_epochs": 5,
    "optim.schedule": "step",
    "optim.milestones": (0.6, 0.8),  # 120 and 160 of 200
    "optim.decay": 0.01,
    "optim.weight_decay": 2e-4,
    "method.temperature": 0.3,
    "method.uniform_weight": 0.0,
    "rebalance.encoder": "tuned",
}
LARGE = {
    "method.temperature": 0.07,
    "method.uniform_weight": 1.0,
    "method.embedding_dim": 128,
    "rebalance.encoder": "frozen",
    "optim.schedule": "cosine",
    "data.crop": "random_resized",
    "data.flip": 0.5,
    "data.image_size": 224,
    "method.warmup_epochs": 40,
    "optim.epochs": 90,
}
PAPER = {
    "cifar100-lt": COMMON | CIFAR | {"method.warmup_epochs": 80},
    "cifar10-lt": COMMON | CIFAR | {"method.warmup_epochs": 100},
    "imagenet-lt": COMMON
    | LARGE
    | {
        "method.encoder": "resnext50_32x4d",
        "optim.batch_size": 256,
        "optim.weight_decay": 5e-4,
        "optim.lr": 0.1,
        "data.color_jitter": (0.4, 0.4, 0.4),
    },
    "inat2018": COMMON
    | LARGE
    | {
        "method.encoder": "resnet50",
        "optim.batch_size": 512,
        "optim.weight_decay": 1e-4,
        "optim.lr": 0.2,
        "data.color_jitter": (0.0, 0.0, 0.0),
    },
}


SCHEDULES = [
    (dataset, name) for name in preset_names("method") for dataset in MethodPreset.read(name).schedules
]


def value(config, path):
    section, key = path.split(".")
    return getattr(getattr(config, section), key)


@pytest.mark.parametrize("dataset", PAPER)
def test_presets_are_the_papers_section_4_3(dataset):
    config = resolve(dataset)
    assert {path: value(config, path) for path in PAPER[dataset]} == PAPER[dataset]


@pytest.mark.parametrize(
    ("dataset", "epochs", "warmup"),
    [
        ("inat2018", 200, 100),  # the paper's
        ("inat2018", 180, 80),  # 40 of 90 as a share
        ("inat2018", 9, 4),
        ("imagenet-lt", 180, 80),
        ("cifar100-lt", 400, 160),
        ("cifar10-lt", 20, 10),
    ],
)
def test_t_follows_the_number_of_epochs(dataset, epochs, warmup):
    for config in (
        resolve(dataset, options={"optim": {"epochs": epochs}}),
        resolve(dataset, assignments=[f"optim.epochs={epochs}"]),
    ):
        assert config.method.warmup_epochs == warmup
        assert config.optim.epochs == epochs


@pytest.mark.parametrize(
    ("dataset", "epochs", "expected"),
    [
        ("cifar100-lt", 200, (4, 3)),
        ("cifar100-lt", 400, (8, 6)),
        ("inat2018", 100, (4, 3)),
        ("demo", 25, (2, 2)),
        ("demo", 2, (0, 0)),
        ("demo", 1, (0, 0)),
    ],
)
def test_epochs_without_mixing_at_both_ends_follow_the_number_of_epochs(dataset, epochs, expected):
    config = resolve(dataset, method="cmo", assignments=[f"optim.epochs={epochs}"])
    assert (config.method.warmup_epochs, config.method.cooldown_epochs) == expected
    phases = [config.phase(epoch) for epoch in range(epochs)]
    warmup, cooldown = expected
    assert (
        phases == ["warmup"] * warmup + ["interpolative"] * (epochs - sum(expected)) + ["warmup"] * cooldown
    )


def test_a_cooldown_that_the_user_sets_stays():
    changes = ["optim.epochs=400", "method.cooldown_epochs=3"]
    method = resolve("cifar10-lt", method="cmo", assignments=changes).method
    assert (method.warmup_epochs, method.cooldown_epochs) == (8, 3)
    shortened = resolve("demo", method="cmo", assignments=["engine.fast_dev_run=true"]).shortened()
    assert [shortened.phase(epoch) for epoch in range(shortened.optim.epochs)] == ["warmup", "interpolative"]


@pytest.mark.parametrize("epochs", [5, 6, 7])
def test_a_run_without_an_epoch_of_mixing_is_an_error(epochs):
    changes = [f"optim.epochs={epochs}", "method.warmup_epochs=4", "method.cooldown_epochs=3"]
    with pytest.raises(UserError) as error:
        resolve("demo", method="cmo", assignments=changes)
    assert str(error.value) == (
        f"{epochs} epochs leave none for mixing after method.warmup_epochs=4 and before "
        "method.cooldown_epochs=3. Lower them or raise --epochs."
    )
    eight = resolve("demo", method="cmo", assignments=["optim.epochs=8", *changes[1:]])
    assert [eight.phase(epoch) for epoch in range(8)].count("interpolative") == 1
    resolve("demo", assignments=["optim.epochs=4", "method.warmup_epochs=4"])  # all warm-up, as ever


def test_a_t_that_the_user_sets_stays():
    config = resolve("inat2018", assignments=["method.warmup_epochs=7"])
    assert config.method.warmup_epochs == 7
    both = resolve("inat2018", assignments=["optim.epochs=200", "method.warmup_epochs=7"])
    assert both.method.warmup_epochs == 7
    either = resolve("inat2018", assignments=["method.warmup_epochs=9", "optim.epochs=180"])
    assert either.method.warmup_epochs == 9


def test_the_evaluation_size_follows_the_image_size():
    assert resolve("inat2018", assignments=["data.image_size=112"]).data.eval_resize == 128
    assert (
        resolve("inat2018", assignments=["data.image_size=112", "data.eval_resize=112"]).data.eval_resize
        == 112
    )
    assert resolve("cifar10-lt", assignments=["data.image_size=16"]).data.eval_resize == 0


def test_a_method_on_the_command_line_beats_the_file(tmp_path):
    (tmp_path / "full.toml").write_text(resolve("cifar10-lt").to_toml())
    config = resolve(file=tmp_path / "full.toml", method="ce")
    assert (config.method.name, config.method.interpolative_weight, config.rebalance.epochs) == ("ce", 0, 0)


def test_phases_change_at_t():
    config = resolve("inat2018", options={"optim": {"epochs": 200}})
    assert [config.phase(epoch) for epoch in (0, 99, 100, 199)] == [
        "warmup",
        "warmup",
        "interpolative",
        "interpolative",
    ]
    assert {resolve("inat2018", method="ce").phase(epoch) for epoch in range(90)} == {"warmup"}
    assert {resolve("inat2018", method="mixup").phase(epoch) for epoch in range(90)} == {"interpolative"}


@pytest.mark.parametrize(
    ("start", "epochs", "first"),
    [
        (0.0, 90, 0),
        (0.55, 100, 55),
        (0.8, 200, 160),
        (2 / 3, 90, 60),
        (0.5, 3, 2),
        (0.999, 90, None),
        (1.0, 90, None),
    ],
)
def test_start_of_resampling_and_class_weights_is_an_epoch_or_never(start, epochs, first):
    options = {"data": {"resample_start": start}, "optim": {"epochs": epochs}}
    weights = {"class_weight_start": start, "class_weight_beta": 0.9}
    config = resolve("inat2018", options=options | {"method": weights})
    assert config.resample_epoch == config.class_weight_epoch == first
    assert (
        resolve("inat2018", options={"method": weights | {"class_weight_beta": 0}}).class_weight_epoch is None
    )


def test_m2m_has_a_seed_stage_unless_it_has_a_seed_run_or_never_translates():
    assert resolve("demo", method="m2m").seed_epochs == 50
    assert resolve("demo", method="ce-drs").seed_epochs == 0
    for assignment in ("method.seed_run=run", "optim.epochs=1"):
        assert resolve("demo", method="m2m", assignments=[assignment]).seed_epochs == 0
    with pytest.raises(UserError, match=r"resample_start on, which is 1 \(never\)\. Lower it, for example"):
        resolve("demo", method="ce", assignments=["method.first_stage=m2m"])


def test_a_recipe_without_a_schedule_or_set_otherwise_is_one_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"schedule of crt for demo is known\. Known for: imagenet-lt, inat2018"
    ):
        resolve("demo", method="crt", recipe="published")
    for options in (
        {"options": {"optim": {"recipe": "published"}}},
        {"assignments": ["optim.recipe=preset"]},
    ):
        with pytest.raises(UserError, match=r"optim\.recipe cannot be set\. Use --recipe published\."):
            resolve("demo", **options)
    (tmp_path / "mine.toml").write_text('[optim]\nrecipe = "published"\n')
    with pytest.raises(
        UserError, match=r"mine\.toml: optim\.recipe cannot be set\. Use --recipe published\."
    ):
        resolve("demo", file=tmp_path / "mine.toml")
    with pytest.raises(UserError, match=r"no recipe 'publishd'\. Did you mean published"):
        resolve("demo", recipe="publishd")


def test_a_recipe_precedes_options():
    config = resolve("imagenet-lt", method="crt", recipe="published", assignments=["optim.lr=0.3"])
    assert (config.optim.lr, config.optim.batch_size, config.rebalance.lr_factor) == (0.3, 512, 1.0)


@pytest.mark.parametrize("method", preset_names("method"))
@pytest.mark.parametrize(
    ("old", "old_recipe"), [("ldam-drw", None), ("mislas", "published"), ("logit-adjustment", "published")]
)
def test_a_method_or_recipe_replaces_that_of_a_file(tmp_path, method, old, old_recipe):
    """Nothing of the old method remains, but the changes of the user do."""
    changes = ["data.imbalance=50", "engine.seed=3", "method.encoder=resnet8"]
    file, dataset = tmp_path / "run.toml", "cifar100-lt"
    file.write_text(resolve(dataset, method=old, recipe=old_recipe, assignments=changes).to_toml())
    for recipe in ("preset", *(["published"] if (dataset, method) in SCHEDULES else [])):
        expected = resolve(dataset, method=method, recipe=recipe, assignments=changes)
        assert resolve(file=file, method=method, recipe=recipe) == expected
    fair = resolve(dataset, method=old, assignments=changes)
    assert resolve(file=file, recipe="preset") == fair
    assert resolve(file=file, method=method, recipe="preset").optim == fair.optim


def test_a_method_replaces_both_methods_of_a_rebalanced_run(tmp_path):
    second = second_stage_of("demo", "tau-norm") | {"tau": 0.3}
    options = {"method": {"name": "iccl+tau-norm"}, "rebalance": second, "engine": {"seed": 3}}
    (tmp_path / "run.toml").write_text(resolve("demo", options=options).to_toml())
    config = resolve(file=tmp_path / "run.toml", method="crt")
    expected = resolve("demo", method="crt", assignments=["engine.seed=3", "rebalance.tau=0.3"])
    assert config == expected


def test_a_file_keeps_its_recipe_for_another_method(tmp_path):
    (tmp_path / "run.toml").write_text(resolve("inat2018", method="lws", recipe="published").to_toml())
    config = resolve(file=tmp_path / "run.toml", method="crt")
    assert config == resolve("inat2018", method="crt", recipe="published")
    with pytest.raises(UserError, match=r"of mixup for inat2018 is known\. .* use --recipe preset\."):
        resolve(file=tmp_path / "run.toml", method="mixup")


def test_the_second_stage_of_a_method_replaces_that_of_another():
    names = preset_names("method")
    for dataset in preset_names():
        for method in names:
            stage = second_stage_of(dataset, method)
            assert stage == resolve(dataset, method=method).rebalance.model_dump()
            other = resolve(dataset, method="mislas", options={"rebalance": stage})
            assert other.rebalance.model_dump() == stage
    assert second_stage_of("cifar10-lt", "mislas")["classifier_lr_factor"] == 0.5
    assert second_stage_of("inat2018", "crt", "published")["epochs"] == 30
    assert second_stage_of("demo", "crt", "published") == second_stage_of("demo", "crt")


def test_the_first_stage_of_a_run_differs_from_another_methods():
    for method in ("ce", "crt", "lws", "tau-norm", "ncm", "logit-adjustment-post-hoc"):
        config = resolve("demo", method="ce", assignments=["method.encoder=resnet8", "optim.epochs=9"])
        assert first_stage_differences(config, method) == {}
    assert first_stage_differences(resolve("cifar10-lt", method="mislas"), "mixup") == {}
    differences = first_stage_differences(resolve("cifar10-lt", method="ldam-drw"), "crt")
    assert differences["method.class_loss"] == ("ldam", "cross_entropy")
    assert differences["method.class_weight_start"] == (0.6, 0.0)
    published = resolve("cifar10-lt", method="ce-drw", recipe="published")
    assert first_stage_differences(published, "ce-drw") == {}
    own = resolve("demo", method="ce", assignments=["method.name=mine", "method.interpolative_weight=1"])
    assert first_stage_differences(own, "ce") == {"method.interpolative_weight": (1.0, 0.0)}


@pytest.mark.parametrize("imbalance", [100, 50, 10])
def test_cifar_takes_an_imbalance(imbalance):
    config = resolve("cifar10-lt", options={"data": {"imbalance": imbalance}})
    assert config.data.imbalance == imbalance


@pytest.mark.parametrize("dataset", preset_names())
@pytest.mark.parametrize("method", [None, *preset_names("method")])
def test_what_is_printed_reads_back_as_the_same(dataset, method, tmp_path):
    for recipe in ("preset", *(["published"] if (dataset, method) in SCHEDULES else [])):
        assignments = ["optim.lr=0.123", 'engine.name="ä\\"b"']
        config = resolve(dataset, method=method, recipe=recipe, assignments=assignments)
        assert config.optim.recipe == recipe
        (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        assert resolve(file=tmp_path / "config.toml") == config


@given(
    lr=st.floats(1e-12, 1e6),
    gamma=st.floats(-1e3, 1e3),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/."), min_size=1),
    mean=st.tuples(*[st.floats(-3, 3)] * 3),
)
@settings(max_examples=50, deadline=None)
def test_any_value_survives_the_file(lr, gamma, name, mean):
    base = resolve("inat2018").model_dump()
    base["optim"]["lr"], base["data"]["gamma"], base["engine"]["name"], base["data"]["mean"] = (
        lr,
        gamma,
        name,
        mean,
    )
    config = validate(base)
    assert Config.model_validate(tomllib.loads(config.to_toml())) == config


def test_later_layers_win(tmp_path):
    (tmp_path / "mine.toml").write_text("[optim]\nlr = 0.5\nbatch_size = 8\n[engine]\nseed = 4\n")
    config = resolve(
        "imagenet-lt",
        method="ce",
        file=tmp_path / "mine.toml",
        options={"optim": {"batch_size": 16}},
        assignments=["engine.seed=9"],
    )
    assert (config.optim.lr, config.optim.batch_size, config.engine.seed) == (0.5, 16, 9)
    assert config.method.name == "ce"
    assert config.optim.weight_decay == 5e-4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dataset": "inat2017"}, r"no dataset preset 'inat2017'\. Did you mean inat2018"),
        ({"dataset": None}, "Specify a dataset"),
        ({"dataset": "demo", "method": "icl"}, r"no method preset 'icl'\. Did you mean iccl"),
        ({"dataset": "demo", "assignments": ["method.temprature=1"]}, "Did you mean method.temperature"),
        ({"dataset": "demo", "assignments": ["optin.lr=1"]}, "no section 'optin'. Did you mean optim"),
        ({"dataset": "demo", "assignments": ["lr=1"]}, "expects section.key=value"),
        ({"dataset": "demo", "assignments": ["optim.lr"]}, "expects section.key=value"),
        ({"dataset": "demo", "assignments": ["optim.lr=fast"]}, "optim.lr: .*'fast'"),
        ({"dataset": "demo", "assignments": ["optim.lr=-1"]}, "optim.lr: .*greater than 0.*-1"),
        ({"dataset": "demo", "assignments": ["data.crop=middle"]}, "data.crop: .*'random_resized' or 'pad'"),
        ({"dataset": "demo", "assignments": ["data.crop_scale=[1.0, 0.5]"]}, "the lower value first"),
        (
            {"dataset": "inat2018", "assignments": ["data.eval_resize=200"]},
            "eval_resize .* smaller than",
        ),
        ({"dataset": "demo", "assignments": ["method.name=../../x"]}, "method.name: "),
        ({"dataset": "demo", "assignments": ["data.dataset=inat2018"]}, "data.dataset cannot be set"),
        ({"dataset": "demo", "assignments": ["data.std=[0, 1, 1]"]}, "data.std"),
        (
            {"dataset": "demo", "assignments": ["optim.nesterov=true", "optim.momentum=0"]},
            "requires momentum",
        ),
        ({"dataset": "inat2018", "options": {"data": {"imbalance": 50}}}, "--imbalance applies only to"),
        ({"dataset": "cifar10-lt", "options": {"data": {"imbalance": 7}}}, "data.imbalance: .*100, 50 or 10"),
        ({"dataset": "demo", "assignments": ["optim.epochs=ten"]}, "optim.epochs: "),
        ({"dataset": "demo", "assignments": ["engine.name=../elsewhere"]}, "engine.name: "),
        ({"dataset": "demo", "assignments": ["data.gamma=inf"]}, "data.gamma: .*finite"),
        (
            {
                "dataset": "cifar10-lt",
                "assignments": [
                    "method.interpolative_cross_entropy=false",
                    "method.centroid_contrastive=false",
                ],
            },
            "all losses after the warm-up are disabled",
        ),
        (
            {
                "dataset": "demo",
                "method": "manifold-mixup",
                "assignments": ["method.uniform_weight=1", "method.interpolative_cross_entropy=false"],
            },
            "method.mixup_after has no effect, because the losses of mixed states are disabled. Enable",
        ),
        (
            {"dataset": "demo", "method": "manifold-mixup", "assignments": ["data.mixing=mixup"]},
            "method.mixup_after mixes features, not images. Set data.mixing=none",
        ),
        (
            {"dataset": "demo", "method": "manifold-mixup", "assignments": ["method.mixup_after=none"]},
            "data.mixing=none requires method.mixup_after or method.first_stage=bbn",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        resolve(**arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"[data\n", "is not a TOML file"),
        (b"\xff\xfe", "is not a TOML file"),
        (b"lr = 1\n", "no section 'lr'"),
        (b"optim = 1\n", "optim is a section"),
        (b"[optim]\nlearning_rate = 1\n", "no setting optim.learning_rate"),
        (b"data = 3\n", "data is a section"),
        (b"[data]\ndataset = 3\n", "data.dataset must be a name, got 3"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, text, sentence):
    (tmp_path / "config.toml").write_bytes(text)
    with pytest.raises(UserError, match=sentence):
        resolve("demo", file=tmp_path / "config.toml")


def test_a_file_of_another_dataset_or_none_is_named(tmp_path):
    (tmp_path / "config.toml").write_text('[data]\ndataset = "inat2018"\n')
    with pytest.raises(UserError, match="is a configuration for inat2018, not for demo"):
        resolve("demo", file=tmp_path / "config.toml")
    with pytest.raises(UserError, match=r"Cannot read the configuration .*nowhere.toml: No such file"):
        resolve("demo", file=tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("settings", "warmup"),
    [
        ({"optim": {"epochs": 90}}, 40),  # the paper's T
        ({"optim": {"epochs": 60}}, 30),  # 100 of 200
        ({"optim": {"epochs": 60}, "method": {"warmup_epochs": 7}}, 7),
        ({"optim": {"lr": 0.5}}, 100),
    ],
)
def test_settings_on_top_of_a_configuration_keep_the_share_of_t(settings, warmup):
    config = with_settings(configure("inat2018", epochs=200), settings)
    assert config.method.warmup_epochs == warmup
    assert config.optim.epochs == settings["optim"].get("epochs", 200)


def test_unknown_setting_on_top_of_a_configuration_is_refused():
    with pytest.raises(UserError, match=r"There is no setting optim\.rate"):
        with_settings(configure("demo"), {"optim": {"rate": 1}})
