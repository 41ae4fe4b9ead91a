"""Layers: assignments, their union, and the errors of unknown keys."""

import pytest

from fasticcl.config.layers import as_layer, assignment, check_keys, merge
from fasticcl.errors import UserError


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("optim.lr=0.1", {"optim": {"lr": 0.1}}),
        (" optim.lr = 1e-3", {"optim": {"lr": 1e-3}}),
        ("method.encoder=resnet8", {"method": {"encoder": "resnet8"}}),
        ("optim.milestones=[0.5, 0.75]", {"optim": {"milestones": [0.5, 0.75]}}),
        ('engine.name="a=b.c"', {"engine": {"name": "a=b.c"}}),
    ],
)
def test_an_assignment_is_a_toml_value_or_else_a_string(text, layer):
    assert assignment(text) == layer


def test_settings_are_a_mapping_several_assignments_or_one():
    expected = {"optim": {"lr": 0.1}, "data": {"gamma": 1}}
    assert as_layer({"optim.lr": 0.1, "data.gamma": 1}) == expected
    assert as_layer(["optim.lr=0.1", "data.gamma=1"]) == expected
    assert as_layer("optim.lr=0.1") == {"optim": {"lr": 0.1}}


def test_later_layers_override_single_keys():
    assert merge([{"optim": {"lr": 1, "epochs": 2}}, {"optim": {"lr": 3}, "data": {}}]) == {
        "optim": {"lr": 3, "epochs": 2},
        "data": {},
    }


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ({"optin": {}}, r"^here: There is no section 'optin'\. Did you mean optim\?$"),
        ({"optim": 1}, r"^here: optim is a section\. Set its keys, as in optim\.key = value\.$"),
        ({"optim": {"ir": 1}}, r"^here: There is no setting optim\.ir\. Did you mean optim\.lr\?$"),
    ],
)
def test_an_unknown_key_raises_an_error_that_starts_with_its_origin(layer, sentence):
    with pytest.raises(UserError, match=sentence):
        check_keys(layer, "here")
    with pytest.raises(UserError, match=sentence.replace("here: ", "")):
        merge([layer])
