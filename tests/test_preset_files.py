"""Preset files: every table is validated, and every value has an effect."""

import re

import pytest

from fasticcl.errors import UserError
from fasticcl.preset_files import GROUPS, DatasetPreset, MethodPreset, preset_names, preset_text

METHODS = {name: MethodPreset.read(name) for name in preset_names("method")}
ABOUT = '[about]\ntitle = "T"\ngroup = "mixing"\ncitation = "C"\n'


def values(layer):
    return {f"{section}.{key}": value for section, keys in layer.items() for key, value in keys.items()}


@pytest.mark.parametrize("preset", METHODS.values(), ids=METHODS)
def test_a_method_has_its_name_a_group_and_a_citation(preset):
    assert preset.settings["method"]["name"] == preset.name
    assert preset.about.group in GROUPS
    assert re.search(r" et al\., .*20[12]\d$", preset.about.citation)
    assert preset.about.paper is None or re.search(r" in Tables? \d", preset.about.paper)


def test_methods_of_the_papers_tables_name_their_rows():
    rows = {name: preset.about.paper for name, preset in METHODS.items() if preset.about.paper}
    assert rows.keys() == {
        *("iccl", "ce", "mixup", "focal", "focal-sigmoid", "cb-focal", "ce-drw", "ce-drs", "ldam-drw"),
        *("crt", "lws", "tau-norm", "ncm", "manifold-mixup", "manifold-mixup-two-samplers", "tde"),
        *("m2m", "bbn", "oltr"),
    }
    assert rows["ce-drw"] == "CE-DRW in Tables 1 and 3"  # of ImageNet-LT (Table 2) it has no row


@pytest.mark.parametrize("preset", METHODS.values(), ids=METHODS)
def test_a_value_for_one_dataset_differs_from_the_value_for_all(preset):
    for dataset, layer in preset.datasets.items():
        assert layer
        for path, value in values(layer).items():
            assert values(preset.layer(dataset))[path] == value != values(preset.settings).get(path)


@pytest.mark.parametrize("preset", METHODS.values(), ids=METHODS)
def test_values_have_a_source_in_a_comment(preset):
    """The name, or a comment on the line, above its table or at the first of equal lines."""
    known, above = set(), False
    for line in preset_text(preset.name, "method").splitlines():
        if not line:
            above = False
        elif line.startswith("#"):
            above = True
        elif " = " in line and not line.startswith(("name", "title", "group", "paper", "citation")):
            setting, _, comment = line.partition("#")
            assert comment or above or setting.strip() in known or "class_loss" in setting, line
            known.add(setting.strip())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"\[about\] must have title, group and citation, and may have paper"),
        (ABOUT + "year = 2021\n", "must have title"),
        (ABOUT.replace("mixing", "mixng"), "no group 'mixng'. Did you mean mixing"),
        (ABOUT + "[method]\nclas_loss = 1\n", "new: There is no setting method.clas_loss"),
        (ABOUT + "[datasets.cifar-lt.method]\nname = 1\n", "no dataset preset 'cifar-lt'"),
        (ABOUT + "[datasets.demo.metod]\nname = 1\n", "new, datasets.demo: There is no section 'metod'"),
        (ABOUT + "[published.demo.optim]\nrate = 1\n", "new, published.demo: There is no setting optim.rate"),
        (ABOUT + "[published]\ndemo = 1\n", "new: published.demo must be a table"),
        (ABOUT + "[published.demo.optim]\nrecipe = 'preset'\n", "new: optim.recipe cannot be set"),
    ],
)
def test_a_wrong_table_is_one_sentence(text, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        MethodPreset.parse("new", text)
    assert "\n" not in str(raised.value)


def test_a_missing_schedule_names_the_datasets_that_have_one():
    with pytest.raises(UserError, match=r"crt for demo is known\. Known for: imagenet-lt, inat2018\. For"):
        METHODS["crt"].published("demo")
    with pytest.raises(UserError, match=r"new for demo is known\. For .* use --recipe preset"):
        MethodPreset.parse("new", ABOUT).published("demo")
    assert METHODS["iccl"].published("inat2018") == {}


def test_a_dataset_preset_has_the_papers_numbers_of_epochs():
    assert DatasetPreset.read("inat2018").paper_warmup == {90: 40, 200: 100}
    assert DatasetPreset.read("demo").paper_warmup == {}
